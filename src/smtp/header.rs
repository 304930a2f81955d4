//! Single fields of a header section (RFC 5322 section 2.2), found without understanding the rest.

use memchr::memchr;

/// The field is looked for in this much of the content: what comes first is the trace, and the
/// rest may be of any length.
const LOOKED_AT_BYTES_MAX: usize = 32 * 1024;

const MESSAGE_ID: &[u8] = b"message-id:";

/// The value of the first `Message-ID` field, brackets included, up to its first space or line end;
/// `None` if there is none near the start. `content` has CRLF line ends.
pub fn message_id(content: &[u8]) -> Option<&[u8]> {
    let mut rest = &content[..content.len().min(LOOKED_AT_BYTES_MAX)];
    loop {
        // Most lines are told apart by their first octet.
        match rest.first()? {
            b'm' | b'M' if has_name(rest) => return value(&rest[MESSAGE_ID.len()..]),
            b'\r' => return None,
            _ => {}
        }
        rest = &rest[memchr(b'\n', rest)? + 1..];
    }
}

fn has_name(line: &[u8]) -> bool {
    line.get(..MESSAGE_ID.len())
        .is_some_and(|name| name.eq_ignore_ascii_case(MESSAGE_ID))
}

/// The value may be folded behind the name.
fn value(text: &[u8]) -> Option<&[u8]> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace();
    let mut text = text;
    loop {
        let spaces = text.iter().take_while(|&byte| matches!(byte, b' ' | b'\t'));
        text = &text[spaces.count()..];
        match text {
            [b'\r', b'\n', b' ' | b'\t', ..] => text = &text[2..],
            _ => break,
        }
    }
    let end = text.iter().position(is_space).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_message_id_is_found() {
        let table = [
            ("Message-ID: <a@b>\r\n\r\n", Some("<a@b>")),
            ("message-id:<a@b>\r\n", Some("<a@b>")),
            (
                "Received: x\r\n\tby y\r\nMESSAGE-ID:\t<a@b> (c)\r\n\r\n",
                Some("<a@b>"),
            ),
            ("Message-ID:\r\n <a@b>\r\n\r\n", Some("<a@b>")),
            ("Message-ID: \r\n\t \r\n <a@b>\r\n\r\n", Some("<a@b>")),
            ("Message-ID: <a@b>", Some("<a@b>")),
            ("Message-ID:\r\nSubject: x\r\n\r\n", None),
            ("Message-ID:", None),
            ("Message-IDs: <a@b>\r\n\r\n", None),
            ("Subject: x\r\n Message-ID: <a@b>\r\n\r\n", None),
            ("Subject: x\r\n\r\nMessage-ID: <a@b>\r\n", None),
            ("\r\n", None),
            ("", None),
            ("M", None),
        ];
        for (content, expected) in table {
            let found = message_id(content.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{content:?}");
        }
    }

    #[test]
    fn a_header_section_without_end_is_not_read_to_its_end() {
        let long = format!(
            "X: {}\r\nMessage-ID: <a@b>\r\n",
            "x".repeat(LOOKED_AT_BYTES_MAX)
        );
        assert_eq!(message_id(long.as_bytes()), None);
    }
}
