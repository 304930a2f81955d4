//! What is known of the relay: its processes, and what it counted itself.

use serde::{Deserialize, Serialize};

/// The relay's processes, from the first message until everything was settled.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayFigures {
    pub user_us: u64,
    pub system_us: u64,
    /// Sum over its processes of the most that each ever had resident.
    pub peak_rss_bytes: u64,
}

/// The relay's own counters, from its start to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounters {
    /// Writes to stable storage that made messages durable.
    pub commits: u64,
    /// Messages in them.
    pub commit_messages: u64,
    pub connections_out: u64,
    pub connections_out_failed: u64,
    pub deferred: u64,
}

impl RelayCounters {
    pub fn messages_per_commit(&self) -> f64 {
        self.commit_messages as f64 / (self.commits as f64).max(1.0)
    }
}
