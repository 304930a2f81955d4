//! What we say when we say no, and how it is written.

use crate::smtp::data::Violation;
use crate::smtp::refusal::Refusal;
use crate::text::push_decimal;

/// Octets of a refusal's text in a reply: the whole line stays under 512 (RFC 5321 section 4.5.3.1.5).
pub const REFUSAL_TEXT_BYTES_MAX: usize = 480;

macro_rules! refusals {
    ($($name:ident = $code:literal, $subject:literal, $detail:literal, $text:literal;)*) => {
        $(pub const $name: Refusal = Refusal::new($code, $subject, $detail, $text);)*
    };
}

// The class of the enhanced status is the first digit of the code.
refusals! {
    UNKNOWN_COMMAND = 500, 5, 1, "Unknown command";
    LINE_TOO_LONG = 500, 5, 2, "Line too long";
    NO_EXPN = 502, 7, 0, "Lists are not expanded";
    NO_AUTH = 502, 5, 1, "Authentication is not offered";
    NO_CHUNKING = 502, 5, 1, "BDAT is not offered: send DATA";
    NO_STARTTLS = 502, 5, 1, "STARTTLS is not offered";
    TLS_ACTIVE = 503, 5, 1, "TLS is already active";
    HELLO_FIRST = 503, 5, 1, "EHLO first";
    MAIL_FIRST = 503, 5, 1, "MAIL first";
    RCPT_FIRST = 503, 5, 1, "RCPT first";
    NESTED_MAIL = 503, 5, 1, "A transaction is under way";
    IN_TRANSACTION = 503, 5, 1, "Not within a transaction";
    AMONG_CHUNKS = 503, 5, 1, "Not among chunks: BDAT or RSET";
    MUST_STARTTLS = 530, 7, 0, "Must issue a STARTTLS command first";
    NO_RECIPIENTS = 554, 5, 1, "No valid recipients";
    TOO_LARGE = 552, 3, 4, "Message too large";
    TOO_MANY_RECIPIENTS = 452, 5, 3, "Too many recipients";
    TOO_MANY_ERRORS = 421, 7, 0, "Too many errors";
    TOO_MANY_IDLE_COMMANDS = 421, 7, 0, "Too many commands without a message";
    TOO_MANY_SMALL_CHUNKS = 421, 7, 0, "Too many small chunks";
    TOO_MANY_REFUSALS = 421, 7, 0, "Too many refused commands";
    TOO_SLOW_IN_CROWD = 421, 3, 2, "Too busy to wait any longer, try later";
    TOO_MANY_TRANSACTIONS = 421, 7, 0, "Too many messages in this session";
    NOT_SMTP = 521, 5, 1, "This is an SMTP server";
    CHUNK_SIZE = 521, 5, 4, "Syntax: BDAT size [LAST]; cannot tell where this chunk ends";
    BARE_LF_IN_COMMAND = 521, 5, 2, "Bare <LF>: a command line ends with <CR><LF>";
    ENDLESS_LINE = 521, 5, 2, "Line without an end";
    TEXT_WITHOUT_354 = 521, 5, 1, "Message text where a command was expected";
    END_OF_DATA = 521, 5, 2, "Data ends with <CR><LF>.<CR><LF>, not with bare <LF>";
    BARE_CR = 550, 6, 0, "Bare <CR> in message: end its lines with <CR><LF>, or ask the receiving site for --bare-line-ends normalise";
    BARE_LF = 550, 6, 0, "Bare <LF> in message: end its lines with <CR><LF>, or ask the receiving site for --bare-line-ends normalise";
    NUL = 550, 6, 0, "NUL in message";
    TEXT_LINE_TOO_LONG = 554, 6, 0, "Line too long in message";
    TOO_MANY_HOPS = 554, 4, 6, "Too many hops: a mail loop";
}

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
