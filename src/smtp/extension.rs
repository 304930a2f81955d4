//! The service extensions (RFC 5321 section 4.1.1.1), each declared once: for what we offer, and for what next hops do.

use crate::text::push_decimal;

/// Declares the extensions in the order in which EHLO lists them: name, keyword, and whether it is one of ours.
macro_rules! extensions {
    ($($(#[$about:meta])* $name:ident = $keyword:literal $whose:ident;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Extension {
            $($(#[$about])* $name,)*
        }

        const ALL: &[(Extension, &str)] = &[$((Extension::$name, $keyword),)*];

        impl Extensions {
            /// Those that a relay of ours offers, unless it is told otherwise.
            pub const OURS: Extensions = Extensions(0 $(| extensions!(@$whose $name))*);
        }
    };
    (@ours $name:ident) => { 1 << Extension::$name as u16 };
    (@theirs $name:ident) => { 0 };
}

extensions! {
    /// RFC 2920.
    Pipelining = "PIPELINING" ours;
    /// RFC 1870. Its parameter is the largest message.
    Size = "SIZE" ours;
    /// RFC 3207.
    StartTls = "STARTTLS" ours;
    /// RFC 2034.
    EnhancedStatusCodes = "ENHANCEDSTATUSCODES" ours;
    /// RFC 6152.
    EightBitMime = "8BITMIME" ours;
    /// RFC 6531.
    SmtpUtf8 = "SMTPUTF8" ours;
    /// RFC 3461.
    Dsn = "DSN" ours;
    /// RFC 3030.
    Chunking = "CHUNKING" ours;
    /// RFC 9422. Its parameters are what the peer takes in a session and a transaction.
    Limits = "LIMITS" theirs;
}

/// Some of the extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions(u16);

impl Extensions {
    pub const fn has(self, extension: Extension) -> bool {
        self.0 & 1 << extension as u16 != 0
    }

    #[must_use]
    pub const fn with(self, extension: Extension) -> Self {
        Extensions(self.0 | 1 << extension as u16)
    }

    #[must_use]
    pub const fn without(self, extension: Extension) -> Self {
        Extensions(self.0 & !(1 << extension as u16))
    }

    fn each(self) -> impl Iterator<Item = (Extension, &'static str)> {
        let all = ALL.iter().copied();
        all.filter(move |(extension, _)| self.has(*extension))
    }
}

impl Extension {
    /// By its keyword, in any case.
    pub fn of_keyword(keyword: &str) -> Option<Self> {
        let mut all = ALL.iter();
        let found = all.find(|(_, known)| known.eq_ignore_ascii_case(keyword))?;
        Some(found.0)
    }
}

/// The reply to one EHLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    pub extensions: Extensions,
    /// The parameter of SIZE.
    pub message_bytes_max: u64,
}

impl Offer {
    /// Appends the whole 250 reply: our name, then one keyword a line.
    pub fn write(&self, hostname: &str, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"250-");
        out.extend_from_slice(hostname.as_bytes());
        let mut last = start;
        for (extension, keyword) in self.extensions.each() {
            last = out.len() + 2;
            out.extend_from_slice(b"\r\n250-");
            out.extend_from_slice(keyword.as_bytes());
            if extension == Extension::Size {
                out.push(b' ');
                push_decimal(self.message_bytes_max, out);
            }
        }
        out.extend_from_slice(b"\r\n");
        // No reply goes on behind its last line.
        out[last + 3] = b' ';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(extensions: Extensions) -> String {
        let mut out = b"before\r\n".to_vec();
        let offer = Offer {
            extensions,
            message_bytes_max: 52_428_800,
        };
        offer.write("mx.test", &mut out);
        String::from_utf8(out.split_off(8)).unwrap()
    }

    #[test]
    fn what_is_ours_is_listed_in_order_and_all_lines_but_the_last_go_on() {
        assert_eq!(
            listed(Extensions::OURS),
            "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-STARTTLS\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 CHUNKING\r\n"
        );
    }

    #[test]
    fn what_is_not_offered_is_not_listed() {
        let less = Extensions::OURS
            .without(Extension::Chunking)
            .without(Extension::StartTls);
        let text = listed(less);
        assert!(!text.contains("STARTTLS"), "{text}");
        assert!(text.ends_with("\r\n250-SMTPUTF8\r\n250 DSN\r\n"), "{text}");
        assert_eq!(listed(Extensions::default()), "250 mx.test\r\n");
    }

    #[test]
    fn keywords_are_found_in_any_case() {
        for (extension, keyword) in ALL {
            let found = Extension::of_keyword(&keyword.to_lowercase());
            assert_eq!(found, Some(*extension));
            assert!(Extensions::default().with(*extension).has(*extension));
        }
        assert_eq!(Extension::of_keyword("STARTTLSX"), None);
        assert_eq!(Extension::of_keyword(""), None);
    }
}
