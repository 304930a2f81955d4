use super::*;
use crate::schedule::judge::{Event, Scope, Situation, Verdict, judge};
use crate::smtp::reply::Stage;

fn reply(text: &str) -> Reply {
    let (code, rest) = text.split_once(' ').expect("code and text");
    Reply::new(code.parse().expect("a code"), rest)
}

/// What the large providers and the usual servers say, at the stage where they say it, and whose mail waits for it.
#[test]
fn wordings_of_providers_and_servers() {
    use Scope::*;
    use Stage::*;
    use Verdict::*;
    let table = [
        // ringpost, where a destination or a sender has its share of the queue
        (
            Rcpt,
            "452 4.3.1 Too much mail is waiting for this recipient's destination, try later",
            (Recipient, Defer),
        ),
        (
            Mail,
            "452 4.3.1 Too much of your mail is waiting, try later",
            (Message, Defer),
        ),
        // Gmail
        (
            FinalDot,
            "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited. For more information, go to https://support.google.com/mail/?p=UnsolicitedRateLimitError to review our Bulk Email Senders Guidelines. x-gsmtp",
            (NextHop, Throttle),
        ),
        (
            FinalDot,
            "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your SPF domain [spam.test 35]. To protect our users from spam, mail sent from your domain has been temporarily rate limited. - gsmtp",
            (Sender, Defer),
        ),
        (
            FinalDot,
            "421 4.7.26 Your email has been rate limited because it is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM. - gsmtp",
            (Sender, Defer),
        ),
        (
            FinalDot,
            "421 4.7.0 [192.0.2.1 15] Our system has detected that this message is suspicious due to the very low reputation of the sending domain. - gsmtp",
            (Sender, Defer),
        ),
        (
            FinalDot,
            "421 4.7.0 [192.0.2.1 15] Our system has detected that this message is suspicious due to the nature of the content and/or the links within. - gsmtp",
            (Message, Defer),
        ),
        (
            FinalDot,
            "421 4.7.23 The IP address sending this message does not have a PTR record, or the PTR record does not match. - gsmtp",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. - gsmtp",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "452 4.2.2 The email account that you tried to reach is over quota. - gsmtp",
            (Recipient, Defer),
        ),
        (
            FinalDot,
            "451 4.3.0 Mail server temporarily rejected message. - gsmtp",
            (Message, Defer),
        ),
        (
            Rcpt,
            "452 4.5.3 Your message has too many recipients. - gsmtp",
            (Recipient, NextTransaction),
        ),
        // Exchange Online, Outlook.com, Exchange
        (
            Rcpt,
            "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)",
            (NextHop, Throttle),
        ),
        (Mail, "451 4.7.500 x", (NextHop, Throttle)),
        (
            Rcpt,
            "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)",
            (NextHop, Throttle),
        ),
        (
            FinalDot,
            "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded",
            (Message, Defer),
        ),
        (
            FinalDot,
            "432 4.3.2 STOREDRV.Deliver; mailbox database thread limit exceeded",
            (Message, Defer),
        ),
        (
            Mail,
            "421 4.3.2 The maximum number of concurrent server connections has exceeded a limit, closing transmission channel",
            (NextHop, Throttle),
        ),
        (
            Mail,
            "452 4.3.1 Insufficient system resources",
            (Message, Defer),
        ),
        (
            FinalDot,
            "452 4.3.1 Insufficient system resources",
            (Message, Defer),
        ),
        (Mail, "451 4.4.5 x", (NextHop, Throttle)),
        // Yahoo
        (
            Mail,
            "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
            (NextHop, Throttle),
        ),
        (
            Mail,
            "451 Message temporarily deferred - [160]",
            (Message, Defer),
        ),
        // GMX, web.de: no enhanced status codes
        (
            Mail,
            "421 Rate limit reached. Please try again later",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "450 Requested mail action not taken: mailbox unavailable",
            (Recipient, Defer),
        ),
        (
            Mail,
            "450 Requested mail action not taken: mailbox unavailable",
            (Sender, Defer),
        ),
        (
            FinalDot,
            "451 Requested action aborted: local error in processing",
            (Message, Defer),
        ),
        // Postfix: smtpd, anvil, postscreen, policy services, milters
        (
            Rcpt,
            "450 4.3.2 Service currently unavailable",
            (NextHop, Throttle),
        ),
        (
            Mail,
            "450 4.7.1 Error: too much mail from 192.0.2.1",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "450 4.7.1 Error: too many recipients from 192.0.2.1",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "450 4.7.1 Error: too many connections from 192.0.2.1",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "421 4.7.0 mx.b.test Error: too many connections from 192.0.2.1",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "451 4.7.1 <smtp3.a.test[192.0.2.1]>: Client host rejected: Please try again slower",
            (NextHop, Throttle),
        ),
        (Rcpt, "450 4.7.25 x", (NextHop, Throttle)),
        (
            Rcpt,
            "450 4.7.1 <mail.a.test>: Helo command rejected: Host not found",
            (NextHop, Throttle),
        ),
        (
            Rcpt,
            "450 4.1.8 <s@spam.test>: Sender address rejected: Domain not found",
            (Sender, Defer),
        ),
        (
            Rcpt,
            "450 4.1.1 <r@b.test>: Recipient address rejected: unverified address: rate limit",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "450 4.2.0 <r@b.test>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/b.test.html",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "451 4.7.1 <r@b.test>: Recipient address rejected: Greylisting in action, please come back later",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "450 4.7.1 <unknown[192.0.2.1]>: Client host rejected: Greylisted for 300 seconds",
            (Recipient, Defer),
        ),
        (Rcpt, "450 4.7.1 x", (Recipient, Defer)),
        (Mail, "451 4.7.24 SPF validation failed", (Sender, Defer)),
        (Mail, "451 4.7.24 x", (Sender, Defer)),
        (
            Rcpt,
            "450 4.7.24 <s@spam.test>: Sender address rejected: SPF temporary error",
            (Sender, Defer),
        ),
        (
            Rcpt,
            "451 4.3.5 Server configuration error",
            (Recipient, Defer),
        ),
        (
            Data,
            "451 4.7.1 Service unavailable - try again later",
            (Message, Defer),
        ),
        (FinalDot, "421 4.3.0 x", (Message, Defer)),
        (
            Rcpt,
            "421 4.4.2 mx.b.test Error: timeout exceeded",
            (Connection, Defer),
        ),
        // Beside a rate somebody or something is named.
        (
            Mail,
            "450 4.7.1 Sender rate limit exceeded, try again later",
            (Sender, Defer),
        ),
        (
            Mail,
            "451 4.7.1 Too many messages from this sender, try again later",
            (Sender, Defer),
        ),
        (
            Mail,
            "450 4.7.1 <s@spam.test>: rate limit exceeded for sender",
            (Sender, Defer),
        ),
        (
            Mail,
            "451 4.7.0 Temporary rate limit for domain spam.test",
            (Sender, Defer),
        ),
        (
            FinalDot,
            "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail containing one of your URL domains. - gsmtp",
            (Sender, Defer),
        ),
        (
            Rcpt,
            "450 4.7.1 Rate limit exceeded for this recipient",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "451 4.7.1 Throttled: too many connections for this mailbox",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "452 4.3.2 Mailbox is being moved, try later",
            (Recipient, Defer),
        ),
        (
            Rcpt,
            "451 4.3.2 Recipient mailbox temporarily unavailable",
            (Recipient, Defer),
        ),
        (Rcpt, "450 too much mail for this user", (Recipient, Defer)),
        (
            FinalDot,
            "451 4.7.1 Too many messages with this content",
            (Message, Defer),
        ),
        (
            FinalDot,
            "451 4.7.1 message has a link to a server with bad ip reputation",
            (Message, Defer),
        ),
        (
            FinalDot,
            "450 4.7.1 SURBL hit: too many emails with http://x.test/",
            (Message, Defer),
        ),
        (
            FinalDot,
            "451 4.7.1 Rejected by header Subject: too many connections",
            (Message, Defer),
        ),
        // Outlook.com
        (
            Mail,
            "421 RP-001 The mail server IP connecting to Outlook.com server has exceeded the rate limit allowed.",
            (NextHop, Throttle),
        ),
        // rspamd
        (FinalDot, "451 4.7.1 Try again later", (Message, Defer)),
        (
            FinalDot,
            "451 4.7.1 Ratelimit \"to_ip\" exceeded",
            (NextHop, Throttle),
        ),
        (
            FinalDot,
            "451 4.7.1 Ratelimit \"to\" exceeded",
            (Message, Defer),
        ),
        (
            FinalDot,
            "451 4.7.1 Ratelimit \"bounce_to\" exceeded",
            (Message, Defer),
        ),
        (
            FinalDot,
            "451 4.7.1 Ratelimit \"user\" exceeded",
            (Sender, Defer),
        ),
        (
            FinalDot,
            "451 4.7.1 Rate-limit exceeded",
            (NextHop, Throttle),
        ),
    ];
    for (stage, text, expected) in table {
        let reply = reply(text);
        let got = judge(stage, Event::Reply(&reply), Situation::default());
        assert_eq!(got, expected, "{stage:?} {text}");
        let shouted = Reply::new(reply.code, &reply.lines.join("\n").to_uppercase());
        let heard = scope_of(&reply, Echoes::NONE);
        assert_eq!(scope_of(&shouted, Echoes::NONE), heard, "{text}");
    }
}

#[test]
fn addresses_that_a_reply_echoes_do_not_speak() {
    let echoes = [
        "451 4.7.1 <too.many.connections@spam.test>: not now",
        "451 4.7.1 <\"too many connections\"@spam.test>: not now",
        "451 4.7.1 \"too many connections\"@spam.test: not now",
        "451 4.7.1 \"ratelimit\"@spam.test: not now",
        "451 4.7.1 ratelimit@spam.test: not now",
        "451 4.7.1 ratelimit.spam.test has no MX",
        "451 4.7.1 see http://b.test/?s=your-ip&rate-limit",
        "451 4.7.1 header \"Subject: server busy, slow down\" is not wanted",
        "451 4.7.1 header \"Subject: server busy, slow down",
        "451 4.7.1 prestige limits",
        // A bracket or a quote within a quoted string closes nothing.
        "451 4.3.0 <\"x> too many connections \"@spam.test>: Temporary lookup failure",
        "451 Could not complete sender verify callout for <\"x> rate limit <\"@spam.test>",
        "451 4.3.0 <\"x\\\"> server busy <\"@spam.test>: not now",
        "451 4.3.0 \"x\\\" server busy \"@spam.test: not now",
        // What is left out joins nothing.
        "451 4.3.0 too many a@spam.test connections",
        "451 4.3.0 too many <a@spam.test> connections",
    ];
    for text in echoes {
        assert_eq!(scope_of(&reply(text), Echoes::NONE), None, "{text}");
    }
}

fn cut_short(text: &str) -> String {
    let count = text.chars().count();
    text.chars().take(count - 2).collect()
}

#[test]
fn a_sender_does_not_pause_the_hop_by_an_address_that_it_echoes_in_any_form() {
    let forms = |local_part: &str| {
        let meaning = crate::message::unquoted(local_part).into_owned();
        [
            format!("<{local_part}@spam.test>"),
            format!("{local_part}@spam.test"),
            format!("<{meaning}@spam.test>"),
            format!("{meaning}@spam.test"),
            format!("{local_part}@SPAM.TEST").to_uppercase(),
            format!("user {meaning}"),
            format!("[{meaning}]"),
            format!("'{meaning}'"),
            cut_short(&meaning),
        ]
    };
    let local_parts = [
        "\"x> too many connections \"",
        "\"x> rate limit <\"",
        "\"\\t\\o\\o many connections \\\" \"",
        "\"messages from 192.0.2.1 temporarily deferred \"",
        "\"too many\"",
        "too-many-connections-x",
        "-server_busy-",
        "x\u{2003}rate\u{2003}limit\u{2003}y",
    ];
    for local_part in local_parts {
        let mailbox = Mailbox::new(local_part, "spam.test");
        let as_sender = Envelope {
            reverse_path: Some(mailbox.clone()),
            ..Envelope::default()
        };
        let as_recipient = Envelope {
            recipients: vec![Recipient::new(mailbox)],
            ..Envelope::default()
        };
        for envelope in [as_sender, as_recipient] {
            let echoes = Echoes::of(&envelope, envelope.recipients.iter());
            for form in forms(local_part) {
                let text = format!("451 4.3.0 {form}: connection refused, not now");
                assert_eq!(scope_of(&reply(&text), echoes), None, "{text}");
            }
        }
    }
    let honest = Envelope {
        reverse_path: Some(Mailbox::new("a", "b.test")),
        ..Envelope::default()
    };
    let busy = reply("451 Server busy");
    let echoes = Echoes::of(&honest, honest.recipients.iter());
    assert_eq!(scope_of(&busy, echoes), Some(Scope::NextHop));
}

fn all_wordings() -> impl Iterator<Item = &'static str> {
    let of_others = OF_OTHERS.iter().chain(NAMED).map(|(wording, _)| *wording);
    let of_host = OF_CLIENT.iter().chain(OF_RATE).chain(OF_MANY).copied();
    of_others.chain(of_host)
}

#[test]
fn wordings_are_in_the_form_that_is_searched() {
    for wording in all_wordings() {
        assert_eq!(plain_words(wording), format!(" {wording}"));
    }
}

/// No mail is returned, and no hop refuses for good, by what a temporary reply says; and a permanent one from MAIL on is
/// never the hop's.
#[test]
fn wordings_never_return_mail() {
    let stages = [
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Body,
        Stage::FinalDot,
    ];
    for wording in all_wordings() {
        for stage in stages {
            for code in [421, 432, 450, 451, 452, 454] {
                let reply = Reply::new(code, wording);
                let (_, verdict) = judge(stage, Event::Reply(&reply), Situation::default());
                let later = [Verdict::Defer, Verdict::Throttle, Verdict::NextTransaction];
                assert!(later.contains(&verdict), "{wording}");
            }
            for code in [521, 550, 554] {
                let reply = Reply::new(code, wording);
                let (scope, verdict) = judge(stage, Event::Reply(&reply), Situation::default());
                assert_eq!(verdict, Verdict::Bounce);
                assert!(
                    !matches!(scope, Scope::NextHop | Scope::Connection),
                    "{stage:?} {code}"
                );
            }
        }
    }
}
