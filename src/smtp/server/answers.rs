//! How replies are written.

use crate::smtp::data::Violation;
use crate::smtp::refusal::Refusal;
use crate::smtp::refusals::*;
use crate::text::push_decimal;

/// Octets of a refusal's text in a reply: the whole line stays under 512 (RFC 5321 section 4.5.3.1.5).
pub const REFUSAL_TEXT_BYTES_MAX: usize = 480;

pub fn content_refusal(violation: Violation) -> Refusal {
    match violation {
        Violation::BareCr => BARE_CR,
        Violation::BareLf => BARE_LF,
        Violation::Nul => NUL,
        Violation::LineTooLong => TEXT_LINE_TOO_LONG,
        Violation::TooLarge => TOO_LARGE,
        Violation::TooManyHops => TOO_MANY_HOPS,
    }
}

pub fn write_line(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// One line: code, enhanced status, text. The text may quote a peer.
pub fn write_refusal(refusal: &Refusal, out: &mut Vec<u8>) {
    push_decimal(u64::from(refusal.code), out);
    out.push(b' ');
    push_decimal(u64::from(refusal.status.class), out);
    out.push(b'.');
    push_decimal(u64::from(refusal.status.subject), out);
    out.push(b'.');
    push_decimal(u64::from(refusal.status.detail), out);
    out.push(b' ');
    push_printable(&refusal.text, out);
    out.extend_from_slice(b"\r\n");
}

/// Whatever is not printable ASCII becomes `?`, and the rest is cut.
fn push_printable(text: &str, out: &mut Vec<u8>) {
    let printable = |character: char| match character {
        ' '..='~' => character as u8,
        _ => b'?',
    };
    out.extend(text.chars().take(REFUSAL_TEXT_BYTES_MAX).map(printable));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(refusal: &Refusal) -> String {
        let mut out = Vec::new();
        write_refusal(refusal, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn class_follows_from_code() {
        assert_eq!(
            written(&TOO_MANY_RECIPIENTS),
            "452 4.5.3 Too many recipients\r\n"
        );
        assert_eq!(written(&NO_RECIPIENTS), "554 5.5.1 No valid recipients\r\n");
    }

    #[test]
    fn quoted_peer_cannot_end_the_line() {
        let refusal = Refusal {
            text: "x\r\n250 2.0.0 Ok\0\u{85}é".into(),
            ..NO_RECIPIENTS
        };
        assert_eq!(written(&refusal), "554 5.5.1 x??250 2.0.0 Ok???\r\n");
    }

    #[test]
    fn long_text_is_cut() {
        let refusal = Refusal {
            text: "é".repeat(2000).into(),
            ..NO_RECIPIENTS
        };
        assert!(written(&refusal).len() <= 512);
    }
}
