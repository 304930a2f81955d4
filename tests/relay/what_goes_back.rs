//! What is not taken, what goes out in another form, and what comes back: content, reports and refusals,
//! with the relay as a process between a client and next hops that lack extensions.

use crate::support;

use std::collections::BTreeSet;
use support::client::{CONTENT, Client, send_mail};
use support::dns::DnsServer;
use support::next_hop::{Answer, Mail, NextHop, Occasion, StartTls, usual};
use support::relay::{Home, Relay};
use support::{PATIENCE, relay_to};

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";
/// No SMTPUTF8, no 8BITMIME.
const PLAIN_KEYWORDS: &str = "PIPELINING\nENHANCEDSTATUSCODES";

fn is_report(mail: &Mail) -> bool {
    mail.from.starts_with("MAIL FROM:<>")
}

/// After EHLO and MAIL with these parameters.
fn begun(relay: &Relay, mail: &str) -> Client {
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect(mail, 250);
    client
}

fn finished(mut client: Client, to: &str, content: &str) {
    client.expect(&format!("RCPT TO:<{to}>"), 250);
    client.expect("DATA", 354);
    let reply = client.command(&format!("{content}\r\n."));
    assert_eq!(reply.code, 250, "{}", reply.text);
    client.quit();
}

// ---- SMTPUTF8 ----

#[test]
fn mail_that_a_hop_without_smtputf8_cannot_take_is_reported_through_the_same_hop() {
    let hop = NextHop::with_keywords(StartTls::Works, PLAIN_KEYWORDS, usual);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    for (to, subject) in [("j\u{f6}rg@example.test", "x"), (TO, "gr\u{fc}n")] {
        let client = begun(
            &relay,
            "MAIL FROM:<a@sender.test> SMTPUTF8 BODY=8BITMIME RET=FULL",
        );
        finished(client, to, &format!("Subject: {subject}\r\n\r\nb\u{f6}dy"));
    }
    let reports = hop.wait_for_mail(2);
    for report in &reports {
        assert!(is_report(report), "{}", report.from);
        assert!(!report.from.contains("SMTPUTF8"), "{}", report.from);
        assert_eq!(report.to, ["RCPT TO:<a@sender.test>"]);
        assert!(report.content.is_ascii(), "{}", report.content);
        assert!(
            report.content.contains("Status: 5.6.7"),
            "{}",
            report.content
        );
        assert!(report.content.contains("b=C3=B6dy"), "{}", report.content);
    }
    let told = |text: &str| reports.iter().any(|report| report.content.contains(text));
    assert!(told("Final-Recipient: utf-8;j\\x{F6}rg@example.test"));
    assert!(told("Subject: gr=C3=BCn"));
    relay.stop();
}

#[test]
fn a_hop_that_refuses_ehlo_for_a_moment_returns_no_mail_that_needs_smtputf8() {
    for refusals in [1, usize::MAX] {
        let script = move |occasion: Occasion<'_>| {
            let is_ehlo = occasion.command.starts_with("EHLO");
            match is_ehlo && occasion.before < refusals && occasion.taken == 0 {
                true => Answer::Say("502 5.5.1 not now"),
                false => Answer::Usual,
            }
        };
        let hop = NextHop::scripted(StartTls::NotOffered, script);
        let (home, to) = (Home::new(), "j\u{f6}rg@example.test");
        // No connection is used again.
        let relay = relay_to(&home, &hop, &["--idle-timeout", "0s"]);
        finished(
            begun(&relay, "MAIL FROM:<a@sender.test> SMTPUTF8"),
            to,
            CONTENT,
        );
        relay.wait_for("deferred", |event| event["status"] == "4.6.7");
        let mail = hop.wait_for_mail(1).remove(0);
        match refusals {
            1 => assert_eq!(mail.to, [format!("RCPT TO:<{to}>")]),
            _ => assert!(is_report(&mail), "said twice: {}", mail.from),
        }
        relay.stop();
    }
}

#[test]
fn ascii_mail_from_a_client_that_always_says_smtputf8_is_delivered_to_a_hop_without_it() {
    let hop = NextHop::with_keywords(StartTls::Works, PLAIN_KEYWORDS, usual);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let client = begun(&relay, "MAIL FROM:<a@sender.test> SMTPUTF8 BODY=8BITMIME");
    finished(client, TO, "Subject: x\r\n\r\nb\u{f6}dy");
    let mail = &hop.wait_for_mail(1)[0];
    assert_eq!(mail.from, "MAIL FROM:<a@sender.test>");
    assert!(mail.content.contains("with UTF8SMTP"), "{}", mail.content);
    relay.stop();
}

#[test]
fn a_recipient_whose_domain_alone_is_not_ascii_goes_out_in_a_labels() {
    let hop = NextHop::with_keywords(StartTls::Works, PLAIN_KEYWORDS, usual);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let client = begun(&relay, "MAIL FROM:<a@sender.test> SMTPUTF8");
    finished(client, "info@b\u{fc}cher.test", CONTENT);
    let mail = &hop.wait_for_mail(1)[0];
    assert_eq!(mail.from, "MAIL FROM:<a@sender.test>");
    assert_eq!(mail.to, ["RCPT TO:<info@xn--bcher-kva.test>"]);
    assert!(mail.content.is_ascii(), "{}", mail.content);
    relay.stop();
}

#[test]
fn who_needs_smtputf8_does_not_take_the_others_of_the_message_down() {
    let hop = NextHop::with_keywords(StartTls::Works, PLAIN_KEYWORDS, usual);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test> SMTPUTF8");
    client.expect("RCPT TO:<j\u{f6}rg@example.test>", 250);
    finished(client, TO, CONTENT);
    let mails = hop.wait_for_mail(2);
    let (reports, mails): (Vec<_>, Vec<_>) = mails.into_iter().partition(is_report);
    assert_eq!(mails[0].to, ["RCPT TO:<b@example.test>"]);
    assert!(
        reports[0].content.contains("j\\x{F6}rg"),
        "{}",
        reports[0].content
    );
    assert!(!reports[0].content.contains(TO), "{}", reports[0].content);
    relay.stop();
}

// ---- Reports ----

/// Refuses who begins with `no`, and whatever is refused here of reports.
fn no_such_user(occasion: &Occasion<'_>) -> Option<Answer> {
    let is_refused = occasion.command.starts_with("RCPT TO:<no");
    is_refused.then_some(Answer::Say("550 5.1.1 no such user"))
}

#[test]
fn a_report_that_is_too_large_for_the_hop_goes_out_without_the_original() {
    let keywords = "PIPELINING\nSIZE 10000";
    let hop = NextHop::with_keywords(StartTls::Works, keywords, |occasion| {
        no_such_user(&occasion).unwrap_or(Answer::Usual)
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let client = begun(&relay, "MAIL FROM:<a@sender.test> RET=FULL");
    let content = format!("{CONTENT}\r\n{}", "A line of the body.\r\n".repeat(440));
    finished(client, "no@example.test", content.trim_end());
    let report = &hop.wait_for_mail(1)[0];
    assert!(is_report(report));
    assert!(
        report.content.contains("Subject: test"),
        "{}",
        report.content
    );
    assert!(!report.content.contains("A line of the body."));
    relay.stop();
}

#[test]
fn a_report_that_is_refused_for_what_it_returns_goes_out_with_less() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        let is_spam = occasion.command == "." && occasion.before < 2;
        match is_spam {
            true => Answer::Say("554 5.7.1 looks like spam"),
            false => no_such_user(&occasion).unwrap_or(Answer::Usual),
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let client = begun(&relay, "MAIL FROM:<a@sender.test> RET=FULL");
    finished(client, "no@example.test", CONTENT);
    let report = &hop.wait_for_mail(1)[0];
    assert!(is_report(report));
    assert!(
        report.content.contains("Status: 5.1.1"),
        "{}",
        report.content
    );
    assert!(
        !report.content.contains("Subject: test"),
        "{}",
        report.content
    );
    relay.stop();
}

#[test]
fn a_report_that_is_refused_and_cut_off_comes_to_an_end() {
    for refused in [2, 9] {
        let hop = NextHop::scripted(StartTls::NotOffered, move |occasion| {
            match occasion.command == "." && occasion.before < refused {
                true => Answer::SayAndClose("554 5.7.1 looks like spam"),
                false => no_such_user(&occasion).unwrap_or(Answer::Usual),
            }
        });
        let home = Home::new();
        let relay = relay_to(&home, &hop, &[]);
        let client = begun(&relay, "MAIL FROM:<a@sender.test> RET=FULL");
        finished(client, "no@example.test", CONTENT);
        match refused {
            2 => {
                let report = &hop.wait_for_mail(1)[0];
                assert!(!report.content.contains("Subject: test"), "less each time");
            }
            _ => {
                let dropped = relay.wait_for("dropped", |_| true);
                assert_eq!(dropped["reply"], "554 5.7.1 looks like spam");
            }
        }
        // For the mail, for the report, and for the report with less, twice.
        assert!(hop.connections() <= 4, "{}", hop.connections());
        relay.stop();
    }
}

#[test]
fn a_report_on_many_recipients_is_not_dropped_for_its_size() {
    let size = 10_000;
    let hop = NextHop::with_keywords(StartTls::NotOffered, "PIPELINING\nSIZE 10000", |occasion| {
        no_such_user(&occasion).unwrap_or(Answer::Usual)
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test>");
    for number in 0..60 {
        client.expect(&format!("RCPT TO:<no{number}@example.test>"), 250);
    }
    client.expect("DATA", 354);
    client.expect(&format!("{CONTENT}\r\n."), 250);
    let told = |mails: &[Mail]| {
        let all = mails.iter().map(|mail| {
            assert!(is_report(mail) && mail.content.len() <= size);
            mail.content.matches("Final-Recipient:").count()
        });
        all.sum::<usize>()
    };
    let all = hop
        .seen()
        .wait(PATIENCE, |seen| (told(&seen.mails) == 60).then_some(()));
    assert!(all.is_some(), "{} of 60", told(&hop.mails()));
    assert!(relay.events("dropped").is_empty());
    relay.stop();
}

// ---- Windows ----

/// Recipients that reports speak of, each as often as it is spoken of.
fn spoken_of(reports: &[Mail]) -> Vec<&str> {
    let lines = reports.iter().flat_map(|report| report.content.lines());
    let mut found: Vec<&str> = lines
        .filter_map(|line| line.strip_prefix("Final-Recipient: "))
        .collect();
    found.sort_unstable();
    found
}

fn message_ids(reports: &[Mail]) -> BTreeSet<&str> {
    let lines = reports.iter().flat_map(|report| report.content.lines());
    lines
        .filter(|line| line.starts_with("Message-ID: <") && line.contains("@relay.test>"))
        .collect()
}

/// A gateway's list: its recipients are at several hosts, each is refused in a transaction of its own, and several cores
/// deliver. Each refusal used to be a report, with the whole message in it.
#[test]
fn a_message_with_two_hundred_refused_recipients_comes_back_once() {
    const HOPS: usize = 4;
    let hops = [(); HOPS].map(|()| {
        NextHop::scripted(StartTls::NotOffered, |occasion| {
            no_such_user(&occasion).unwrap_or(Answer::Usual)
        })
    });
    let (home, back) = (Home::new(), NextHop::start());
    let mut routes: Vec<String> = (0..200)
        .map(|number| hops[number % HOPS].route(&format!("d{number}.test")))
        .collect();
    routes.push(back.route("sender.test"));
    let routes = home.file("routes", &routes.join("\n"));
    let flags = [
        "--routes-file",
        &routes,
        "--recipients-per-transaction",
        "1",
        "--ingress-cores",
        "0,0",
        "--delivery-cores",
        "0,0,0",
        // Long enough for a machine with other work.
        "--report-window",
        "8s",
    ];
    let relay = home.start(&flags);
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test>");
    for number in 0..200 {
        client.expect(&format!("RCPT TO:<no{number}@d{number}.test>"), 250);
    }
    client.expect("DATA", 354);
    let body = "A line of the body.\r\n".repeat(10_000);
    client.expect(&format!("{CONTENT}\r\n{body}."), 250);
    client.quit();
    relay.wait_for_count("bounced", 200, |_| true);
    let transactions = hops.iter().flat_map(|hop| hop.commands());
    let transactions = transactions.filter(|command| command.starts_with("MAIL"));
    assert_eq!(transactions.count(), 200);
    back.wait_for_mail(1);
    relay.stop_with_nothing_left();
    let reports = back.mails();
    assert_eq!(reports.len(), 1);
    let mut all: Vec<String> = (0..200)
        .map(|number| format!("rfc822;no{number}@d{number}.test"))
        .collect();
    all.sort_unstable();
    assert_eq!(spoken_of(&reports), all);
    let bodies = reports[0].content.matches(&body).count();
    assert_eq!(bodies, 1);
}

/// The first recipient is refused at once, the second at the second attempt: after the first report has gone.
fn reports_of_two_windows(mail: &str) -> Vec<Mail> {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        let is_late = occasion.command.starts_with("RCPT TO:<late");
        match is_late && occasion.before < 2 {
            true => Answer::Say("450 4.2.1 not now"),
            false if is_late => Answer::Say("550 5.2.1 disabled"),
            false => no_such_user(&occasion).unwrap_or(Answer::Usual),
        }
    });
    let (home, back) = (Home::new(), NextHop::start());
    let (route, back_route) = (hop.route("example.test"), back.route("sender.test"));
    let flags = ["--retry-min", "1s", "--retry-max", "1s", "--route"];
    let relay = home.start(&[&flags[..], &[&route, "--route", &back_route]].concat());
    let mut client = begun(&relay, mail);
    client.expect("RCPT TO:<no@example.test>", 250);
    finished(
        client,
        "late@example.test",
        &format!("{CONTENT}\r\nthe body"),
    );
    let reports = back.wait_for_mail(2);
    relay.stop_with_nothing_left();
    assert_eq!(back.mails().len(), 2);
    assert_eq!(spoken_of(&reports[..1]), ["rfc822;no@example.test"]);
    assert_eq!(spoken_of(&reports[1..]), ["rfc822;late@example.test"]);
    assert_eq!(message_ids(&reports).len(), 2);
    reports
}

#[test]
fn a_content_comes_back_once_or_as_ret_says() {
    for (ret, bodies) in [("", [1, 0]), (" RET=FULL", [1, 1]), (" RET=HDRS", [0, 0])] {
        let reports = reports_of_two_windows(&format!("MAIL FROM:<a@sender.test>{ret}"));
        for (report, bodies) in reports.iter().zip(bodies) {
            let content = &report.content;
            assert_eq!(
                content.matches("the body").count(),
                bodies,
                "{ret}: {content}"
            );
            assert!(content.contains("Subject: test"), "{ret}: {content}");
        }
    }
}

#[test]
fn recipients_that_need_smtputf8_are_reported_apart() {
    let hop = NextHop::with_keywords(StartTls::NotOffered, PLAIN_KEYWORDS, |occasion| {
        no_such_user(&occasion).unwrap_or(Answer::Usual)
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--report-window", "2s"]);
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test> SMTPUTF8");
    client.expect("RCPT TO:<j\u{f6}rg@example.test>", 250);
    client.expect("RCPT TO:<no1@example.test>", 250);
    finished(client, "no2@example.test", CONTENT);
    let reports = hop.wait_for_mail(2);
    let of = |report: &Mail| spoken_of(std::slice::from_ref(report)).join(" ");
    let mut all: Vec<String> = reports.iter().map(of).collect();
    all.sort_unstable();
    let expected = [
        "rfc822;no1@example.test rfc822;no2@example.test",
        "utf-8;j\\x{F6}rg@example.test",
    ];
    assert_eq!(all, expected);
    assert_eq!(message_ids(&reports).len(), 2);
    relay.stop_with_nothing_left();
    assert_eq!(hop.mails().len(), 2);
}

/// Its lifetime is that of the mail, and the window would take all of it.
#[test]
fn a_report_gets_its_tries_though_it_waited_for_its_window() {
    let back = NextHop::scripted(StartTls::NotOffered, |occasion| {
        let is_first = occasion.command.starts_with("MAIL") && occasion.before < 1;
        match is_first {
            true => Answer::Say("451 4.7.1 greylisted"),
            false => Answer::Usual,
        }
    });
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        no_such_user(&occasion).unwrap_or(Answer::Usual)
    });
    let home = Home::new();
    let (route, back_route) = (hop.route("example.test"), back.route("sender.test"));
    let flags = "--queue-lifetime 0s --bounce-lifetime 10s --report-window 1h --retry-min 1s --retry-max 1s";
    let flags: Vec<&str> = flags.split(' ').collect();
    let relay = home.start(&[&flags[..], &["--route", &route, "--route", &back_route]].concat());
    send_mail(relay.address(), FROM, &["no@example.test"], CONTENT);
    let reports = back.wait_for_mail(1);
    assert_eq!(spoken_of(&reports), ["rfc822;no@example.test"]);
    assert!(relay.events("dropped").is_empty());
    relay.stop_with_nothing_left();
}

/// They are in the spool: neither a drain nor a start sends them early, and the start that does sends one report.
#[test]
fn reports_that_wait_survive_drains_and_kills() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        no_such_user(&occasion).unwrap_or(Answer::Usual)
    });
    let home = Home::new();
    let one_each = ["--recipients-per-transaction", "1", "--report-window"];
    let start = |window| relay_to(&home, &hop, &[&one_each[..], &[window]].concat());
    let relay = start("1h");
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test>");
    client.expect("RCPT TO:<no1@example.test>", 250);
    client.expect("RCPT TO:<no2@example.test>", 250);
    finished(client, "no3@example.test", CONTENT);
    relay.wait_for_count("bounced", 3, |_| true);
    relay.stop();
    start("1h").kill();
    start("1h").stop();
    assert!(hop.mails().is_empty());
    let relay = start("0s");
    let reports = hop.wait_for_mail(1);
    relay.stop_with_nothing_left();
    assert_eq!(hop.mails().len(), 1);
    let all = ["no1", "no2", "no3"].map(|name| format!("rfc822;{name}@example.test"));
    assert_eq!(spoken_of(&reports), all);
}

// ---- Sizes ----

#[test]
fn mail_just_under_the_size_of_a_hop_is_not_returned_for_its_many_dots() {
    // With our trace field: content of less than the limit, and more than it in wire form.
    let lines = ".\r\n".repeat(3_000);
    for flags in [&[][..], &["--in-memory-size", "0"]] {
        let hop = NextHop::with_keywords(StartTls::Works, "PIPELINING\nSIZE 10000", usual);
        let home = Home::new();
        let relay = relay_to(&home, &hop, flags);
        let client = begun(&relay, "MAIL FROM:<a@sender.test>");
        let stuffed = lines.replace('.', "..");
        finished(client, TO, &format!("{CONTENT}\r\n{}", stuffed.trim_end()));
        let mail = &hop.wait_for_mail(1)[0];
        let declared = mail.from.split_once(" SIZE=").expect("a size").1;
        let declared: usize = declared.parse().expect("a number");
        assert!(declared <= 10_000, "{}", mail.from);
        if flags.is_empty() {
            assert_eq!(declared, mail.content.len(), "the dots are counted");
        }
        assert!(mail.content.ends_with(&lines));
        relay.stop();
    }
}

// ---- Replies of next hops ----

#[test]
fn a_refusal_of_ten_kilobytes_is_no_reason_to_try_for_days() {
    static LONG: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let lines = format!("550-5.1.1 {}\r\n", "x".repeat(80)).repeat(200);
        format!("550-5.1.1 {}\r\n{lines}550 5.1.1 no", "x".repeat(5_000))
    });
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        match occasion.command.starts_with("RCPT TO:<no") {
            true => Answer::Say(LONG.as_str()),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &["no@example.test", TO], CONTENT);
    hop.wait_for_mail(2);
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

#[test]
fn a_bare_452_for_one_recipient_too_many_is_followed_at_once_by_the_rest() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        let is_one_too_many = occasion.before == 1;
        match occasion.command.starts_with("RCPT") && is_one_too_many {
            true => Answer::Say("452 Too many recipients"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = ["--retry-min", "1h", "--retry-max", "1h"];
    let route = hop.route("*");
    let relay = home.start(&[&["--route", &route][..], &flags].concat());
    send_mail(
        relay.address(),
        FROM,
        &["b@example.test", "c@example.test"],
        CONTENT,
    );
    hop.wait_for_mail(2);
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

// ---- What is not taken ----

#[test]
fn an_unroutable_postmaster_is_refused_before_the_body_comes() {
    let (home, hop) = (Home::new(), NextHop::start());
    let route = hop.route("example.test");
    let relay = home.start(&["--route", &route, "--relay-from", "none"]);
    let mut client = begun(&relay, "MAIL FROM:<forged@victim.test>");
    let refusal = client.expect("RCPT TO:<Postmaster>", 550);
    assert!(refusal.contains("5.1.1"), "{refusal}");
    client.quit();
    relay.stop();
    assert_eq!(hop.connections(), 0);
}

#[test]
fn mail_to_postmaster_goes_to_whom_the_flag_names() {
    let (home, hop) = (Home::new(), NextHop::start());
    let route = hop.route("example.test");
    let flags = ["--postmaster", "ops@example.test", "--relay-from", "none"];
    let relay = home.start(&[&["--route", &route][..], &flags].concat());
    let client = begun(&relay, "MAIL FROM:<a@sender.test>");
    finished(client, "postMaster", CONTENT);
    assert_eq!(hop.wait_for_mail(1)[0].to, ["RCPT TO:<ops@example.test>"]);
    relay.stop();
    let relay = home.start(&["--route", &hop.route("relay.test"), "--relay-from", "none"]);
    let client = begun(&relay, "MAIL FROM:<a@sender.test>");
    finished(client, "Postmaster", CONTENT);
    assert_eq!(hop.wait_for_mail(2)[1].to, ["RCPT TO:<Postmaster>"]);
    relay.stop();
}

#[test]
fn a_recipient_who_can_only_bounce_is_refused_once_that_is_known() {
    let (home, dns, reports) = (Home::new(), DnsServer::start(), NextHop::start());
    dns.mx("null.test", 0, ".");
    let (server, back) = (dns.address().to_string(), reports.route("sender.test"));
    let relay = home.start(&["--dns", &server, "--route", &back]);
    // Nobody knows yet.
    send_mail(relay.address(), FROM, &["b@null.test"], CONTENT);
    reports.wait_for_mail(1);
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test>");
    let refusal = client.expect("RCPT TO:<c@null.test>", 550);
    assert!(refusal.contains("5.1.10"), "{refusal}");
    client.quit();
    relay.stop();
}

#[test]
fn a_route_that_leads_back_here_takes_no_mail() {
    let home = Home::new();
    // The port must be known before the relay has it: an address that nobody else uses.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = format!("127.77.{high}.{low}");
    let relay = home.start(&[
        "--listen",
        &format!("{own}:2597"),
        "--route",
        &format!("loop.test=[{own}]:2597"),
        "--relay-domain",
        "loop.test",
        "--relay-from",
        "none",
    ]);
    let mut client = begun(&relay, "MAIL FROM:<forged@victim.test>");
    let refusal = client.expect("RCPT TO:<b@loop.test>", 550);
    assert!(refusal.contains("5.4.6"), "{refusal}");
    client.quit();
    relay.stop();
}

// ---- What may be pipelined ----

#[test]
fn a_body_behind_a_refused_data_is_not_executed() {
    let (home, hop) = (Home::new(), NextHop::start());
    let recipients = home.file("recipients", "known@example.test\n");
    let flags = [
        "--relay-from",
        "none",
        "--relay-domain",
        "example.test",
        "--recipients-file",
        &recipients,
    ];
    let relay = relay_to(&home, &hop, &flags);
    let forged = "MAIL FROM:<forged@a.test>\r\nRCPT TO:<known@example.test>\r\nDATA\r\n";
    for with_tls in [false, true] {
        let mut client = match with_tls {
            true => Client::connect_with_starttls(relay.address()),
            false => Client::connect(relay.address()),
        };
        client.expect("EHLO client.test", 250);
        client.expect("MAIL FROM:<a@sender.test>", 250);
        client.expect("RCPT TO:<unknown@example.test>", 550);
        client.send(&format!("DATA\r\n{forged}Subject: forged\r\n\r\n.\r\n"));
        client.expect_reply(554);
        client.expect_reply(521);
        client.expect_end();
    }
    // In a packet of its own, after the refusal.
    let mut client = begun(&relay, "MAIL FROM:<a@sender.test>");
    client.expect("RCPT TO:<unknown@example.test>", 550);
    client.expect("DATA", 554);
    client.send(&format!("{forged}Subject: forged\r\n\r\n.\r\n"));
    for code in [250, 250, 354, 521] {
        client.expect_reply(code);
    }
    client.expect_end();
    relay.stop();
    assert_eq!(hop.connections(), 0);
}

#[test]
fn content_does_not_become_part_of_our_trace_field() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    send_mail(
        relay.address(),
        FROM,
        &[TO],
        "\tforged by <x@y.test>\r\nSubject: x",
    );
    let content = &hop.wait_for_mail(1)[0].content;
    let (header, body) = content.split_once("\r\n\r\n").expect("an empty line");
    assert!(
        header.starts_with("Received: ") && !header.contains("forged"),
        "{content}"
    );
    assert_eq!(body, "\tforged by <x@y.test>\r\nSubject: x\r\n");
    relay.stop();
}
