//! Mail of a stopped relay as files, and back: `ringpost spool export TO` and `import FROM`.
//!
//! Promise: an export is whole, or its directory has another name. What an import has put into the spool is durable there
//! before its file is moved away. A crash in an import may deliver mail twice, never zero times.
//! Not here: a relay that runs. Both take the spool's lock.
//!
//! ```text
//! form    a message as a file: a line of JSON, then its content as it is (pure)
//! export  from a spool
//! import  into a spool, by the log that a relay writes
//! ```

pub mod export;
mod form;
pub mod import;

use std::fmt;

/// Ends the name of a file that holds a message.
const MAIL_SUFFIX: &str = "msg";

/// What went well, and what did not.
#[derive(Debug, Default)]
pub struct Summary {
    pub messages: u64,
    pub recipients: u64,
    /// Octets of content.
    pub bytes: u64,
    /// Messages that were left where they are, and why.
    pub left: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages, {} recipients, {} octets of content, {} messages left out",
            self.messages,
            self.recipients,
            self.bytes,
            self.left.len()
        )
    }
}
