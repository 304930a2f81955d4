use super::*;
use crate::smtp::client::Failure;
use Scope::*;
use Verdict::*;
use std::rc::Rc;

const LAST: Situation = Situation {
    more_hosts: false,
    may_recover: false,
    plaintext_allowed: false,
    session_worked: false,
    has_refused: false,
    has_accepted: false,
    knows_no_extensions: false,
    echoes: Echoes::NONE,
    fallback: None,
    is_substitute: false,
};
const MORE: Situation = Situation {
    more_hosts: true,
    ..LAST
};
const BEFORE: Situation = Situation {
    may_recover: true,
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

/// A session that has carried a transaction before.
const USED: Situation = Situation {
    session_worked: true,
    ..LAST
};
const AFTER_REFUSALS: Situation = Situation {
    has_refused: true,
    ..LAST
};

#[test]
fn replies() {
    let table = [
        (Stage::Greeting, "554 no", MORE, (Session, TryNextHost)),
        (Stage::Greeting, "554 no", LAST, (NextHop, Defer)),
        (Stage::Greeting, "521 never", LAST, (NextHop, Bounce)),
        (Stage::Greeting, "521 never", MORE, (Session, TryNextHost)),
        (Stage::Greeting, "521 never", BEFORE, (NextHop, Defer)),
        (Stage::Ehlo, "550 who", BEFORE, (NextHop, Defer)),
        (Stage::Greeting, "421 busy", LAST, (NextHop, Throttle)),
        (Stage::Greeting, "421 busy", MORE, (Session, TryNextHost)),
        (Stage::Greeting, "450 x", LAST, (NextHop, Defer)),
        (Stage::Ehlo, "550 who", LAST, (NextHop, Bounce)),
        (Stage::Ehlo, "450 x", LAST, (NextHop, Defer)),
        (Stage::Ehlo, "451 4.7.1 x", LAST, (NextHop, Throttle)),
        (Stage::StartTls, "421 x", LAST, (NextHop, Throttle)),
        (Stage::StartTls, "421 x", MAY, (Session, TryPlaintext)),
        (Stage::Ehlo, "421 x", MAY, (NextHop, Throttle)),
        (Stage::StartTls, "454 x", LAST, (NextHop, Defer)),
        (Stage::Mail, "550 5.7.1 x", MORE, (Sender, Bounce)),
        (Stage::Mail, "552 5.3.4 x", LAST, (Message, Bounce)),
        (Stage::Mail, "452 4.3.1 x", MORE, (Message, TryNextHost)),
        (Stage::Mail, "452 4.3.1 x", LAST, (Message, Defer)),
        (Stage::Mail, "452 x", MORE, (Message, TryNextHost)),
        (Stage::Mail, "451 4.3.0 x", MORE, (Message, TryNextHost)),
        (Stage::Mail, "450 4.3.2 x", MORE, (Message, TryNextHost)),
        (Stage::Mail, "450 4.3.2 x", LAST, (NextHop, Throttle)),
        (Stage::Mail, "450 x", MORE, (Sender, Defer)),
        (Stage::Mail, "450 4.1.8 x", MORE, (Sender, Defer)),
        (Stage::Mail, "451 4.1.7 x", MORE, (Sender, Defer)),
        (Stage::Mail, "454 4.7.0 x", MORE, (Sender, Defer)),
        (Stage::Mail, "451 4.7.650 x", MORE, (NextHop, Throttle)),
        (Stage::Mail, "421 x", LAST, (Connection, Defer)),
        (Stage::Mail, "354 x", LAST, (Message, Defer)),
        (Stage::Rcpt, "550 5.1.1 x", MORE, (Recipient, Bounce)),
        (Stage::Rcpt, "553 x", LAST, (Recipient, Bounce)),
        (Stage::Rcpt, "552 x", LAST, (Recipient, NextTransaction)),
        (Stage::Rcpt, "452 x", LAST, (Recipient, NextTransaction)),
        (Stage::Rcpt, "552 Mailbox full", LAST, (Recipient, Defer)),
        (Stage::Rcpt, "452 Server busy", LAST, (NextHop, Throttle)),
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
        (Stage::Rcpt, "451 4.7.1 grey", LAST, (Recipient, Defer)),
        (Stage::Rcpt, "421 4.7.0 x", LAST, (Connection, Defer)),
        (Stage::Data, "554 5.5.1 x", LAST, (Message, Bounce)),
        (Stage::Data, "451 x", LAST, (Message, Defer)),
        (Stage::Data, "250 x", LAST, (Message, Defer)),
        (Stage::Body, "552 5.3.4 x", LAST, (Message, Bounce)),
        (Stage::Body, "421 x", LAST, (Message, Defer)),
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

fn judged(stage: Stage, text: &str, situation: Situation) -> (Scope, Verdict) {
    let (code, rest) = text.split_once(' ').expect("code and text");
    let reply = Reply::new(code.parse().expect("a code"), rest);
    judge(stage, Event::Reply(&reply), situation)
}

#[test]
fn the_end_of_one_session_is_no_wish_for_fewer_of_them() {
    let table = [
        // A stranger's 25 unknown recipients, at Postfix.
        (
            Stage::Rcpt,
            "421 4.7.0 mx.test Error: too many errors",
            AFTER_REFUSALS,
            Sender,
        ),
        (Stage::Rcpt, "421 4.7.0 bye", AFTER_REFUSALS, Sender),
        (Stage::Data, "421 4.7.0 bye", AFTER_REFUSALS, Sender),
        // One sender's content.
        (
            Stage::FinalDot,
            "421 4.7.0 Try again later, closing connection",
            LAST,
            Message,
        ),
        (Stage::Body, "421 4.7.0 too many errors", LAST, Message),
        // Nobody has given cause: as a connection that breaks.
        (Stage::Mail, "421 4.7.0 bye", LAST, Connection),
        (Stage::Rcpt, "421 4.7.0 bye", LAST, Connection),
        (Stage::Data, "421 4.3.0 bye", LAST, Connection),
        (Stage::Rcpt, "421 4.2.1 mailbox busy", LAST, Recipient),
    ];
    for (stage, text, situation, scope) in table {
        assert_eq!(
            judged(stage, text, situation),
            (scope, Defer),
            "{stage:?} {text}"
        );
    }
    let of_host = [
        "421 4.3.2 shutting down",
        "421 4.7.0 too many connections from 192.0.2.1",
        "421 Server busy, closing connection",
    ];
    for (text, stage) in of_host
        .iter()
        .flat_map(|text| [(text, Stage::Mail), (text, Stage::Rcpt)])
    {
        for situation in [LAST, USED, AFTER_REFUSALS] {
            assert_eq!(
                judged(stage, text, situation),
                (NextHop, Throttle),
                "{stage:?} {text}"
            );
        }
    }
}

#[test]
fn a_refusal_for_what_the_session_carried_before_is_not_the_mails() {
    let texts = [
        "503 5.5.1 nested MAIL command",
        "503 5.5.1 bad sequence of commands",
        "500 5.5.2 command not recognized",
        "550 5.7.0 Too many messages in this session, reconnect",
        "550 5.7.0 Too many messages",
        "554 5.7.0 Too many errors",
        "452 4.5.3 Too many messages in this session",
        "451 4.7.0 Max messages per session exceeded",
        "421 4.7.0 mx.test Error: too many errors",
        "421 bye",
    ];
    for text in texts {
        for stage in [Stage::Mail, Stage::Rcpt, Stage::Data] {
            assert_eq!(
                judged(stage, text, USED),
                (Session, Defer),
                "{stage:?} {text}"
            );
            let fresh = judged(stage, text, LAST);
            assert_ne!(fresh.0, Session, "believed: {stage:?} {text}");
            assert_eq!(fresh.1 == Bounce, text.starts_with('5'), "{stage:?} {text}");
        }
    }
    for text in [
        "550 5.1.1 no such user",
        "554 5.7.1 spam",
        "550 5.7.1 not this sender",
    ] {
        assert_eq!(
            judged(Stage::Rcpt, text, USED),
            (Recipient, Bounce),
            "{text}"
        );
    }
    assert_eq!(
        judged(Stage::FinalDot, "503 5.5.1 x", USED),
        (Message, Bounce)
    );
}

#[test]
fn recipients_behind_many_unknown_ones_are_not_returned_for_them() {
    let refusals = [
        "550 Too many failed recipients",
        "550 5.7.1 Too many invalid recipients",
        "554 5.7.1 Too many unknown recipients in this session",
        "503 5.5.1 Too many errors",
        "554 Too many bad recipients",
        "550 5.5.0 too many recipients rejected this session",
        "500 too many errors",
        "550 5.5.3 Too many recipients in this session",
        "450 4.7.1 Too many recipients in this session",
        "452 4.5.3 Too many recipients in this session",
    ];
    let accepted = Situation {
        has_accepted: true,
        ..LAST
    };
    for text in refusals {
        for (stage, situation) in [
            (Stage::Rcpt, AFTER_REFUSALS),
            (Stage::Rcpt, accepted),
            (Stage::Data, AFTER_REFUSALS),
        ] {
            let got = judged(stage, text, situation);
            assert_eq!(got, (Session, Defer), "{stage:?} {text}");
        }
        // Nobody else has had another answer: a new session would say the same.
        for (stage, situation) in [
            (Stage::Rcpt, LAST),
            (Stage::Data, LAST),
            (Stage::Data, accepted),
        ] {
            assert_ne!(
                judged(stage, text, situation).0,
                Session,
                "{stage:?} {text}"
            );
        }
    }
    for situation in [AFTER_REFUSALS, accepted] {
        let no_user = judged(Stage::Rcpt, "550 5.1.1 no such user", situation);
        assert_eq!(no_user, (Recipient, Bounce));
        let content = judged(Stage::FinalDot, "554 Too many errors", situation);
        assert_eq!(content, (Message, Bounce));
    }
}

#[test]
fn one_recipient_too_many_for_a_used_session_goes_over_a_new_one() {
    let accepted = Situation {
        has_accepted: true,
        ..USED
    };
    for text in ["452 4.5.3 Too many recipients", "552 5.5.3 x", "452 x"] {
        assert_eq!(judged(Stage::Rcpt, text, USED), (Session, Defer));
        for situation in [LAST, accepted] {
            let got = judged(Stage::Rcpt, text, situation);
            assert_eq!(got, (Recipient, NextTransaction), "{text}");
        }
    }
    assert_eq!(
        judged(Stage::Rcpt, "452 4.2.2 full", USED),
        (Recipient, Defer)
    );
}

#[test]
fn smtputf8_that_is_missing_with_ehlo_itself_is_asked_for_once_more() {
    let unfit = Event::Trouble(Trouble::Unfit(EnhancedStatus::new(5, 6, 7)));
    let helo = Situation {
        knows_no_extensions: true,
        ..LAST
    };
    assert_eq!(judge(Stage::Mail, unfit, helo), (Message, DeferOnce));
    assert_eq!(judge(Stage::Mail, unfit, LAST), (Message, Bounce));
    let too_large = Event::Trouble(Trouble::Unfit(EnhancedStatus::new(5, 3, 4)));
    assert_eq!(judge(Stage::Mail, too_large, helo), (Message, Bounce));
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
        (Stage::Ehlo, Loop, MORE, (NextHop, Bounce)),
        (Stage::Ehlo, Loop, BEFORE, (NextHop, Defer)),
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
        (Stage::Body, ContentLost, USED, (Message, Defer)),
        (Stage::Body, ContentLost, WORKED, (Message, TryNextHost)),
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
fn a_substitutes_refusal_for_good_is_for_now() {
    let substitute = Situation {
        is_substitute: true,
        ..LAST
    };
    let table = [
        (Stage::Mail, "550 5.7.1 x", (Sender, Defer)),
        (Stage::Rcpt, "554 5.7.1 use the primary", (Recipient, Defer)),
        (Stage::FinalDot, "554 5.6.0 x", (Message, Defer)),
        (Stage::FinalDot, "250 x", (Message, Delivered)),
    ];
    for (stage, text, expected) in table {
        let (code, rest) = text.split_once(' ').expect("code and text");
        let reply = Reply::new(code.parse().expect("a code"), rest);
        let got = judge(stage, Event::Reply(&reply), substitute);
        assert_eq!(got, expected, "{stage:?} {text:?}");
    }
}

#[test]
fn a_host_that_ends_the_session_before_the_content_is_left_for_another() {
    let refused = |stage, code, text| RecipientVerdict::Refused {
        stage,
        reply: std::rc::Rc::new(Reply::new(code, text)),
    };
    let lost = || RecipientVerdict::NotAttempted;
    let substitute = Situation {
        is_substitute: true,
        ..LAST
    };
    let no_user = || refused(Stage::Rcpt, 550, "5.1.1 x");
    let table = [
        (lost(), LAST, Some(GoesOn::Broke)),
        (lost(), WORKED, None),
        (
            refused(Stage::Mail, 421, "4.3.0 dead"),
            LAST,
            Some(GoesOn::Broke),
        ),
        (
            refused(Stage::Mail, 421, "4.3.2 closing"),
            LAST,
            Some(GoesOn::Broke),
        ),
        (refused(Stage::Rcpt, 421, "bye"), LAST, Some(GoesOn::Broke)),
        (refused(Stage::Data, 421, "bye"), LAST, Some(GoesOn::Broke)),
        (
            refused(Stage::Rcpt, 421, "bye"),
            WORKED,
            Some(GoesOn::Session),
        ),
        (refused(Stage::Rcpt, 421, "bye"), AFTER_REFUSALS, None),
        (
            refused(Stage::Mail, 421, "4.7.28 unusual rate of mail"),
            LAST,
            None,
        ),
        (refused(Stage::FinalDot, 421, "bye"), LAST, None),
        (
            refused(Stage::Mail, 451, "4.3.0 x"),
            LAST,
            Some(GoesOn::Refused),
        ),
        (
            refused(Stage::Mail, 451, "4.3.0 x"),
            WORKED,
            Some(GoesOn::Refused),
        ),
        (refused(Stage::Mail, 450, "4.1.8 x"), LAST, None),
        (no_user(), LAST, None),
        (no_user(), substitute, Some(GoesOn::Substitute)),
        (
            refused(Stage::FinalDot, 451, "x"),
            substitute,
            Some(GoesOn::Substitute),
        ),
        (
            refused(Stage::Rcpt, 452, "4.3.1 insufficient system storage"),
            LAST,
            Some(GoesOn::Refused),
        ),
        (
            refused(Stage::Data, 451, "4.3.0 x"),
            USED,
            Some(GoesOn::Refused),
        ),
        (
            refused(Stage::Rcpt, 452, "4.3.2 mailbox is being moved"),
            LAST,
            None,
        ),
        (refused(Stage::FinalDot, 452, "4.3.1 x"), LAST, None),
        (RecipientVerdict::LostInBody, LAST, Some(GoesOn::Broke)),
        (RecipientVerdict::LostAfterData, LAST, None),
    ];
    for (verdict, situation, expected) in table {
        let got = goes_on(&verdict, situation);
        assert_eq!(got, expected, "{verdict:?} {situation:?}");
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

#[test]
fn mail_that_waits_for_a_host_out_of_step_says_so() {
    let reply = Reply::new(250, "ok");
    for (stage, event) in [
        (Stage::Mail, Event::Reply(&reply)),
        (Stage::Data, Event::Reply(&Reply::new(354, "go on"))),
    ] {
        let diagnosis = diagnose(stage, event, Defer, "mx.test");
        assert_eq!(diagnosis.status, EnhancedStatus::new(4, 5, 0));
        assert!(diagnosis.text.contains("out of step"), "{}", diagnosis.text);
    }
    let result = TransactionResult {
        verdicts: Vec::new(),
        relayed: Vec::new(),
        reusable: false,
        cut_short: Some(Failure {
            stage: Stage::Mail,
            cause: Cause::Unexpected(Rc::new(reply)),
        }),
        waited: None,
    };
    let told = session_end_cause(&result, &RecipientVerdict::NotAttempted);
    let told = told.expect("it is known");
    assert!(
        told.contains("out of step") && told.contains("250 ok"),
        "{told}"
    );
}
