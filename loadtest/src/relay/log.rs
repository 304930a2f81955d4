//! What a relay says of itself: counters in the last line of its log that has them.
//! A line counts if it is a JSON object with all fields that are asked for, as numbers; ringpost
//! writes such a line at its end with `--log-format json`. Other logs simply have none.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::figures::relay::RelayCounters;

/// The line is looked for in this much of the log's end: its last words come after it.
const TAIL_BYTES_MAX: u64 = 1 << 20;

/// The newest counters in a log; `None` if there are none.
pub fn last_counters(log: &Path) -> io::Result<Option<RelayCounters>> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut tail)?;
    Ok(last_in(&tail))
}

fn last_in(tail: &[u8]) -> Option<RelayCounters> {
    let mut lines = tail.rsplit(|&byte| byte == b'\n');
    lines.find_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"event":"counters","commits":4,"other":"x","commit_messages":10,"connections_out":3,"connections_out_failed":1,"deferred":2}"#;

    #[test]
    fn the_last_line_with_counters_counts() {
        let older = LINE.replace(":4", ":1");
        let log = format!("text\n{older}\n{LINE}\n{{\"event\":\"stop\",\"commits\":\"many\"}}\n[1");
        let counters = last_in(log.as_bytes()).unwrap();
        assert_eq!((counters.commits, counters.commit_messages), (4, 10));
        assert!((counters.messages_per_commit() - 2.5).abs() < 1e-9);
    }

    #[test]
    fn other_logs_have_none() {
        for log in [
            "",
            "\n\n",
            "{}",
            "Nov 24 postfix/qmgr: removed\n",
            "{\"commits\":3}\n",
        ] {
            assert_eq!(last_in(log.as_bytes()), None, "{log}");
        }
        assert_eq!(RelayCounters::default().messages_per_commit(), 0.0);
    }
}
