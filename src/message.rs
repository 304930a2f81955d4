//! What a message is between the rooms: identity, envelope, and how it was received.
//!
//! Promise: plain values. An envelope says what the client said, in its own spelling.
//! Not here: the content, and where it lies.

use crate::domain::{Domain, DomainError};
use crate::text::push_hex;
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Names a message for ever. Never reused: `run` grows with every start of the relay on this
/// spool, `core` is the log it was accepted into, `sequence` grows within the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MessageId {
    pub run: u32,
    pub core: u16,
    pub sequence: u64,
}

impl MessageId {
    /// Appends the id as it displays itself.
    pub fn push_to(self, out: &mut Vec<u8>) {
        push_hex(self.run.into(), out);
        out.push(b'-');
        push_hex(self.core.into(), out);
        out.push(b'-');
        push_hex(self.sequence, out);
    }
}

/// In one piece: a message is looked up by its id half a dozen times, and a hasher is paid by the piece.
impl Hash for MessageId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let origin = u64::from(self.run) << 32 ^ u64::from(self.core) << 48;
        state.write_u64(self.sequence ^ origin);
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}-{:X}-{:X}", self.run, self.core, self.sequence)
    }
}

impl FromStr for MessageId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let (Some(run), Some(core), Some(sequence), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        Ok(MessageId {
            run: u32::from_str_radix(run, 16).map_err(drop)?,
            core: u16::from_str_radix(core, 16).map_err(drop)?,
            sequence: u64::from_str_radix(sequence, 16).map_err(drop)?,
        })
    }
}

/// Names an inbound session for ever, among sessions: those of a core are numbered from the start of
/// the run. Shown as `2F-3-s1A`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionId {
    pub run: u32,
    pub core: u16,
    pub number: u64,
}

impl SessionId {
    /// Appends the id as log lines have it.
    pub fn push_to(self, out: &mut Vec<u8>) {
        push_hex(self.run.into(), out);
        out.push(b'-');
        push_hex(self.core.into(), out);
        out.extend_from_slice(b"-s");
        push_hex(self.number, out);
    }
}

/// A mailbox (RFC 5321 section 4.1.2): local-part as it was written, quotes included, and domain.
/// The text is passed on as it is; who is meant is told by [`Mailbox::domain`] and
/// [`Mailbox::local_part_meaning`].
///
/// The domain is a name, an address literal with its brackets, or empty for the bare
/// `Postmaster` of RFC 5321 section 4.1.1.3. Holds no control characters, ever: `smtp::address`
/// is the only source of mailboxes that come from a peer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    text: Box<str>,
    local_part_bytes: u32,
}

impl Mailbox {
    pub fn new(local_part: &str, domain: &str) -> Self {
        let mut text = String::with_capacity(local_part.len() + 1 + domain.len());
        text.push_str(local_part);
        if !domain.is_empty() {
            text.push('@');
            text.push_str(domain);
        }
        Mailbox {
            text: text.into_boxed_str(),
            local_part_bytes: local_part.len() as u32,
        }
    }

    pub fn local_part(&self) -> &str {
        &self.text[..self.local_part_bytes as usize]
    }

    /// The local-part without its quotes and quoted pairs: `"a\b"`, `"ab"` and `ab` mean the same
    /// (RFC 5321 section 4.1.2).
    pub fn local_part_meaning(&self) -> Cow<'_, str> {
        unquoted(self.local_part())
    }

    /// The domain in its normal form, for whatever depends on it. An error if it has none, which
    /// is so for a bare `Postmaster`.
    pub fn domain(&self) -> Result<Domain<'_>, DomainError> {
        Domain::parse(self.domain_as_written())
    }

    /// Without the `@`; empty for a bare `Postmaster`. For writing only: to compare, see
    /// [`Mailbox::domain`].
    pub fn domain_as_written(&self) -> &str {
        self.text
            .get(self.local_part_bytes as usize + 1..)
            .unwrap_or("")
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if passing this on as it is needs SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.text.is_ascii()
    }

    /// The same mailbox for a host without SMTPUTF8: its domain in A-labels (RFC 6531 section 3.2).
    /// `None` if the local-part is not ASCII, or the domain has no such form.
    pub fn in_ascii(&self) -> Option<Cow<'_, str>> {
        if self.text.is_ascii() {
            return Some(Cow::Borrowed(&self.text));
        }
        if !self.local_part().is_ascii() {
            return None;
        }
        let domain = self.domain().ok()?;
        Some(Cow::Owned(format!("{}@{domain}", self.local_part())))
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// What a local-part means: a quoted string without quotes and backslashes, anything else as it is.
pub fn unquoted(local_part: &str) -> Cow<'_, str> {
    let inner = local_part
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match inner {
        None => Cow::Borrowed(local_part),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        Some(inner) => {
            let mut characters = inner.chars();
            let mut next = || match characters.next()? {
                '\\' => characters.next(),
                character => Some(character),
            };
            Cow::Owned(std::iter::from_fn(&mut next).collect())
        }
    }
}

/// Where a non-delivery report goes. `None` is the null reverse-path `<>` (RFC 5321 section 4.5.5).
pub type ReversePath = Option<Mailbox>;

/// `BODY=` of RFC 6152.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
}

/// `RET=` of RFC 3461 section 4.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    Full,
    Headers,
}

/// `NOTIFY=` of RFC 3461 section 4.1. `NEVER` is all three false.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    pub const NEVER: Notify = Notify {
        success: false,
        failure: false,
        delay: false,
    };
}

/// One recipient of a message: the forward-path and its DSN parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    pub forward_path: Mailbox,
    /// `None`: the parameter was absent, which asks for reports on failure (and may on delay).
    pub notify: Option<Notify>,
    /// `ORCPT=` exactly as it came (`rfc822;` and xtext), to be passed on.
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    pub fn new(forward_path: Mailbox) -> Self {
        Recipient {
            forward_path,
            notify: None,
            orcpt: None,
        }
    }

    /// RFC 3461 section 4.1: a report on failure is due unless NOTIFY says otherwise.
    pub fn wants_failure_report(&self) -> bool {
        self.notify.is_none_or(|notify| notify.failure)
    }

    pub fn wants_success_report(&self) -> bool {
        self.notify.is_some_and(|notify| notify.success)
    }
}

/// The envelope (RFC 5321 section 2.3.1) with the parameters that must travel on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Envelope {
    pub reverse_path: ReversePath,
    pub body_type: BodyType,
    /// `SMTPUTF8` was given on MAIL (RFC 6531), and once the content is known: the header section
    /// holds UTF-8, so that no other host can take it. What addresses need, they say themselves.
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    /// `ENVID=` exactly as it came (xtext), to be passed on.
    pub envid: Option<Box<str>>,
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// The reverse-path as log lines have it: `<>` if it is null.
    pub fn from_field(&self) -> &str {
        self.reverse_path.as_ref().map_or("<>", Mailbox::as_str)
    }
}

/// Why a peer's certificate was, or was not, believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CertificateVerdict {
    /// No certificate was asked for or none was judged.
    #[default]
    Unasked,
    /// The chain leads to a trusted root and the name is that of the host.
    Verified,
    /// The chain leads to a trusted root, the name is another's.
    NameMismatch,
    /// The chain does not lead to a trusted root.
    Untrusted,
    /// The certificate is out of its time of validity.
    Expired,
    /// The certificate cannot be parsed as webpki understands certificates.
    Unparsable,
}

impl CertificateVerdict {
    /// For log lines and trace headers.
    pub fn name(self) -> &'static str {
        match self {
            CertificateVerdict::Unasked => "unasked",
            CertificateVerdict::Verified => "verified",
            CertificateVerdict::NameMismatch => "name-mismatch",
            CertificateVerdict::Untrusted => "untrusted",
            CertificateVerdict::Expired => "expired",
            CertificateVerdict::Unparsable => "unparsable",
        }
    }
}

impl fmt::Display for CertificateVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was agreed in a TLS handshake, for trace headers and log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsSummary {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The IANA name, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The named group, such as `X25519`; empty when the handshake had none (TLS 1.2 resumed).
    pub key_exchange: &'static str,
    pub resumed: bool,
    pub verdict: CertificateVerdict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_id_reads_back() {
        let id = MessageId {
            run: 0x2f,
            core: 3,
            sequence: 0xdead_beef,
        };
        assert_eq!(id.to_string(), "2F-3-DEADBEEF");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("2F-3".parse::<MessageId>(), Err(()));
    }

    #[test]
    fn quotes_and_backslashes_do_not_change_who_is_meant() {
        for (written, meant) in [
            ("a", "a"),
            (r#""a""#, "a"),
            (r#""\a\b""#, "ab"),
            (r#""a b""#, "a b"),
            (r#""a\"b\\""#, r#"a"b\"#),
            (r#""""#, ""),
        ] {
            let mailbox = Mailbox::new(written, "b.test");
            assert_eq!(mailbox.local_part_meaning(), meant, "{written}");
            assert_eq!(mailbox.local_part(), written);
        }
    }

    #[test]
    fn bare_postmaster_has_no_domain() {
        let postmaster = Mailbox::new("Postmaster", "");
        assert_eq!(postmaster.as_str(), "Postmaster");
        assert_eq!(postmaster.domain_as_written(), "");
        assert!(postmaster.domain().is_err());
        assert_eq!(postmaster.local_part(), "Postmaster");
    }

    #[test]
    fn a_mailbox_whose_domain_alone_is_not_ascii_has_an_ascii_form() {
        let in_ascii = |local_part, domain| {
            let mailbox = Mailbox::new(local_part, domain);
            mailbox.in_ascii().map(Cow::into_owned)
        };
        assert_eq!(in_ascii("a", "B.test").as_deref(), Some("a@B.test"));
        let umlaut = in_ascii("Info", "b\u{fc}cher.test");
        assert_eq!(umlaut.as_deref(), Some("Info@xn--bcher-kva.test"));
        assert_eq!(in_ascii("j\u{f6}rg", "b.test"), None);
        assert_eq!(in_ascii("a", "\u{308}a.test"), None);
    }

    #[test]
    fn notify_absent_asks_for_failure_only() {
        let recipient = Recipient::new(Mailbox::new("a", "b.test"));
        assert!(recipient.wants_failure_report());
        assert!(!recipient.wants_success_report());
    }
}
