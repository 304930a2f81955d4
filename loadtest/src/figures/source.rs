//! What the source saw.

use serde::{Deserialize, Serialize};

use crate::figures::histogram::Percentiles;

/// What the source saw. Messages, not recipients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFigures {
    pub threads: usize,
    pub taken: u64,
    /// 250 for the data, and for at least one recipient.
    pub accepted: u64,
    pub refused: u64,
    /// The connection broke between end of data and its answer.
    pub open: u64,
    /// Given up without having been sent.
    pub unsent: u64,
    /// Not sent because the source was told to stop.
    pub left: u64,
    pub retried: u64,
    /// Content of the accepted messages.
    pub bytes: u64,
    pub connections: u64,
    pub connections_failed: u64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub to_250_us: Percentiles,
    pub to_ready_us: Percentiles,
    /// Why the source gave up, or the last thing that went wrong with a connection.
    pub failure: Option<String>,
    /// The reply to the first message that was refused.
    pub first_refusal: Option<String>,
    pub cpu_us: u64,
}
