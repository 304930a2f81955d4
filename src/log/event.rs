//! Every event of the log with its fields, declared once.
//!
//! The table in docs/log.md is compared with this list, both ways (`tests/house/log_table.rs`). A line with
//! a field that its event does not declare is a bug, which builds with debug assertions find.

/// What a line is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    name: &'static str,
    /// `None`: any.
    fields: Option<&'static [&'static str]>,
}

impl Event {
    /// One with fields that nobody checks: counters, and tests.
    pub const fn with_any_fields(name: &'static str) -> Event {
        Event { name, fields: None }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What its lines may have, TLS fields as `TLS`; `None`: anything.
    pub fn fields(&self) -> Option<&'static [&'static str]> {
        self.fields
    }

    pub fn has(&self, field: &str) -> bool {
        let is_it = |fields: &[&str]| fields.contains(&field);
        self.fields.is_none_or(is_it)
    }
}

/// Stands for [`TLS_FIELDS`] among the fields of an event.
pub const TLS: &str = "TLS";

/// What [`Line::tls`](super::Line::tls) writes.
pub const TLS_FIELDS: [&str; 5] = ["tls", "cipher", "key_exchange", "resumed", "verdict"];

macro_rules! events {
    ($($name:ident = $text:literal [$($field:expr),*];)*) => {
        $(pub const $name: &Event = &Event { name: $text, fields: Some(&[$($field),*]) };)*

        /// Every event there is.
        pub const ALL: &[&Event] = &[$($name,)* COUNTERS];
    };
}

/// Every counter by its name.
pub const COUNTERS: &Event = &Event::with_any_fields("counters");

events! {
    START = "start" [
        "version", "hostname", "threads", "descriptors", "user", "capabilities", "no_new_privs",
        "landlock", "seccomp", "core_dumps"
    ];
    CERTIFICATE = "certificate" [
        "source", "kind", "sha256", "for", "warning", "error", "effect"
    ];
    TRUSTED_ROOTS = "trusted-roots" ["roots", "left_out", "warning"];
    SPOOL = "spool" ["dir", "run", "recovered_messages"];
    RECOVERY = "recovery" [
        "messages", "open_recipients", "finished_messages", "segments", "commits", "outcomes",
        "second_copies", "refused_messages", "unfinished_commits", "blank_segments", "id", "damage"
    ];
    HINT = "hint" ["text"];
    LISTENING = "listening" ["address", "tls"];
    HTTP = "http" ["address"];
    READY = "ready" ["try"];
    ACCEPTED = "accepted" [
        "id", "session", "from", "recipients", "to", "to_left_out", "message_id", "bytes", "client", TLS
    ];
    REJECTED = "rejected" [
        "session", "client", "hello", "at", "from", "recipients", "to", "to_left_out", "reply",
        "lines_suppressed"
    ];
    SESSION = "session" [
        "session", "client", "client_port", "hello", TLS, "messages", "recipients", "bytes", "refusals", "last_refusal",
        "violation", "starttls", "duration_ms", "end"
    ];
    REFUSED = "refused" ["client", "client_port", "reason", "lines_suppressed"];
    LIMITED = "limited" ["client", "limit", "code", "lines_suppressed"];
    SHARE_REFUSED = "share-refused" [
        "client", "destination", "sender", "waiting", "share", "limit", "lines_suppressed"
    ];
    SUPPRESSED = "suppressed" ["of", "lines_suppressed"];
    MEMORY_FULL = "memory-full" ["limit", "effect"];
    MEMORY_HAS_ROOM = "memory-has-room" [];
    LOOP_LATE = "loop-late" [
        "thread", "stalls", "preempted", "longest_turn_ms", "task", "late_tick_ms",
        "lines_suppressed"
    ];
    DELIVERED = "delivered" [
        "id", "from", "to", "report", "host", "address", TLS, "plaintext", "delay_ms", "transaction_ms",
        "status", "reply"
    ];
    BOUNCED = "bounced" [
        "id", "from", "to", "report", "host", "address", TLS, "plaintext", "delay_ms", "transaction_ms",
        "status", "reply"
    ];
    EXPIRED = "expired" [
        "id", "from", "to", "report", "host", "address", TLS, "plaintext", "delay_ms", "transaction_ms",
        "status", "reply"
    ];
    DROPPED = "dropped" [
        "id", "from", "to", "report", "host", "address", TLS, "plaintext", "delay_ms", "transaction_ms",
        "status", "reply", "reason"
    ];
    DEFERRED = "deferred" [
        "id", "from", "to", "report", "host", "address", TLS, "plaintext", "delay_ms", "transaction_ms",
        "status", "reply", "attempt", "next_try"
    ];
    REQUEUED = "requeued" [
        "id", "from", "to", "report", "host", "address", TLS, "plaintext", "delay_ms", "transaction_ms",
        "status", "reply"
    ];
    CONNECT_FAILED = "connect-failed" ["hop", "host", "status", "reply", "waiting", "next_try"];
    HOST_FAILED = "host-failed" ["host", "address", "status", "reply"];
    NAME_SERVER_FAILED = "name-server-failed" ["thread", "server", "reason", "answered_by", "effect"];
    OUT_OF_STEP = "out-of-step" ["host", "address", "reply", "effect"];
    TLS_FAILED = "tls-failed" ["host", "address", "reason", "effect"];
    PLAINTEXT_FALLBACK = "plaintext-fallback" ["host", "address", "reason"];
    TLS_DEMANDED = "tls-demanded" ["host", "address", "reply", "reason", "effect"];
    DELIVERY_HELD = "delivery-held" ["thread", "home", "recipients", "effect"];
    DELIVERY_GOES_ON = "delivery-goes-on" ["thread", "home", "held_ms"];
    DELIVERY_UNRECORDED = "delivery-unrecorded" ["recipients", "threads_silent", "effect"];
    CONTENT_UNREADABLE = "content-unreadable" ["id", "error", "effect"];
    SPOOL_FULL = "spool-full" ["thread", "dir", "reason", "used", "free", "effect"];
    SPOOL_HAS_ROOM = "spool-has-room" ["thread", "dir"];
    SPOOL_DISK_FAILS = "spool-disk-fails" ["thread", "dir", "error", "effect"];
    SPOOL_DISK_WORKS = "spool-disk-works" ["thread", "dir"];
    SPOOL_GONE = "spool-gone" ["thread", "dir", "error", "messages", "effect", "remedy"];
    SPOOL_THERE_AGAIN = "spool-there-again" ["thread", "dir"];
    SPOOL_SEGMENT_FAILED = "spool-segment-failed" ["segment", "error"];
    SPOOL_MESSAGE_DAMAGED = "spool-message-damaged" ["id", "segment", "error"];
    ACCEPT_FAILED = "accept-failed" ["error", "effect", "remedy", "lines_suppressed"];
    METRICS = "metrics" ["text"];
    NEXT_HOP = "next-hop" ["hop", "state", "waiting", "connections", "next_try", "reply", "left_out"];
    LIST = "list" ["file", "entries", "added", "removed", "error", "effect"];
    RELOAD = "reload" ["read_again", "not_read_again", "remedy", "waits"];
    LOG = "log" ["lines_dropped", "error", "effect"];
    SERVICE_MANAGER = "service-manager" ["error"];
    CORE_SILENT = "core-silent" ["cores", "effect"];
    CORE_STUCK = "core-stuck" ["cores", "effect"];
    STOPPING = "stopping" [];
    STOP = "stop" ["how"];
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_event_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ALL.iter().map(|event| event.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
