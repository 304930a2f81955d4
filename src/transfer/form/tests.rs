use super::*;
use crate::smtp::reply::EnhancedStatus;

fn diagnosis(text: &str) -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(4, 2, 0),
        text: text.into(),
        remote_host: "mx.b.test".into(),
    }
}

fn recipient(address: (&str, &str), notify: Option<Notify>, orcpt: Option<&str>) -> Recipient {
    Recipient {
        forward_path: Mailbox::new(address.0, address.1),
        notify,
        orcpt: orcpt.map(Box::from),
    }
}

fn full() -> Head {
    let success = Notify {
        success: true,
        ..Notify::NEVER
    };
    Head {
        id: "2F-3-DEADBEEF".parse().unwrap(),
        received_at: WallTime(1_795_000_000_123),
        envelope: Envelope {
            reverse_path: Some(Mailbox::new("\"a b@c\"", "b\u{fc}cher.test")),
            body_type: BodyType::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("QQ314159".into()),
            recipients: vec![
                recipient(("u", "[192.0.2.1]"), None, None),
                recipient(
                    ("j\u{f6}rg", "b.test"),
                    Some(success),
                    Some("rfc822;x+2By@b.test"),
                ),
                recipient(("v", "b.test"), Some(Notify::NEVER), None),
                recipient(("Postmaster", ""), None, None),
            ],
        },
        states: vec![
            RecipientState::fresh(),
            RecipientState::Waiting {
                attempts: 7,
                due: WallTime(1_795_000_900_000),
                last: Some(diagnosis("452 4.2.2 \"full\" \\ \u{2014}")),
            },
            RecipientState::ReportOwed {
                kind: ReportKind::Relayed,
                diagnosis: diagnosis("250 ok"),
                attempts: 0,
                due: WallTime(5),
            },
            RecipientState::ReportOwed {
                kind: ReportKind::Failed,
                diagnosis: diagnosis(""),
                attempts: 2,
                due: WallTime(0),
            },
        ],
        content_bytes: 12,
        content_checksum: 0xabc,
    }
}

#[test]
fn what_a_line_says_is_read_back() {
    let head = full();
    let line = head.to_line();
    assert!(!line.contains('\n'));
    assert_eq!(Head::from_line(&line), Ok(head));
}

#[test]
fn recipients_that_are_finished_are_left_out() {
    let mut head = full();
    head.states[1] = RecipientState::Finished;
    let read = Head::from_line(&head.to_line()).unwrap();
    let mut open = full();
    open.envelope.recipients.remove(1);
    open.states.remove(1);
    assert_eq!(read, open);
}

#[test]
fn a_line_that_is_wrong_is_refused_in_words() {
    let line = full().to_line();
    let cases = [
        ("{", "EOF"),
        ("[]", "no JSON object"),
        ("{}", "no \"ringpost_export\""),
        (
            &line.replace("\"ringpost_export\":1", "\"ringpost_export\":2"),
            "version 2",
        ),
        (&line.replace("v@b.test", "v@b@test"), "no address"),
        (&line.replace("v@b.test", "v\\r\\nX@b.test"), "no address"),
        (&line.replace("\"waiting\"", "\"gone\""), "\"state\""),
        (&line.replace("\"HDRS\"", "\"SOME\""), "\"ret\""),
        (&line.replace("\"SUCCESS\"", "\"MAYBE\""), "\"notify\""),
        (&line.replace("4.2.0", "9.2.0"), "status code"),
        (&line.replace("250 ok", "250\\r\\nok"), "control characters"),
        (&line.replace("00000abc", "xyz"), "no checksum"),
        (&line.replace("2F-3-DEADBEEF", "2F-3"), "no message id"),
        (&line.replace("\"bytes\":12", "\"bytes\":-1"), "no number"),
    ];
    for (line, complaint) in cases {
        let said = Head::from_line(line).expect_err(line);
        assert!(said.contains(complaint), "{said:?} for {complaint:?}");
    }
}
