//! The trace header field (RFC 5321 section 4.4): who gave us this message, how, and when.
//!
//! Written once per message, so it is put together from pieces, without `format!`.

use std::net::IpAddr;

use crate::message::{Envelope, MessageId, TlsSummary};
use crate::time::WallTime;

use crate::text::{push_decimal, push_ipv4};

/// What the session knows. Text from the peer is made safe here.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The argument of EHLO or HELO.
    pub hello: &'a str,
    /// EHLO, not HELO.
    pub is_esmtp: bool,
    pub address: IpAddr,
    pub tls: Option<&'a TlsSummary>,
    /// Our own name.
    pub hostname: &'a str,
}

/// Appends `Received:` with its CRLF, folded. The recipient is named only if it is the only one:
/// otherwise blind copies would be told of each other.
pub fn write_received(
    origin: &Origin<'_>,
    envelope: &Envelope,
    id: MessageId,
    now: WallTime,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"Received: from ");
    push_domain(origin.hello, out);
    out.extend_from_slice(b" (");
    push_address_literal(origin.address, out);
    out.extend_from_slice(b")\r\n\tby ");
    out.extend_from_slice(origin.hostname.as_bytes());
    out.extend_from_slice(b" (ringpost) with ");
    push_protocol(origin, envelope.smtputf8, out);
    if let Some(tls) = origin.tls {
        push_tls_comment(tls, out);
    }
    out.extend_from_slice(b"\r\n\tid ");
    id.push_to(out);
    // In ASCII, or not at all: our field must not be what makes a message need SMTPUTF8.
    if let [only] = &envelope.recipients[..]
        && let Some(forward_path) = only.forward_path.in_ascii()
    {
        out.extend_from_slice(b"\r\n\tfor <");
        out.extend_from_slice(forward_path.as_bytes());
        out.push(b'>');
    }
    if let Some(tls) = origin.tls {
        // RFC 8314 section 4.3.
        out.extend_from_slice(b"\r\n\ttls ");
        out.extend_from_slice(tls.cipher.as_bytes());
    }
    out.extend_from_slice(b";\r\n\t");
    push_date(now, out);
    out.extend_from_slice(b"\r\n");
}

/// RFC 3848, and RFC 6531 section 4.3 for SMTPUTF8.
fn push_protocol(origin: &Origin<'_>, smtputf8: bool, out: &mut Vec<u8>) {
    let name: &[u8] = match (origin.is_esmtp, smtputf8) {
        (_, true) => b"UTF8SMTP",
        (true, false) => b"ESMTP",
        (false, false) => b"SMTP",
    };
    out.extend_from_slice(name);
    if origin.tls.is_some() && (origin.is_esmtp || smtputf8) {
        out.push(b'S');
    }
}

fn push_tls_comment(tls: &TlsSummary, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n\t(");
    out.extend_from_slice(tls.version.as_bytes());
    out.extend_from_slice(b" cipher ");
    out.extend_from_slice(tls.cipher.as_bytes());
    if !tls.key_exchange.is_empty() {
        out.extend_from_slice(b" kx ");
        out.extend_from_slice(tls.key_exchange.as_bytes());
    }
    out.extend_from_slice(b" verify=");
    out.extend_from_slice(tls.verdict.name().as_bytes());
    out.push(b')');
}

/// Whatever is neither of a domain nor of an address literal becomes `?`: no comment, quote or
/// line of the peer's making stands in our header.
fn push_domain(text: &str, out: &mut Vec<u8>) {
    out.extend(text.bytes().map(|byte| match byte {
        b'-' | b'.' | b'_' | b':' | b'[' | b']' => byte,
        _ if byte.is_ascii_alphanumeric() => byte,
        _ => b'?',
    }));
}

/// RFC 5321 section 4.1.3. An IPv4 address in IPv6 clothes is shown as IPv4.
pub fn push_address_literal(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            out.push(b'[');
            push_ipv4(address, out);
        }
        IpAddr::V6(address) => {
            use std::io::Write;
            // Writing to a Vec cannot fail.
            let _ = write!(out, "[IPv6:{address}");
        }
    }
    out.push(b']');
}

/// Appends a date-time of RFC 5322 section 3.3, always in +0000.
pub fn push_date(time: WallTime, out: &mut Vec<u8>) {
    const WEEKDAYS: &[u8; 21] = b"MonTueWedThuFriSatSun";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

    let at = time.in_utc();
    let weekday = 3 * usize::from(at.weekday().number_days_from_monday());
    let month = 3 * (usize::from(u8::from(at.month())) - 1);
    out.extend_from_slice(&WEEKDAYS[weekday..weekday + 3]);
    out.extend_from_slice(b", ");
    push_two_digits(at.day(), out);
    out.push(b' ');
    out.extend_from_slice(&MONTHS[month..month + 3]);
    out.push(b' ');
    push_decimal(u64::from(at.year().unsigned_abs()), out);
    out.push(b' ');
    push_two_digits(at.hour(), out);
    out.push(b':');
    push_two_digits(at.minute(), out);
    out.push(b':');
    push_two_digits(at.second(), out);
    out.extend_from_slice(b" +0000");
}

fn push_two_digits(number: u8, out: &mut Vec<u8>) {
    out.push(b'0' + number / 10);
    out.push(b'0' + number % 10);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{CertificateVerdict, Mailbox, Recipient};
    use proptest::prelude::*;

    const TLS: TlsSummary = TlsSummary {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        key_exchange: "X25519",
        resumed: false,
        verdict: CertificateVerdict::Unasked,
    };
    const ID: MessageId = MessageId {
        run: 0x2f,
        core: 3,
        sequence: 0xdead,
    };

    fn origin(hello: &str) -> Origin<'_> {
        Origin {
            hello,
            is_esmtp: true,
            address: IpAddr::from([192, 0, 2, 1]),
            tls: None,
            hostname: "mx.test",
        }
    }

    fn envelope(recipients: &[&str]) -> Envelope {
        Envelope {
            recipients: recipients
                .iter()
                .map(|local_part| Recipient::new(Mailbox::new(local_part, "c.test")))
                .collect(),
            ..Envelope::default()
        }
    }

    fn received(origin: &Origin<'_>, envelope: &Envelope) -> String {
        let mut out = Vec::new();
        write_received(origin, envelope, ID, WallTime(1_763_995_877_123), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_esmtp() {
        assert_eq!(
            received(&origin("a.test"), &envelope(&["b"])),
            "Received: from a.test ([192.0.2.1])\r\n\
             \tby mx.test (ringpost) with ESMTP\r\n\
             \tid 2F-3-DEAD\r\n\
             \tfor <b@c.test>;\r\n\
             \tMon, 24 Nov 2025 14:51:17 +0000\r\n"
        );
    }

    #[test]
    fn tls_is_told_twice() {
        let origin = Origin {
            tls: Some(&TLS),
            ..origin("a.test")
        };
        assert_eq!(
            received(&origin, &envelope(&["b", "c"])),
            "Received: from a.test ([192.0.2.1])\r\n\
             \tby mx.test (ringpost) with ESMTPS\r\n\
             \t(TLSv1.3 cipher TLS_AES_128_GCM_SHA256 kx X25519 verify=unasked)\r\n\
             \tid 2F-3-DEAD\r\n\
             \ttls TLS_AES_128_GCM_SHA256;\r\n\
             \tMon, 24 Nov 2025 14:51:17 +0000\r\n"
        );
    }

    #[test]
    fn protocol_names() {
        let name = |is_esmtp, smtputf8, tls| {
            let origin = Origin {
                is_esmtp,
                tls,
                ..origin("a")
            };
            let mut out = Vec::new();
            push_protocol(&origin, smtputf8, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(name(false, false, None), "SMTP");
        assert_eq!(name(true, false, None), "ESMTP");
        assert_eq!(name(true, false, Some(&TLS)), "ESMTPS");
        assert_eq!(name(true, true, None), "UTF8SMTP");
        assert_eq!(name(true, true, Some(&TLS)), "UTF8SMTPS");
    }

    #[test]
    fn hello_cannot_inject() {
        let text = received(&origin("a)\r\nBcc: <x>(\"\\;@"), &envelope(&[]));
        assert!(text.starts_with("Received: from a???Bcc:??x?????? ([192.0.2.1])\r\n"));
    }

    #[test]
    fn address_literals() {
        let literal = |address: &str| {
            let mut out = Vec::new();
            push_address_literal(address.parse().unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(literal("2001:db8::1"), "[IPv6:2001:db8::1]");
        assert_eq!(literal("::ffff:192.0.2.1"), "[192.0.2.1]");
    }

    #[test]
    fn dates_at_the_edges() {
        let date = |seconds: u64| {
            let mut out = Vec::new();
            push_date(WallTime(seconds * 1000), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(date(951_782_399), "Mon, 28 Feb 2000 23:59:59 +0000");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(date(1_735_689_599), "Tue, 31 Dec 2024 23:59:59 +0000");
        assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 +0000");
    }

    proptest! {
        #[test]
        fn dates_agree_with_the_time_crate(seconds in 0u64..253_402_300_800) {
            let mut out = Vec::new();
            push_date(WallTime(seconds * 1000), &mut out);
            let theirs = time::OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
                .format(&time::format_description::well_known::Rfc2822).unwrap();
            prop_assert_eq!(String::from_utf8(out).unwrap(), theirs);
        }

        #[test]
        fn id_is_written_as_it_displays(run: u32, core: u16, sequence: u64) {
            let id = MessageId { run, core, sequence };
            let mut out = Vec::new();
            id.push_to(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), id.to_string());
        }

        #[test]
        fn any_hello_makes_one_folded_field(hello in ".{0,255}") {
            let text = received(&origin(&hello), &envelope(&["b"]));
            let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
            prop_assert!(lines.iter().skip(1).all(|line| line.starts_with('\t')));
            prop_assert!(!text.replace("\r\n", "").replace('\t', "").chars().any(char::is_control));
        }
    }
}
