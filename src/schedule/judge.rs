//! The one place that decides what a failure means: for whom, and what is to be done.
//!
//! Pure and small, and tested as a table. What it weighs is what the peer said or failed to say,
//! where, and which ways are still open. Not here: how long to wait (`retry`), and how far a window
//! shrinks (`next_hop`).

use crate::schedule::outcome::Diagnosis;
use crate::smtp::client::{Cause, RecipientVerdict, TransactionResult};
use crate::smtp::reply::{EnhancedStatus, Reply, Stage, printable_str};

const _: () = assert!(Reply::ONE_LINE_BYTES_MAX <= Diagnosis::TEXT_BYTES_MAX);

/// Whom a verdict concerns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// This connection or host only: no recipient is the worse for it.
    Session,
    /// All recipients of the transaction that have no verdict of their own.
    Message,
    /// This recipient.
    Recipient,
    /// Everything that waits for this next hop.
    NextHop,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    Delivered,
    /// At once, the same host: a session that had worked ended between transactions.
    Reconnect,
    /// At once, the same host without STARTTLS. Only if the policy allows it.
    TryPlaintext,
    /// At once, the next host in order of preference.
    TryNextHost,
    /// At once, in a further transaction: this one was full. If no recipient was accepted beside
    /// it, there is no progress: defer.
    NextTransaction,
    /// Later.
    Defer,
    /// Later, and less at a time: the peer says that it is too much.
    Throttle,
    /// Never: a report is due.
    Bounce,
}

/// What happened at a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    Reply(&'a Reply),
    Trouble(Trouble),
}

/// What happened when it was no reply, or none that answers the question.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trouble {
    /// The connection was refused, reset or unroutable before it stood.
    Unreachable,
    TimedOut,
    /// It was given up, not yet open, so that others could have its place.
    CrowdedOut,
    PeerClosed,
    /// Bytes that are no reply, or a reply that this command cannot have.
    ProtocolBroken,
    /// The peer is ourselves.
    Loop,
    /// TLS is required and was not offered, or refused.
    TlsUnavailable,
    /// The TLS handshake failed.
    HandshakeFailed,
    /// The certificate does not satisfy the policy of this destination.
    TlsUntrusted,
    /// The session ended before the content was asked for.
    NotAttempted,
    /// The session ended within the content, or after it without a reply.
    ContentLost,
    /// The message needs what the peer does not offer, or is too large for it.
    Unfit(EnhancedStatus),
}

/// Which ways are still open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Situation {
    /// There is another host that has not been tried in this round.
    pub more_hosts: bool,
    /// TLS is only opportunistic here: level `may`, and nothing stricter.
    pub plaintext_allowed: bool,
    /// This session has ended a transaction before.
    pub session_worked: bool,
}

/// What the event at this stage means.
///
/// Decisions that are not plain from RFC 5321 section 4.2.1:
/// * A greeting of 5yz is about that host, today: next host, else defer (as Postfix does by
///   `smtp_skip_5xx_greeting`). But 521 says "no mail here, ever" (RFC 7504): bounce if no host is left.
/// * 5yz to HELO is a refusal of us; with no host left it bounces.
/// * 4yz to MAIL is mostly the host's own trouble (disk, load): next host. It is about the sender, and
///   another host would say the same, with an enhanced status of x.1.z (its address) or x.7.z (policy), and
///   with 450 without one ("mailbox unavailable", which at MAIL is the sender's): defer.
/// * 4yz to RCPT, DATA and the final dot is about the mail: defer.
/// * 552 to RCPT counts as 452 (RFC 5321 section 4.5.3.1.10).
/// * 421 anywhere, 450 and 451 with 4.7.x ask for less mail at a time: throttle.
pub fn judge(stage: Stage, event: Event<'_>, situation: Situation) -> (Scope, Verdict) {
    match event {
        Event::Reply(reply) => judge_reply(stage, reply, situation),
        Event::Trouble(trouble) => judge_trouble(stage, trouble, situation),
    }
}

fn judge_reply(stage: Stage, reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    match stage {
        Stage::Connect | Stage::Greeting | Stage::Ehlo | Stage::StartTls | Stage::Handshake => {
            judge_opening(stage, reply, situation)
        }
        Stage::Mail => judge_mail(reply, situation),
        Stage::Rcpt => (Scope::Recipient, judge_rcpt(reply)),
        Stage::Data | Stage::Body => (Scope::Message, judge_content(reply)),
        Stage::FinalDot if reply.is_positive() => (Scope::Message, Verdict::Delivered),
        Stage::FinalDot => (Scope::Message, judge_content(reply)),
        Stage::Idle | Stage::Quit => (Scope::Session, Verdict::Reconnect),
    }
}

fn judge_opening(stage: Stage, reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    // Only 421 comes here: after any other refusal of STARTTLS the session goes on.
    if stage == Stage::StartTls && situation.plaintext_allowed {
        return (Scope::Session, Verdict::TryPlaintext);
    }
    if situation.more_hosts {
        return (Scope::Session, Verdict::TryNextHost);
    }
    if asks_for_less(reply) {
        return (Scope::NextHop, Verdict::Throttle);
    }
    match (stage, reply.code) {
        (Stage::Greeting, 521) => (Scope::Message, Verdict::Bounce),
        (Stage::Ehlo, 500..=599) => (Scope::Message, Verdict::Bounce),
        _ => (Scope::NextHop, Verdict::Defer),
    }
}

fn judge_mail(reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    if reply.is_permanent() {
        (Scope::Message, Verdict::Bounce)
    } else if asks_for_less(reply) {
        (Scope::NextHop, Verdict::Throttle)
    } else if situation.more_hosts && !is_about_sender(reply) {
        (Scope::Message, Verdict::TryNextHost)
    } else {
        (Scope::Message, Verdict::Defer)
    }
}

/// A temporary reply to MAIL: does it speak of the sender rather than of the host?
fn is_about_sender(reply: &Reply) -> bool {
    match reply.status {
        Some(status) => matches!(status.subject, 1 | 7),
        None => reply.code == 450,
    }
}

fn judge_rcpt(reply: &Reply) -> Verdict {
    let too_many = |reply: &Reply| {
        reply
            .status
            .is_some_and(|status| (status.subject, status.detail) == (5, 3))
    };
    match reply.code {
        452 | 552 if too_many(reply) => Verdict::NextTransaction,
        552 => Verdict::Defer,
        500..=599 => Verdict::Bounce,
        _ if asks_for_less(reply) => Verdict::Throttle,
        _ => Verdict::Defer,
    }
}

fn judge_content(reply: &Reply) -> Verdict {
    if reply.is_permanent() {
        Verdict::Bounce
    } else if asks_for_less(reply) {
        Verdict::Throttle
    } else {
        Verdict::Defer
    }
}

fn asks_for_less(reply: &Reply) -> bool {
    let policy = reply
        .status
        .is_some_and(|status| (status.class, status.subject) == (4, 7));
    reply.code == 421 || (matches!(reply.code, 450 | 451) && policy)
}

fn judge_trouble(stage: Stage, trouble: Trouble, situation: Situation) -> (Scope, Verdict) {
    let in_tls = matches!(stage, Stage::StartTls | Stage::Handshake);
    let of_tls = matches!(
        trouble,
        Trouble::TimedOut
            | Trouble::PeerClosed
            | Trouble::ProtocolBroken
            | Trouble::HandshakeFailed
    );
    match trouble {
        Trouble::Loop | Trouble::Unfit(_) => (Scope::Message, Verdict::Bounce),
        _ if in_tls && of_tls && situation.plaintext_allowed => {
            (Scope::Session, Verdict::TryPlaintext)
        }
        Trouble::ContentLost => (Scope::Message, Verdict::Defer),
        _ if matches!(stage, Stage::Body | Stage::FinalDot) => (Scope::Message, Verdict::Defer),
        _ if situation.session_worked => (Scope::Session, Verdict::Reconnect),
        _ if situation.more_hosts => (Scope::Session, Verdict::TryNextHost),
        _ => (Scope::NextHop, Verdict::Defer),
    }
}

/// [`judge`] for what the client says of a recipient.
pub fn judge_recipient(verdict: &RecipientVerdict, situation: Situation) -> (Scope, Verdict) {
    let (stage, event) = event_of(verdict);
    judge(stage, event, situation)
}

/// The host would not begin, for reasons of its own, and no recipient is the worse for it: whether the
/// whole transaction is for the next host, given that there is one.
pub fn is_for_next_host(result: &TransactionResult) -> bool {
    let situation = Situation {
        more_hosts: true,
        ..Situation::default()
    };
    let goes_on = |verdict: &RecipientVerdict| {
        let refused_mail =
            matches!(verdict, RecipientVerdict::Refused { stage, .. } if *stage == Stage::Mail);
        refused_mail && judge_recipient(verdict, situation).1 == Verdict::TryNextHost
    };
    !result.verdicts.is_empty() && result.verdicts.iter().all(|(_, verdict)| goes_on(verdict))
}

/// The same fact in the judge's terms.
pub fn event_of(verdict: &RecipientVerdict) -> (Stage, Event<'_>) {
    match verdict {
        RecipientVerdict::Accepted { reply } => (Stage::FinalDot, Event::Reply(reply)),
        RecipientVerdict::Refused { stage, reply } => (*stage, Event::Reply(reply)),
        RecipientVerdict::NotAttempted => (Stage::Mail, Event::Trouble(Trouble::NotAttempted)),
        RecipientVerdict::LostInBody => (Stage::Body, Event::Trouble(Trouble::ContentLost)),
        RecipientVerdict::LostAfterData => (Stage::FinalDot, Event::Trouble(Trouble::ContentLost)),
        RecipientVerdict::Unfit(unfit) => {
            (Stage::Mail, Event::Trouble(Trouble::Unfit(unfit.status)))
        }
    }
}

/// The same fact in the judge's terms.
pub fn event_of_cause(cause: &Cause) -> Event<'_> {
    match cause {
        Cause::Refused(reply) => Event::Reply(reply),
        Cause::Unexpected(_) | Cause::Malformed(_) => Event::Trouble(Trouble::ProtocolBroken),
        Cause::Loop(_) => Event::Trouble(Trouble::Loop),
        Cause::TlsUnavailable(_) => Event::Trouble(Trouble::TlsUnavailable),
        Cause::PeerClosed => Event::Trouble(Trouble::PeerClosed),
        Cause::TimedOut => Event::Trouble(Trouble::TimedOut),
    }
}

/// The facts for reports and logs. The status has class 5 for a bounce, 2 for a delivery, else 4,
/// whatever class the peer gave. `remote_host`: the host that the session was with, or empty.
pub fn diagnose(stage: Stage, event: Event<'_>, verdict: Verdict, remote_host: &str) -> Diagnosis {
    let class = match verdict {
        Verdict::Delivered => 2,
        Verdict::Bounce => 5,
        _ => 4,
    };
    let (status, text) = match event {
        Event::Reply(reply) => (reply.status_or_default(), reply.one_line()),
        Event::Trouble(trouble) => (status_of(trouble), describe(stage, trouble)),
    };
    Diagnosis {
        status: status.with_class(class),
        text: text.into_boxed_str(),
        remote_host: printable_str(remote_host).into(),
    }
}

/// RFC 3463: 4.1 no answer, 4.2 bad connection, 4.6 loop, 5.0 protocol, 7.x security.
fn status_of(trouble: Trouble) -> EnhancedStatus {
    let (subject, detail) = match trouble {
        Trouble::Unreachable => (4, 1),
        Trouble::TimedOut | Trouble::CrowdedOut | Trouble::PeerClosed => (4, 2),
        Trouble::NotAttempted | Trouble::ContentLost => (4, 2),
        Trouble::ProtocolBroken => (5, 0),
        Trouble::Loop => (4, 6),
        Trouble::TlsUnavailable => (7, 4),
        Trouble::HandshakeFailed | Trouble::TlsUntrusted => (7, 5),
        Trouble::Unfit(status) => (status.subject, status.detail),
    };
    EnhancedStatus::new(4, subject, detail)
}

fn describe(stage: Stage, trouble: Trouble) -> String {
    let what = match trouble {
        Trouble::Unreachable => "cannot connect",
        Trouble::TimedOut => "timed out",
        Trouble::PeerClosed => "the peer closed the connection",
        Trouble::ProtocolBroken => "the peer broke the protocol",
        Trouble::CrowdedOut => {
            return "the connection took too long to open while other next hops waited for one"
                .into();
        }
        Trouble::Loop => return "mail loops back to this host".into(),
        Trouble::TlsUnavailable => "TLS is required but not available",
        Trouble::HandshakeFailed => "the TLS handshake failed",
        Trouble::TlsUntrusted => "the certificate does not satisfy the policy",
        Trouble::NotAttempted => {
            return "the connection was lost before the message was sent".into();
        }
        Trouble::ContentLost if stage == Stage::FinalDot => {
            return "the connection was lost after the end of data; the message may have been delivered"
                .into();
        }
        Trouble::ContentLost => "the connection was lost",
        Trouble::Unfit(status) => return unfit_text(status).into(),
    };
    format!("{what} (at {})", stage.name())
}

fn unfit_text(status: EnhancedStatus) -> &'static str {
    match (status.subject, status.detail) {
        (3, 4) => "the message is larger than the next hop takes",
        (6, 7) => "the message needs SMTPUTF8, which the next hop does not offer",
        _ => "the next hop cannot take this message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Scope::*;
    use Verdict::*;

    const LAST: Situation = Situation {
        more_hosts: false,
        plaintext_allowed: false,
        session_worked: false,
    };
    const MORE: Situation = Situation {
        more_hosts: true,
        ..LAST
    };
    const MAY: Situation = Situation {
        plaintext_allowed: true,
        ..LAST
    };
    const WORKED: Situation = Situation {
        session_worked: true,
        ..MORE
    };

    #[test]
    fn replies() {
        let table = [
            (Stage::Greeting, "554 no", MORE, (Session, TryNextHost)),
            (Stage::Greeting, "554 no", LAST, (NextHop, Defer)),
            (Stage::Greeting, "521 never", LAST, (Message, Bounce)),
            (Stage::Greeting, "521 never", MORE, (Session, TryNextHost)),
            (Stage::Greeting, "421 busy", LAST, (NextHop, Throttle)),
            (Stage::Greeting, "421 busy", MORE, (Session, TryNextHost)),
            (Stage::Greeting, "450 x", LAST, (NextHop, Defer)),
            (Stage::Ehlo, "550 who", LAST, (Message, Bounce)),
            (Stage::Ehlo, "450 x", LAST, (NextHop, Defer)),
            (Stage::Ehlo, "451 4.7.1 x", LAST, (NextHop, Throttle)),
            (Stage::StartTls, "421 x", LAST, (NextHop, Throttle)),
            (Stage::StartTls, "421 x", MAY, (Session, TryPlaintext)),
            (Stage::Ehlo, "421 x", MAY, (NextHop, Throttle)),
            (Stage::StartTls, "454 x", LAST, (NextHop, Defer)),
            (Stage::Mail, "550 5.7.1 x", MORE, (Message, Bounce)),
            (Stage::Mail, "552 5.3.4 x", LAST, (Message, Bounce)),
            (Stage::Mail, "452 4.3.1 x", MORE, (Message, TryNextHost)),
            (Stage::Mail, "452 4.3.1 x", LAST, (Message, Defer)),
            (Stage::Mail, "452 x", MORE, (Message, TryNextHost)),
            (Stage::Mail, "451 4.3.0 x", MORE, (Message, TryNextHost)),
            (Stage::Mail, "450 4.3.2 x", MORE, (Message, TryNextHost)),
            (Stage::Mail, "450 x", MORE, (Message, Defer)),
            (Stage::Mail, "450 4.1.8 x", MORE, (Message, Defer)),
            (Stage::Mail, "451 4.1.7 x", MORE, (Message, Defer)),
            (Stage::Mail, "454 4.7.0 x", MORE, (Message, Defer)),
            (Stage::Mail, "451 4.7.650 x", MORE, (NextHop, Throttle)),
            (Stage::Mail, "421 x", LAST, (NextHop, Throttle)),
            (Stage::Mail, "354 x", LAST, (Message, Defer)),
            (Stage::Rcpt, "550 5.1.1 x", MORE, (Recipient, Bounce)),
            (Stage::Rcpt, "553 x", LAST, (Recipient, Bounce)),
            (Stage::Rcpt, "552 full", LAST, (Recipient, Defer)),
            (Stage::Rcpt, "552 5.2.2 full", LAST, (Recipient, Defer)),
            (
                Stage::Rcpt,
                "552 5.5.3 x",
                LAST,
                (Recipient, NextTransaction),
            ),
            (
                Stage::Rcpt,
                "452 4.5.3 x",
                LAST,
                (Recipient, NextTransaction),
            ),
            (Stage::Rcpt, "452 4.2.2 x", MORE, (Recipient, Defer)),
            (Stage::Rcpt, "450 4.2.0 grey", MORE, (Recipient, Defer)),
            (Stage::Rcpt, "451 4.7.1 grey", LAST, (Recipient, Throttle)),
            (Stage::Rcpt, "421 4.7.0 x", LAST, (Recipient, Throttle)),
            (Stage::Data, "554 5.5.1 x", LAST, (Message, Bounce)),
            (Stage::Data, "451 x", LAST, (Message, Defer)),
            (Stage::Data, "250 x", LAST, (Message, Defer)),
            (Stage::Body, "552 5.3.4 x", LAST, (Message, Bounce)),
            (Stage::Body, "421 x", LAST, (Message, Throttle)),
            (Stage::FinalDot, "250 2.0.0 x", LAST, (Message, Delivered)),
            (Stage::FinalDot, "554 5.6.0 x", MORE, (Message, Bounce)),
            (Stage::FinalDot, "452 4.3.1 x", MORE, (Message, Defer)),
            (Stage::FinalDot, "354 x", LAST, (Message, Defer)),
            (Stage::Idle, "421 x", MORE, (Session, Reconnect)),
        ];
        for (stage, text, situation, expected) in table {
            let (code, rest) = text.split_once(' ').expect("code and text");
            let reply = Reply::new(code.parse().expect("a code"), rest);
            let got = judge(stage, Event::Reply(&reply), situation);
            assert_eq!(got, expected, "{stage:?} {text:?} {situation:?}");
        }
    }

    #[test]
    fn troubles() {
        use Trouble::*;
        let unfit = Unfit(EnhancedStatus::new(5, 6, 7));
        let table = [
            (Stage::Connect, Unreachable, MORE, (Session, TryNextHost)),
            (Stage::Connect, Unreachable, LAST, (NextHop, Defer)),
            (Stage::Connect, TimedOut, MAY, (NextHop, Defer)),
            (Stage::Greeting, TimedOut, MORE, (Session, TryNextHost)),
            (Stage::Greeting, ProtocolBroken, LAST, (NextHop, Defer)),
            (Stage::Ehlo, PeerClosed, LAST, (NextHop, Defer)),
            (Stage::Ehlo, Loop, MORE, (Message, Bounce)),
            (Stage::StartTls, PeerClosed, MAY, (Session, TryPlaintext)),
            (Stage::StartTls, PeerClosed, LAST, (NextHop, Defer)),
            (
                Stage::Handshake,
                HandshakeFailed,
                MAY,
                (Session, TryPlaintext),
            ),
            (Stage::Handshake, TimedOut, MAY, (Session, TryPlaintext)),
            (
                Stage::Handshake,
                HandshakeFailed,
                MORE,
                (Session, TryNextHost),
            ),
            (Stage::Handshake, HandshakeFailed, LAST, (NextHop, Defer)),
            (Stage::Handshake, TlsUntrusted, MAY, (NextHop, Defer)),
            (Stage::Ehlo, TlsUnavailable, MORE, (Session, TryNextHost)),
            (Stage::StartTls, TlsUnavailable, LAST, (NextHop, Defer)),
            (Stage::Mail, NotAttempted, WORKED, (Session, Reconnect)),
            (Stage::Mail, NotAttempted, MORE, (Session, TryNextHost)),
            (Stage::Mail, NotAttempted, LAST, (NextHop, Defer)),
            (Stage::Rcpt, PeerClosed, WORKED, (Session, Reconnect)),
            (Stage::Body, ContentLost, WORKED, (Message, Defer)),
            (Stage::FinalDot, ContentLost, MORE, (Message, Defer)),
            (Stage::FinalDot, TimedOut, MORE, (Message, Defer)),
            (Stage::Mail, unfit, MORE, (Message, Bounce)),
        ];
        for (stage, trouble, situation, expected) in table {
            let got = judge(stage, Event::Trouble(trouble), situation);
            assert_eq!(got, expected, "{stage:?} {trouble:?} {situation:?}");
        }
    }

    #[test]
    fn nothing_but_a_good_final_reply_delivers() {
        let stages = [
            Stage::Connect,
            Stage::Greeting,
            Stage::Ehlo,
            Stage::StartTls,
            Stage::Handshake,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::Body,
            Stage::FinalDot,
            Stage::Idle,
            Stage::Quit,
        ];
        for stage in stages {
            for code in 200..600 {
                let reply = Reply::new(code, "x");
                for situation in [LAST, MORE, MAY, WORKED] {
                    let (_, verdict) = judge(stage, Event::Reply(&reply), situation);
                    let good = stage == Stage::FinalDot && code < 300;
                    assert_eq!(verdict == Delivered, good, "{stage:?} {code}");
                    assert!(verdict != Bounce || code >= 500, "{stage:?} {code}");
                }
            }
        }
    }

    #[test]
    fn diagnosis_has_the_class_of_the_verdict() {
        let full = Reply::new(552, "5.2.2 mailbox full");
        let diagnosis = diagnose(Stage::Rcpt, Event::Reply(&full), Defer, "mx.test");
        assert_eq!(diagnosis.status.to_string(), "4.2.2");
        assert_eq!(&*diagnosis.text, "552 5.2.2 mailbox full");
        let looped = diagnose(
            Stage::Ehlo,
            Event::Trouble(Trouble::Loop),
            Bounce,
            "mx.test",
        );
        assert_eq!(looped.status.to_string(), "5.4.6");
        let lost = Event::Trouble(Trouble::ContentLost);
        let lost = diagnose(Stage::FinalDot, lost, Defer, "mx.test");
        assert_eq!(lost.status.to_string(), "4.4.2");
        assert!(lost.text.contains("may have been delivered"));
    }
}
