//! What sessions of all listeners have in common, and its defaults.

use crate::domain::Domain;
use crate::smtp::data::{BareLineEnds, Rules};
use crate::smtp::extension::Extensions;

/// The shortest command line limit (RFC 5321 section 4.5.3.1.4), CRLF included.
pub const COMMAND_LINE_BYTES_MIN: usize = 512;

/// The shortest text line limit (RFC 5321 section 4.5.3.1.6), CRLF not included.
pub const TEXT_LINE_BYTES_MIN: usize = 998;

/// Defaults of [`Settings`].
pub const BANNER: &str = "ESMTP ringpost";

pub const MESSAGE_BYTES_MAX: u64 = 50 << 20;

pub const RECIPIENTS_MAX: u32 = 1000;

pub const ERRORS_MAX: u32 = 20;

pub const HOPS_MAX: u32 = 100;

/// What sessions of one listener have in common. Built once, shared by reference count.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in greeting, EHLO and trace headers. Printable, without spaces.
    pub hostname: String,
    /// What the greeting says behind the name. Printable.
    pub banner: String,
    /// Octets of content (RFC 1870), announced by `SIZE`.
    pub max_message_bytes: u64,
    /// Per transaction. Beyond: 452 4.5.3.
    pub max_recipients: usize,
    /// Replies 5yz since the last accepted message; 0 is no limit. At the limit: 421 4.7.0.
    pub max_errors: u32,
    /// `Received:` fields of a message. Beyond: 554 5.4.6.
    pub max_hops: u32,
    /// CRLF included, at least [`COMMAND_LINE_BYTES_MIN`]. Beyond: 500 5.5.2.
    pub max_command_line_bytes: usize,
    /// CRLF not included, at least [`TEXT_LINE_BYTES_MIN`]. Beyond: 554 5.6.0; nothing is folded.
    pub max_text_line_bytes: usize,
    /// MAIL commands of a session; 0 is no limit. Beyond: 421 4.7.0.
    pub max_transactions: u32,
    /// Commands that lead nowhere (NOOP, RSET, VRFY, EHLO, a chunk of nothing ...) since the last accepted
    /// message, less what time forgives ([`Server::note_time`](super::Server::note_time)); 0 is no limit. At the limit: 421 4.7.0.
    pub max_idle_commands: u32,
    /// Replies 4yz since the last accepted message; 0 is no limit. At the limit: 421 4.7.0.
    pub max_transient_refusals: u32,
    pub bare_line_ends: BareLineEnds,
    /// What EHLO lists, less what a peer cannot use now. STARTTLS and BDAT that are not offered get 502 5.5.1.
    pub offers: Extensions,
    /// What trusted peers' paths without a domain get. `None`: 501.
    pub qualify_domain: Option<Domain<'static>>,
    /// No mail without TLS: 530 5.7.0 (RFC 3207 section 4).
    pub require_tls: bool,
}

impl Settings {
    /// The defaults.
    pub fn new(hostname: impl Into<String>) -> Self {
        Settings {
            hostname: hostname.into(),
            banner: BANNER.to_owned(),
            max_message_bytes: MESSAGE_BYTES_MAX,
            max_recipients: RECIPIENTS_MAX as usize,
            max_errors: ERRORS_MAX,
            max_hops: HOPS_MAX,
            max_command_line_bytes: 2048,
            max_text_line_bytes: 1 << 20,
            max_transactions: 0,
            max_idle_commands: 100,
            max_transient_refusals: 10_000,
            bare_line_ends: BareLineEnds::Refuse,
            offers: Extensions::OURS,
            qualify_domain: None,
            require_tls: false,
        }
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            bare_line_ends: self.bare_line_ends,
            message_bytes_max: self.max_message_bytes,
            line_bytes_max: self.max_text_line_bytes.max(TEXT_LINE_BYTES_MIN),
            hops_max: self.max_hops,
        }
    }
}
