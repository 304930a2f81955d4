//! Renders an owed report (RFC 3464) from what the spool holds of the original.

use super::Inner;
use crate::handoff::job::Job;
use crate::io::buffer::AlignedBuf;
use crate::io::clock;
use crate::schedule::dsn::{self, Action, Original, Rendered, Reported};
use crate::schedule::outcome::{RecipientState, ReportKind};
use crate::spool::Place;
use std::io;

/// Bytes of the original that are read at once.
const READ_BYTES: usize = 64 * 1024;

impl Inner {
    /// The report that a job of owed reports is about. An original that cannot be read is left
    /// out of it: the report itself matters more.
    pub(super) async fn render_report(&self, job: &Job) -> Option<Rendered> {
        let message = &job.message;
        let reported: Vec<Reported<'_>> = job.recipients.iter().filter_map(reported).collect();
        let reports_failure = reported
            .iter()
            .any(|recipient| recipient.action == Action::Failed);
        let wanted = dsn::original_bytes_wanted(
            &message.envelope,
            reports_failure,
            message.residence.body_bytes(),
        );
        let wire = read_start(&message.residence.place(), wanted)
            .await
            .unwrap_or_default();
        let hostname = &self.context.hostname;
        let boundary = format!("{}.report", message.id);
        dsn::render(&dsn::Report {
            reporting_mta: hostname,
            message_id: &format!("{}.{}@{hostname}", message.id, reported.first()?.index),
            boundary: &boundary,
            now: clock::wall_time(),
            arrived: message.received_at,
            envelope: &message.envelope,
            recipients: &reported,
            original: Original {
                is_whole: wire.len() as u64 == message.residence.body_bytes(),
                wire: &wire,
            },
        })
    }
}

fn reported((index, state): &(u32, RecipientState)) -> Option<Reported<'_>> {
    match state {
        RecipientState::ReportOwed {
            kind, diagnosis, ..
        } => Some(Reported {
            index: *index,
            action: match kind {
                ReportKind::Failed => Action::Failed,
                ReportKind::Relayed => Action::Relayed,
            },
            diagnosis,
            last_attempt: None,
        }),
        _ => None,
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
