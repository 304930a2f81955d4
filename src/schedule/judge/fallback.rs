//! What is said to a session in plaintext whose host offers TLS: TLS failed, was refused, or is remembered as broken.
//!
//! Promise: a host that demands TLS of such a session has refused our fallback, and no mail is returned for it. Bounded
//! as in [`scope_of`](super::wording::scope_of()): no address or quoted text of a reply is read, and no word that we sent ourselves.

use super::wording::{OF_TLS, plain_words, says};
use super::{Echoes, Scope, Verdict};
use crate::smtp::reply::{EnhancedStatus, Reply, Stage};

/// Why a session is in plaintext although its host offers TLS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fallback {
    /// TLS did not work in this attempt.
    Now,
    /// TLS did not work before, and was not tried in this attempt.
    Remembered,
}

/// The reply demands TLS. Codes: 530 (RFC 3207, RFC 4954), 523 (Exchange), x.7.4, x.7.10 and x.7.11 (RFC 3463, RFC 5248, RFC
/// 4954). Words count only before the content: a message may be refused because a part of it is encrypted. They do not count in a
/// reply about an address or a mailbox (x.1.z, x.2.z), and of a recipient only beside x.7.z.
pub fn demands_tls(stage: Stage, reply: &Reply, echoes: Echoes) -> bool {
    if !reply.is_transient() && !reply.is_permanent() {
        return false;
    }
    let of_tls = |status: EnhancedStatus| (status.subject, status.detail);
    let by_code = matches!(reply.code, 523 | 530)
        || matches!(reply.status.map(of_tls), Some((7, 4 | 10 | 11)));
    let subject = reply.status.map(|status| status.subject);
    let may_say = match stage {
        Stage::Body | Stage::FinalDot => false,
        Stage::Rcpt => subject == Some(7),
        _ => !matches!(subject, Some(1 | 2)),
    };
    if by_code || !may_say {
        return by_code;
    }
    let words = plain_words(&reply.one_line());
    let says =
        |(number, wording): (usize, &&str)| !echoes.has_of_tls(number) && says(&words, wording);
    OF_TLS.iter().enumerate().any(says)
}

/// What it means from MAIL on. TLS that was not tried is tried at once; else it may work the next time, and another host may do
/// without. That is the hop's affair where it is said to MAIL: other mail would be told the same.
pub(super) fn judge_demand(stage: Stage, fallback: Fallback, more_hosts: bool) -> (Scope, Verdict) {
    let before_content = matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data);
    match (fallback, stage) {
        (Fallback::Remembered, _) => (Scope::Session, Verdict::Reconnect),
        (Fallback::Now, _) if before_content && more_hosts => {
            (Scope::Session, Verdict::TryNextHost)
        }
        (Fallback::Now, Stage::Mail) => (Scope::NextHop, Verdict::Throttle),
        (Fallback::Now, Stage::Rcpt) => (Scope::Recipient, Verdict::Defer),
        (Fallback::Now, _) => (Scope::Message, Verdict::Defer),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Situation, judge};
    use super::*;

    fn judged(stage: Stage, text: &str, fallback: Option<Fallback>) -> (Scope, Verdict) {
        let (code, rest) = text.split_once(' ').expect("code and text");
        let reply = Reply::new(code.parse().expect("a code"), rest);
        let situation = Situation {
            fallback,
            ..Situation::default()
        };
        judge(stage, Event::Reply(&reply), situation)
    }

    const DEMANDS: [(Stage, &str); 14] = [
        (Stage::Mail, "530 5.7.0 Must issue a STARTTLS command first"),
        (Stage::Mail, "530 no"),
        (Stage::Mail, "523 5.7.10 Encryption Needed"),
        (Stage::Mail, "550 5.7.10 Encryption needed"),
        (Stage::Mail, "550 5.7.4 no"),
        (Stage::Mail, "550 5.7.1 Encryption required"),
        (Stage::Mail, "554 5.7.1 Session encryption is required"),
        (Stage::Mail, "554 encryption required"),
        (Stage::Mail, "451 5.7.3 STARTTLS is required to send mail"),
        (Stage::Mail, "454 4.7.0 use TLS, please"),
        (Stage::Rcpt, "530 5.7.0 Must issue a STARTTLS command first"),
        (Stage::Rcpt, "550 5.7.1 Session encryption is required"),
        (Stage::Data, "554 5.7.0 TLS required"),
        (Stage::FinalDot, "550 5.7.10 no"),
    ];

    #[test]
    fn a_host_that_demands_tls_of_our_fallback_returns_no_mail() {
        for (stage, text) in DEMANDS {
            let now = judged(stage, text, Some(Fallback::Now));
            let expected = match stage {
                Stage::Mail => (Scope::NextHop, Verdict::Throttle),
                Stage::Rcpt => (Scope::Recipient, Verdict::Defer),
                _ => (Scope::Message, Verdict::Defer),
            };
            assert_eq!(now, expected, "{stage:?} {text}");
            let again = judged(stage, text, Some(Fallback::Remembered));
            assert_eq!(
                again,
                (Scope::Session, Verdict::Reconnect),
                "{stage:?} {text}"
            );
        }
        for (stage, text) in [
            (Stage::Greeting, "554 5.7.0 TLS required"),
            (Stage::Ehlo, "530 no"),
        ] {
            let judged = judged(stage, text, Some(Fallback::Now));
            assert_eq!(judged, (Scope::NextHop, Verdict::Defer), "{stage:?} {text}");
        }
    }

    #[test]
    fn a_host_that_demands_tls_we_cannot_have_leaves_the_mail_to_the_next_one() {
        let situation = Situation {
            more_hosts: true,
            fallback: Some(Fallback::Now),
            ..Situation::default()
        };
        for (stage, text) in DEMANDS {
            let (code, rest) = text.split_once(' ').expect("code and text");
            let reply = Reply::new(code.parse().expect("a code"), rest);
            let got = judge(stage, Event::Reply(&reply), situation);
            let expected = match stage {
                Stage::FinalDot => (Scope::Message, Verdict::Defer),
                _ => (Scope::Session, Verdict::TryNextHost),
            };
            assert_eq!(got, expected, "{stage:?} {text}");
        }
    }

    #[test]
    fn a_demand_for_tls_is_not_heard_in_a_recipients_name() {
        use crate::message::{Envelope, Mailbox, Recipient};
        for name in ["ssl-admin", "tls", "starttls-check", "encrypt-me"] {
            let envelope = Envelope {
                recipients: vec![Recipient::new(Mailbox::new(name, "b.test"))],
                ..Envelope::default()
            };
            let echoes = Echoes::of(&envelope, envelope.recipients.iter());
            let reply = Reply::new(550, &format!("5.7.1 {name}: not for you"));
            for stage in [Stage::Rcpt, Stage::Data] {
                assert!(!demands_tls(stage, &reply, echoes), "{name}");
                assert!(demands_tls(stage, &reply, Echoes::NONE), "{name}");
            }
            let by_code = Reply::new(530, "5.7.0 Must issue a STARTTLS command first");
            assert!(demands_tls(Stage::Rcpt, &by_code, echoes), "{name}");
        }
    }

    #[test]
    fn a_host_that_does_not_know_ehlo_for_a_moment_and_demands_tls_returns_no_mail() {
        let helo = Situation {
            knows_no_extensions: true,
            ..Situation::default()
        };
        for (stage, text) in DEMANDS {
            let (code, rest) = text.split_once(' ').expect("code and text");
            let reply = Reply::new(code.parse().expect("a code"), rest);
            let (_, verdict) = judge(stage, Event::Reply(&reply), helo);
            let expected = match reply.is_permanent() {
                true => Verdict::DeferOnce,
                false => Verdict::Defer,
            };
            assert_eq!(verdict, expected, "{stage:?} {text}");
        }
        let no_user = Reply::new(550, "5.1.1 no such user");
        let (_, verdict) = judge(Stage::Rcpt, Event::Reply(&no_user), helo);
        assert_eq!(verdict, Verdict::Bounce);
    }

    #[test]
    fn other_refusals_mean_what_they_mean_to_any_session() {
        let table = [
            (Stage::Mail, "550 5.7.1 <tls@sender.test>: Sender refused"),
            (Stage::Mail, "550 5.1.8 no such domain tls.sender.test"),
            (Stage::Rcpt, "550 5.1.1 no such user"),
            (Stage::Rcpt, "550 5.1.1 ssl-admin: no such user here"),
            (Stage::Rcpt, "550 tls: user unknown"),
            (Stage::Rcpt, "550 5.2.1 mailbox encrypt disabled"),
            (Stage::Mail, "550 5.1.0 sender ssl unknown"),
            (Stage::Rcpt, "451 4.7.1 greylisted"),
            (Stage::Data, "554 5.5.1 no valid recipients"),
            (
                Stage::FinalDot,
                "550 5.7.1 encrypted attachments are not taken",
            ),
            (Stage::FinalDot, "250 2.0.0 taken, and TLS would be nice"),
        ];
        for (stage, text) in table {
            for fallback in [Fallback::Now, Fallback::Remembered] {
                assert_eq!(
                    judged(stage, text, Some(fallback)),
                    judged(stage, text, None),
                    "{stage:?} {text}"
                );
            }
        }
        for (stage, text) in DEMANDS {
            let (_, verdict) = judged(stage, text, None);
            assert_ne!(verdict, Verdict::Reconnect, "{stage:?} {text}");
        }
    }
}
