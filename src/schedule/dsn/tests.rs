use proptest::prelude::*;

use super::returned::BOUNDARIES_MAX;
use super::*;
use crate::smtp::reply::{EnhancedStatus, Reply};

fn diagnosis(status: (u8, u16, u16), text: &str, remote_host: &str) -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(status.0, status.1, status.2),
        text: text.into(),
        remote_host: remote_host.into(),
    }
}

fn no_such_user() -> Diagnosis {
    diagnosis((5, 1, 1), "550 5.1.1 no such user", "mx.dst.test")
}

fn envelope() -> Envelope {
    let mut first = Recipient::new(Mailbox::new("b", "dst.test"));
    first.orcpt = Some("rfc822;Bob+2Bx@dst.test".into());
    Envelope {
        reverse_path: Some(Mailbox::new("a", "src.test")),
        envid: Some("QQ+2B1".into()),
        recipients: vec![first, Recipient::new(Mailbox::new("c", "dst.test"))],
        ..Envelope::default()
    }
}

fn reported<'a>(index: u32, action: ReportedAction, diagnosis: &'a Diagnosis) -> Reported<'a> {
    Reported {
        index,
        action,
        diagnosis,
        last_attempt: Some(WallTime(1_800_000_060_000)),
    }
}

fn report<'a>(
    envelope: &'a Envelope,
    recipients: &'a [Reported<'a>],
    wire: &'a [u8],
) -> Report<'a> {
    Report {
        reporting_mta: "gw.test",
        id: MessageId {
            run: 1,
            core: 0,
            sequence: 7,
        },
        boundary: "1-0-7=gw.test",
        now: WallTime(1_800_000_061_000),
        arrived: WallTime(1_800_000_000_000),
        envelope,
        recipients,
        original: Original {
            wire,
            is_whole: true,
        },
        taker: Taker {
            eight_bit_mime: true,
            bytes_max: 0,
            original: Extent::Whole,
        },
    }
}

fn text(rendered: &Rendered) -> String {
    String::from_utf8(rendered.wire.clone()).expect("UTF-8")
}

/// What a receiver would have after DATA.
fn received(wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut ended = false;
    for line in wire.split_inclusive(|&byte| byte == b'\n') {
        assert!(!ended, "bytes after the end of data");
        let bare = line.strip_suffix(b"\r\n").expect("lines end CRLF");
        assert!(!bare.contains(&b'\r'), "bare CR");
        if bare == b"." {
            ended = true;
            continue;
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    assert!(ended, "no end of data");
    content
}

/// Header and content of each MIME part.
fn parts(wire: &[u8]) -> (String, Vec<(String, Vec<u8>)>) {
    let content = received(wire);
    let (header, body) = cut(&content, b"\r\n\r\n").expect("a header");
    let header = String::from_utf8(header.to_vec()).expect("a UTF-8 header");
    let boundary = header.split("boundary=\"").nth(1).expect("a boundary");
    let boundary = boundary.split('"').next().expect("its end");
    let close = format!("\r\n--{boundary}--\r\n");
    let body = body
        .strip_suffix(close.as_bytes())
        .expect("the close delimiter");
    let delimiter = format!("--{boundary}\r\n");
    let mut rest = body
        .strip_prefix(delimiter.as_bytes())
        .expect("the first delimiter");
    let delimiter = format!("\r\n--{boundary}\r\n");
    let mut parts = Vec::new();
    loop {
        let next = cut(rest, delimiter.as_bytes());
        let (part, after) = next.unwrap_or((rest, b""));
        let (part_header, content) = cut(part, b"\r\n\r\n").expect("a part's header");
        let part_header = String::from_utf8(part_header.to_vec()).expect("ASCII");
        parts.push((part_header, content.to_vec()));
        if next.is_none() {
            return (header, parts);
        }
        rest = after;
    }
}

fn cut<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let position = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..position], &bytes[position + at.len()..]))
}

#[test]
fn golden_failure() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Headers);
    let (refused, expired) = (
        no_such_user(),
        diagnosis(
            (5, 4, 7),
            "cannot connect (at connect); given up after 5 days",
            "",
        ),
    );
    let recipients = [
        reported(0, ReportedAction::Failed, &refused),
        reported(1, ReportedAction::Failed, &expired),
    ];
    let wire = b"Subject: hello\r\nFrom: a@src.test\r\n\r\nsecret\r\n.\r\n";
    let rendered = render(&report(&envelope, &recipients, wire)).expect("a sender");
    assert_eq!(rendered.body_type, BodyType::SevenBit);
    assert!(!rendered.smtputf8);
    let expected = "\
Date: Fri, 15 Jan 2027 08:01:01 +0000
From: MAILER-DAEMON (Mail Delivery System) <MAILER-DAEMON@gw.test>
To: <a@src.test>
Subject: Undelivered mail returned to sender
Message-ID: <1-0-7.0.03e888340c219322@gw.test>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"1-0-7=gw.test\"

--1-0-7=gw.test
Content-Type: text/plain; charset=us-ascii
Content-Description: Notification

This is the mail system at gw.test.

Your message could not be delivered to the recipients below, and it will not
be tried again. What went wrong stands under each address.

<b@dst.test>
    The host mx.dst.test said: 550 5.1.1 no such user

<c@dst.test>
    cannot connect (at connect); given up after 5 days

What follows is the same for programs, and then the header of your message.

--1-0-7=gw.test
Content-Type: message/delivery-status
Content-Description: Delivery report

Reporting-MTA: dns; gw.test
Original-Envelope-Id: QQ+1
Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000

Original-Recipient: rfc822;Bob+x@dst.test
Final-Recipient: rfc822;b@dst.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.dst.test
Diagnostic-Code: smtp; 550 5.1.1 no such user
Last-Attempt-Date: Fri, 15 Jan 2027 08:01:00 +0000

Final-Recipient: rfc822;c@dst.test
Action: failed
Status: 5.4.7
Diagnostic-Code: x-ringpost; cannot connect (at connect); given up after 5
 days
Last-Attempt-Date: Fri, 15 Jan 2027 08:01:00 +0000

--1-0-7=gw.test
Content-Type: text/rfc822-headers
Content-Description: Message header

Subject: hello
From: a@src.test

--1-0-7=gw.test--
.
";
    assert_eq!(text(&rendered), expected.replace('\n', "\r\n"));
}

#[test]
fn nobody_is_told_about_a_report() {
    let mut envelope = envelope();
    envelope.reverse_path = None;
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    assert_eq!(render(&report(&envelope, &recipients, b"")), None);
}

#[test]
fn a_report_asks_for_no_report() {
    let envelope = envelope();
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let rendered = render(&report(&envelope, &recipients, b"")).expect("a sender");
    let own = rendered.envelope();
    assert_eq!(own.reverse_path, None);
    assert_eq!(
        own.recipients[0].forward_path,
        Mailbox::new("a", "src.test")
    );
    assert!(!own.recipients[0].wants_failure_report());
    let (_, parts) = parts(&rendered.wire);
    assert_eq!(parts.len(), 2, "no original, no third part");
}

#[test]
fn full_original_is_returned_to_the_byte() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Full);
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let wire = b"Subject: x\r\n\r\n..stuffed\r\n...\r\ngr\xfc\xdfe\r\n\r\n.\r\n";
    let rendered = render(&report(&envelope, &recipients, wire)).expect("a sender");
    assert_eq!(rendered.body_type, BodyType::EightBitMime);
    assert_eq!(rendered.envelope().body_type, BodyType::EightBitMime);
    assert!(!rendered.smtputf8);
    let (header, parts) = parts(&rendered.wire);
    assert!(header.contains("Content-Transfer-Encoding: 8bit"));
    assert!(parts[2].0.contains("message/rfc822"));
    assert_eq!(parts[2].1, received(wire));
}

#[test]
fn relayed_and_delayed_return_headers_whatever_ret_says() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Full);
    let relayed = diagnosis((2, 0, 0), "250 2.0.0 ok", "mx.dst.test");
    let waiting = diagnosis((4, 4, 1), "cannot connect (at connect)", "");
    let until = WallTime(1_800_400_000_000);
    let recipients = [
        reported(0, ReportedAction::from(ReportKind::Relayed), &relayed),
        reported(1, ReportedAction::Delayed { retry_until: until }, &waiting),
    ];
    let wire = b"Subject: x\r\n\r\nbody\r\n.\r\n";
    let rendered = render(&report(&envelope, &recipients, wire)).expect("a sender");
    let text = text(&rendered);
    for expected in [
        "Subject: Delayed mail (still being tried)\r\n",
        "Action: relayed\r\nStatus: 2.0.0\r\n",
        "Action: delayed\r\nStatus: 4.4.1\r\n",
        "Will-Retry-Until: Tue, 19 Jan 2027 23:06:40 +0000\r\n",
        "Content-Type: text/rfc822-headers\r\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    assert!(!text.contains("body"));
}

#[test]
fn bytes_wanted_of_the_original() {
    let mut envelope = envelope();
    let (small, large) = (1_000_000, 50_000_000);
    let headers = HEADER_BYTES_MAX;
    for (ret, reports_failure, most, bytes, wanted) in [
        (None, true, Extent::Whole, 100, 100),
        (None, true, Extent::Whole, small, small as usize),
        (None, true, Extent::Headers, small, headers),
        (None, true, Extent::Nothing, small, 0),
        (None, false, Extent::Whole, small, headers),
        (None, true, Extent::Whole, large, headers),
        (Some(Ret::Full), true, Extent::Whole, small, small as usize),
        (Some(Ret::Full), false, Extent::Whole, small, headers),
        (Some(Ret::Headers), true, Extent::Whole, small, headers),
    ] {
        envelope.ret = ret;
        let found = original_bytes_wanted(&envelope, reports_failure, most, bytes);
        assert_eq!(
            found, wanted,
            "{ret:?}, {most:?}, {bytes}, {reports_failure}"
        );
    }
}

/// The Message-ID of a report on these, and whether the original is in it.
fn identity(ret: Option<Ret>, recipients: &[Reported<'_>], most: Extent) -> (String, bool) {
    let mut envelope = envelope();
    envelope.ret = ret;
    let wire = b"Subject: hello\r\n\r\nsecret\r\n.\r\n";
    let mut report = report(&envelope, recipients, wire);
    report.taker.original = most;
    let text = text(&render(&report).expect("a sender"));
    let id = text.split("Message-ID: ").nth(1).expect("one");
    let id = id.split("\r\n").next().expect("a line");
    (id.to_owned(), text.contains("secret"))
}

#[test]
fn a_message_id_is_the_same_for_the_same_words_and_another_for_others() {
    let (refused, full) = (
        no_such_user(),
        diagnosis((5, 2, 2), "552 full", "mx.dst.test"),
    );
    let of = |recipients: &[Reported<'_>], most| identity(None, recipients, most).0;
    let one = [reported(0, ReportedAction::Failed, &refused)];
    let id = of(&one, Extent::Whole);
    assert!(
        id.starts_with("<1-0-7.0.") && id.ends_with("@gw.test>"),
        "{id}"
    );
    assert_eq!(of(&one, Extent::Whole), id);
    let others = [
        of(
            &[reported(1, ReportedAction::Failed, &refused)],
            Extent::Whole,
        ),
        of(
            &[reported(0, ReportedAction::Relayed, &refused)],
            Extent::Whole,
        ),
        of(&[reported(0, ReportedAction::Failed, &full)], Extent::Whole),
        of(
            &[one[0], reported(1, ReportedAction::Failed, &refused)],
            Extent::Whole,
        ),
        of(&one, Extent::Headers),
        of(&one, Extent::Nothing),
        id,
    ];
    let different: std::collections::BTreeSet<_> = others.iter().collect();
    assert_eq!(different.len(), others.len(), "{others:?}");
}

#[test]
fn the_original_is_returned_unless_ret_or_who_asks_wants_less() {
    let refused = no_such_user();
    let one = [reported(0, ReportedAction::Failed, &refused)];
    for (ret, most, is_whole) in [
        (None, Extent::Whole, true),
        (None, Extent::Headers, false),
        (Some(Ret::Full), Extent::Whole, true),
        (Some(Ret::Full), Extent::Headers, false),
        (Some(Ret::Headers), Extent::Whole, false),
    ] {
        assert_eq!(identity(ret, &one, most).1, is_whole, "{ret:?}, {most:?}");
    }
}

#[test]
fn endless_header_is_cut_at_a_line() {
    let envelope = envelope();
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let wire = b"X-Line: 0123456789\r\n".repeat(HEADER_BYTES_MAX / 10);
    let mut report = report(&envelope, &recipients, &wire);
    report.original.is_whole = false;
    let rendered = render(&report).expect("a sender");
    assert!(rendered.wire.len() < HEADER_BYTES_MAX + 4_096);
    let (_, parts) = parts(&rendered.wire);
    assert!(parts[2].1.ends_with(b"X-Line: 0123456789\r\n"));
}

#[test]
fn internationalised_mail_gets_the_forms_of_rfc_6533() {
    let mut envelope = envelope();
    envelope.smtputf8 = true;
    envelope.ret = Some(Ret::Headers);
    envelope.reverse_path = Some(Mailbox::new("\u{e4}", "src.test"));
    envelope.recipients[0].forward_path = Mailbox::new("j\u{f6}rg", "dst.test");
    envelope.recipients[0].orcpt = Some("utf-8;j\u{f6}rg@dst.test".into());
    let refused = diagnosis((5, 1, 1), "550 5.1.1 j\u{f6}rg is gone", "mx.dst.test");
    let recipients = [
        reported(0, ReportedAction::Failed, &refused),
        reported(1, ReportedAction::Failed, &refused),
    ];
    let wire = "Subject: gr\u{fc}n\r\n\r\nx\r\n.\r\n".as_bytes();
    let rendered = render(&report(&envelope, &recipients, wire)).expect("a sender");
    assert!(rendered.smtputf8 && rendered.envelope().smtputf8);
    assert_eq!(rendered.body_type, BodyType::EightBitMime);
    let text = text(&rendered);
    for expected in [
        "Content-Type: message/global-delivery-status\r\n",
        "Content-Type: message/global-headers\r\n",
        "Original-Recipient: utf-8;j\u{f6}rg@dst.test\r\n",
        "Final-Recipient: utf-8;j\u{f6}rg@dst.test\r\n",
        "Final-Recipient: rfc822;c@dst.test\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 j\u{f6}rg is gone\r\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

/// Mail that needs SMTPUTF8 in every way, from a sender who does not.
fn internationalised() -> Envelope {
    let mut envelope = envelope();
    envelope.smtputf8 = true;
    envelope.recipients[0].forward_path = Mailbox::new("j\u{f6}rg+x", "dst.test");
    envelope.recipients[0].orcpt = Some("utf-8;j\u{f6}rg\\x{2B}x@dst.test".into());
    envelope.recipients[1].forward_path = Mailbox::new("info", "b\u{fc}cher.test");
    envelope
}

#[test]
fn a_report_to_an_ascii_sender_needs_no_extension_of_the_host_that_refused_the_mail() {
    let mut envelope = internationalised();
    let refused = diagnosis((5, 6, 7), "550 j\u{f6}rg is gone", "mx.dst.test");
    let recipients = [
        reported(0, ReportedAction::Failed, &refused),
        reported(1, ReportedAction::Failed, &refused),
    ];
    let wire = "Subject: gr\u{fc}n\r\n..x: y\r\n\r\nb\u{f6}dy\r\n.\r\n".as_bytes();
    for (ret, media_type, returned) in [
        (
            Some(Ret::Headers),
            "message/global-headers",
            "Subject: gr\u{fc}n\r\n.x: y\r\n",
        ),
        (
            Some(Ret::Full),
            "message/global\r\n",
            "Subject: gr\u{fc}n\r\n.x: y\r\n\r\nb\u{f6}dy\r\n",
        ),
    ] {
        envelope.ret = ret;
        for eight_bit_mime in [true, false] {
            let mut report = report(&envelope, &recipients, wire);
            report.taker.eight_bit_mime = eight_bit_mime;
            let rendered = render(&report).expect("a sender");
            assert!(rendered.wire.is_ascii() && !rendered.smtputf8);
            assert_eq!(rendered.body_type, BodyType::SevenBit);
            let text = text(&rendered);
            for expected in [
                "Content-Type: message/delivery-status\r\n",
                "Original-Recipient: utf-8;j\\x{F6}rg\\x{2B}x@dst.test\r\n",
                "Final-Recipient: utf-8;j\\x{F6}rg\\x{2B}x@dst.test\r\n",
                "Final-Recipient: rfc822;info@xn--bcher-kva.test\r\n",
                "Diagnostic-Code: smtp; 550 j?rg is gone\r\n",
                media_type,
            ] {
                assert!(text.contains(expected), "{expected:?} in\n{text}");
            }
            let (_, parts) = parts(&rendered.wire);
            let people = String::from_utf8(decoded(&parts[0])).expect("UTF-8");
            assert!(people.contains("<j\u{f6}rg+x@dst.test>"), "{people}");
            assert!(people.contains("said: 550 j\u{f6}rg is gone"), "{people}");
            assert_eq!(decoded(&parts[2]), returned.as_bytes());
        }
    }
}

#[test]
fn a_sender_whose_domain_alone_is_not_ascii_is_told_in_ascii() {
    let mut envelope = envelope();
    envelope.reverse_path = Some(Mailbox::new("a", "b\u{fc}cher.test"));
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let rendered = render(&report(&envelope, &recipients, b"A: b\r\n\r\n.\r\n")).expect("a sender");
    assert!(rendered.wire.is_ascii() && !rendered.smtputf8);
    assert!(text(&rendered).contains("To: <a@xn--bcher-kva.test>\r\n"));
    let to = &rendered.envelope().recipients[0].forward_path;
    assert_eq!(to.as_str(), "a@xn--bcher-kva.test");
}

#[test]
fn a_report_has_no_8_bits_for_a_host_without_8bitmime() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Full);
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let utf8 = "Subject: x\r\n\r\ngr\u{fc}\u{df}e\r\n.\r\n".as_bytes();
    let latin1 = b"Subject: x.\r\n\r\ngr\xfc\xdfe\r\n.\r\n";
    for (wire, media_type, original) in [
        (utf8, "message/global", Extent::Whole),
        // No encoding of a whole message is for that.
        (latin1, "text/rfc822-headers", Extent::Headers),
    ] {
        let mut report = report(&envelope, &recipients, wire);
        report.taker.eight_bit_mime = false;
        let rendered = render(&report).expect("a sender");
        assert!(rendered.wire.is_ascii());
        assert_eq!(rendered.original, original);
        let (_, parts) = parts(&rendered.wire);
        assert!(parts[2].0.contains(media_type), "{}", parts[2].0);
        assert!(received(wire).starts_with(&decoded(&parts[2])));
    }
}

#[test]
fn a_report_is_not_larger_than_the_host_takes() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Full);
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let header = format!("X-Long: {}\r\n", "x".repeat(5_000));
    let wire = format!("{header}\r\n{}.\r\n", "body\r\n".repeat(10_000));
    for (bytes_max, original) in [
        (0, Extent::Whole),
        (100_000, Extent::Whole),
        (20_000, Extent::Headers),
        (4_000, Extent::Nothing),
        // Nothing is left to be left out: it is tried.
        (10, Extent::Nothing),
    ] {
        let mut report = report(&envelope, &recipients, wire.as_bytes());
        report.taker.bytes_max = bytes_max;
        assert_eq!(render(&report).expect("a sender").original, original);
        report.taker.bytes_max = 0;
        report.taker.original = original;
        assert_eq!(render(&report).expect("a sender").original, original);
    }
}

#[test]
fn what_may_be_refused_for_the_original() {
    let refused = |stage, text: &str| {
        let (code, rest) = text.split_once(' ').expect("a code");
        let reply = Reply::new(code.parse().expect("a number"), rest).into();
        may_be_for_the_original(&TransactionResult {
            verdicts: vec![(0, RecipientVerdict::Refused { stage, reply })],
            relayed: Vec::new(),
            reusable: true,
            cut_short: None,
            waited: None,
        })
    };
    assert!(refused(Stage::FinalDot, "554 5.7.1 looks like spam"));
    assert!(refused(Stage::FinalDot, "552 5.3.4 too large"));
    assert!(refused(Stage::Mail, "552 too large"));
    assert!(refused(Stage::Mail, "554 5.6.1 no 8 bits"));
    assert!(!refused(Stage::FinalDot, "451 4.3.0 not now"));
    assert!(!refused(Stage::Mail, "550 5.7.1 no bounces here"));
    assert!(!refused(Stage::Rcpt, "550 5.1.1 no such user"));
}

/// The content of a part without its transfer encoding.
fn decoded((header, content): &(String, Vec<u8>)) -> Vec<u8> {
    if !header.contains("Content-Transfer-Encoding: quoted-printable") {
        return content.clone();
    }
    let text = std::str::from_utf8(content).expect("ASCII");
    assert!(
        text.lines()
            .all(|line| line.len() <= 76 && !line.starts_with(['.', '-']))
    );
    let joined = text.replace("=\r\n", "");
    let mut rest = joined.as_bytes();
    let mut decoded = Vec::new();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'=' => {
                let digits = std::str::from_utf8(&after[..2]).expect("two digits");
                decoded.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
                rest = &after[2..];
            }
            byte => decoded.push(byte),
        }
    }
    decoded
}

#[test]
fn smtputf8_mail_that_is_all_ascii_gets_a_plain_report() {
    let mut envelope = envelope();
    envelope.smtputf8 = true;
    let refused = diagnosis((5, 1, 1), "550 gr\u{fc}\u{df}e", "mx.dst.test");
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let rendered = render(&report(&envelope, &recipients, b"A: b\r\n\r\n.\r\n")).expect("a sender");
    assert!(!rendered.smtputf8 && rendered.wire.is_ascii());
    assert!(text(&rendered).contains("smtp; 550 gr??e\r\n"));
}

#[test]
fn a_boundary_in_the_original_is_avoided() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Full);
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    let wire = b"A: b\r\n\r\n--1-0-7=gw.test--\r\n--1-0-7=gw.test=1\r\n.\r\n";
    let rendered = render(&report(&envelope, &recipients, wire)).expect("a sender");
    let (header, parts) = parts(&rendered.wire);
    assert!(header.contains("boundary=\"1-0-7=gw.test=2\""), "{header}");
    assert_eq!(parts[2].1, received(wire));

    let mut wire = b"A: b\r\n\r\n--1-0-7=gw.test\r\n".to_vec();
    for attempt in 1..BOUNDARIES_MAX {
        wire.extend_from_slice(format!("--1-0-7=gw.test={attempt}\r\n").as_bytes());
    }
    wire.extend_from_slice(b".\r\n");
    let rendered = render(&report(&envelope, &recipients, &wire)).expect("a sender");
    assert_eq!(self::parts(&rendered.wire).1.len(), 2);
}

#[test]
fn a_broken_original_is_left_out() {
    let mut envelope = envelope();
    envelope.ret = Some(Ret::Full);
    let refused = no_such_user();
    let recipients = [reported(0, ReportedAction::Failed, &refused)];
    for wire in [
        &b"A: b\r\n\r\nx\r\n.\r\nMAIL FROM:<x@y>\r\n.\r\n"[..],
        b"A: b\r\n\r\nbare\nlf\r\n.\r\n",
        b"A: b\r\n\r\nno end",
    ] {
        let rendered = render(&report(&envelope, &recipients, wire)).expect("a sender");
        let (_, parts) = parts(&rendered.wire);
        assert!(parts[2].0.contains("text/rfc822-headers"));
        assert_eq!(parts[2].1, b"A: b\r\n");
    }
}

#[test]
fn xtext_is_decoded_and_made_printable() {
    for (text, expected) in [
        ("abc", "abc"),
        ("a+2Bb+3D", "a+b="),
        ("a+0D+0ASubject:+20x", "a??Subject: x"),
        ("+", "+"),
        ("+2", "+2"),
        ("+2b", "+2b"),
        ("+C3+B6", "\u{f6}"),
        ("+FF", "?"),
    ] {
        assert_eq!(&*decode_xtext(text), expected, "{text:?}");
    }
}

fn nasty_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        Just("\r\n".into()),
        Just("\r\n.\r\n".into()),
        Just("\r\n\r\n".into()),
        Just("\n--1-0-7=gw.test\r\n".into()),
        Just("\r\nBcc: x@y\r\n".into()),
        Just("+0D+0A".into()),
        Just("x".repeat(950)),
        Just("550 5.1.1 no ".into()),
        Just(".".into()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn nasty_original() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<Vec<u8>>(),
        Just(b"Subject: x\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"..\r\n".to_vec()),
        Just(b".\r\n".to_vec()),
        Just(b"--1-0-7=gw.test\r\n".to_vec()),
        Just(b"--1-0-7=gw.test=1--\r\n".to_vec()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever strangers write, the report has its parts, its fields and its end, and no others.
    #[test]
    fn nothing_can_be_injected(
        reply in nasty_text(),
        host in nasty_text(),
        envid in nasty_text(),
        orcpt in nasty_text(),
        original in nasty_original(),
        full in any::<bool>(),
        is_whole in any::<bool>(),
        smtputf8 in any::<bool>(),
        eight_bit_mime in any::<bool>(),
    ) {
        let mut envelope = envelope();
        envelope.envid = Some(envid.into());
        envelope.smtputf8 = smtputf8;
        envelope.ret = Some(if full { Ret::Full } else { Ret::Headers });
        envelope.recipients[0].orcpt = Some(orcpt.into());
        let told = diagnosis((5, 0, 0), &reply, &host);
        let recipients = [
            reported(0, ReportedAction::Failed, &told),
            reported(1, ReportedAction::Relayed, &told),
        ];
        let mut report = report(&envelope, &recipients, &original);
        report.original.is_whole = is_whole;
        report.taker.eight_bit_mime = eight_bit_mime;
        let rendered = render(&report).expect("a sender");
        prop_assert_eq!(&rendered, &render(&report).expect("a sender"), "the same twice");

        if original.is_empty() {
            let longest = rendered.wire.split(|&byte| byte == b'\n').map(<[u8]>::len).max();
            prop_assert!(longest <= Some(999), "{:?} with its CR", longest);
        }
        let (header, parts) = parts(&rendered.wire);
        prop_assert_eq!(header.split("\r\n").count(), 9 + usize::from(!rendered.wire.is_ascii()));
        prop_assert!(parts.len() == 2 || parts.len() == 3);
        let status = std::str::from_utf8(&parts[1].1).expect("UTF-8");
        prop_assert_eq!(status.split("\r\n\r\n").count(), 3, "fields of the message, of each recipient");
        prop_assert_eq!(status.matches("\r\nAction: ").count(), 2);
        for field in status.split("\r\n").filter(|line| !line.is_empty()) {
            let known = ["Reporting-MTA: ", "Original-", "Arrival-Date: ", "Final-Recipient: ", "Action: ",
                "Status: ", "Remote-MTA: ", "Diagnostic-Code:", "Last-Attempt-Date: ", " "];
            prop_assert!(known.iter().any(|name| field.starts_with(name)), "{:?}", field);
        }
        prop_assert!(!rendered.smtputf8);
        prop_assert!(eight_bit_mime || rendered.wire.is_ascii());
        if let Some(part) = parts.get(2) {
            let whole = received_prefix(&original);
            prop_assert!(whole.starts_with(&decoded(part)), "the original, or its start");
        }
    }
}

/// The original without its dots, as far as it goes.
fn received_prefix(wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for line in wire.split_inclusive(|&byte| byte == b'\n') {
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    content
}
