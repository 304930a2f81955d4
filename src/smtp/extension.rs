//! The service extensions that we offer (RFC 5321 section 4.1.1.1), as EHLO lists them.

use crate::text::push_decimal;

/// Appends the whole 250 reply to EHLO: our name, then one keyword a line.
///
/// `SIZE` (RFC 1870) says `max_message_bytes`. `STARTTLS` (RFC 3207) is listed only if
/// `offer_starttls`: never within TLS.
pub fn write_ehlo(
    hostname: &str,
    max_message_bytes: u64,
    offer_starttls: bool,
    offer_chunking: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"250-");
    out.extend_from_slice(hostname.as_bytes());
    out.extend_from_slice(b"\r\n250-PIPELINING\r\n250-SIZE ");
    push_decimal(max_message_bytes, out);
    if offer_starttls {
        out.extend_from_slice(b"\r\n250-STARTTLS");
    }
    out.extend_from_slice(b"\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n");
    out.extend_from_slice(match offer_chunking {
        true => b"250-DSN\r\n250 CHUNKING\r\n",
        false => b"250 DSN\r\n",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(offer_starttls: bool) -> String {
        let mut out = Vec::new();
        write_ehlo("mx.test", 52_428_800, offer_starttls, true, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn chunking_need_not_be_offered() {
        let mut out = Vec::new();
        write_ehlo("mx.test", 1, true, false, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\r\n250-SMTPUTF8\r\n250 DSN\r\n"), "{text}");
    }

    #[test]
    fn starttls_is_listed_only_when_offered() {
        assert!(listed(true).contains("\r\n250-STARTTLS\r\n"));
        assert!(!listed(false).contains("STARTTLS"));
    }

    #[test]
    fn every_line_but_the_last_goes_on() {
        let text = listed(true);
        let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
        let (last, before) = lines.split_last().unwrap();
        assert!(last.starts_with("250 "));
        assert!(before.iter().all(|line| line.starts_with("250-")));
        assert!(text.contains("\r\n250-SIZE 52428800\r\n"));
    }
}
