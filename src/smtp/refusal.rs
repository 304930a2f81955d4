//! A negative reply of ours, as a value.

use std::borrow::Cow;
use std::fmt;

use super::reply::EnhancedStatus;

/// What a peer is told when it does not get what it asked for. `code` is 4yz or 5yz, and the
/// class of `status` is its first digit (RFC 2034 section 4).
///
/// `text` may quote a peer: whoever writes it into a reply makes it printable and bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: u16,
    pub status: EnhancedStatus,
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal in our own words. `subject` and `detail` are those of RFC 3463; the class follows
    /// from `code`.
    pub const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        assert!(code >= 400 && code < 600, "a refusal is 4yz or 5yz");
        Refusal {
            code,
            status: EnhancedStatus::new((code / 100) as u8, subject, detail),
            text: Cow::Borrowed(text),
        }
    }

    /// True for 5yz: trying again will not help.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }
}

/// As one line, without making it printable.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.status, self.text)
    }
}
