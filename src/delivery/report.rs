//! Renders an owed report (RFC 3464) from what the spool holds of the original.

use super::Inner;
use crate::handoff::job::Job;
use crate::io::buffer::AlignedBuf;
use crate::io::clock;
use crate::schedule::dsn::{Owed, Rendered, Taker};
use crate::spool::Place;
use std::io;

/// Bytes of the original that are read at once.
const READ_BYTES: usize = 64 * 1024;

impl Inner {
    /// The report that a job of owed reports is about. An original that cannot be read is left
    /// out of it: the report itself matters more.
    pub(super) async fn render_report(&self, job: &Job, taker: Taker) -> Option<Rendered> {
        let message = &job.message;
        let owed = Owed {
            hostname: &self.context.hostname,
            id: message.id,
            received_at: message.received_at,
            envelope: &message.envelope,
            recipients: &job.recipients,
            body_bytes: message.location.body_bytes(),
        };
        let wire = match message.is_content_lost() {
            // What can be read of it is not known to be what was sent.
            true => Vec::new(),
            false => read_start(
                &message.location.place(),
                owed.original_bytes_wanted(taker.original),
            )
            .await
            .unwrap_or_default(),
        };
        owed.render(&wire, clock::wall_time(), taker)
    }
}

/// The first `wanted` bytes of a stored body.
async fn read_start(place: &Place, wanted: usize) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(wanted);
    let mut reader = place.reader();
    let mut buffer = AlignedBuf::new(READ_BYTES);
    while start.len() < wanted {
        let (read, returned) = reader.next(buffer).await;
        buffer = returned;
        let piece = read?;
        if piece.is_empty() {
            break;
        }
        let piece = &buffer[piece];
        start.extend_from_slice(&piece[..piece.len().min(wanted - start.len())]);
    }
    Ok(start)
}
