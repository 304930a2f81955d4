//! How recipients stand, in records of outcomes and in copies of messages.

use super::bytes::{Cursor, Malformed, put_str, put_u16, put_u32, put_u64};
use crate::message::MessageId;
use crate::schedule::outcome::{Diagnosis, Outcome, RecipientState, ReportKind};
use crate::smtp::reply::EnhancedStatus;
use crate::text;
use crate::time::WallTime;

/// First byte of every meta: lets one record change its form without a new
/// [`FORMAT_VERSION`](super::FORMAT_VERSION).
pub(super) const META_VERSION: u8 = 1;

/// Recipients in one outcome record are split so that its meta stays below this.
pub const OUTCOME_META_BYTES_MAX: usize = 16 * 1024;

/// The domain name system's bound on a name, which a remote host's name cannot exceed.
const REMOTE_HOST_BYTES_MAX: usize = 255;

/// How recipients stand: index into the envelope, and the state. Who is not named is fresh.
pub type States = Vec<(u32, RecipientState)>;

/// The metas of the records that `outcome` becomes: one, or several if it names very many recipients.
pub fn encode_outcome(outcome: &Outcome) -> Vec<Vec<u8>> {
    let mut parts = Vec::with_capacity(1);
    let mut part = vec![META_VERSION];
    for (index, state) in &outcome.recipients {
        if part.len() >= OUTCOME_META_BYTES_MAX - STATE_BYTES_MAX {
            parts.push(std::mem::replace(&mut part, vec![META_VERSION]));
        }
        put_u32(&mut part, *index);
        put_state(&mut part, state);
    }
    if part.len() > 1 {
        parts.push(part);
    }
    parts
}

/// Bound on one recipient in an outcome: index, tag, attempts, due, diagnosis.
const STATE_BYTES_MAX: usize = 64 + Diagnosis::TEXT_BYTES_MAX + REMOTE_HOST_BYTES_MAX;

pub fn decode_outcome(id: MessageId, meta: &[u8]) -> Result<Outcome, Malformed> {
    let mut cursor = Cursor(meta);
    cursor.version()?;
    Ok(Outcome {
        message: id,
        recipients: cursor.states()?,
    })
}

fn put_diagnosis(out: &mut Vec<u8>, diagnosis: &Diagnosis) {
    out.push(diagnosis.status.class);
    put_u16(out, diagnosis.status.subject);
    put_u16(out, diagnosis.status.detail);
    put_str(out, text::front(&diagnosis.text, Diagnosis::TEXT_BYTES_MAX));
    put_str(
        out,
        text::front(&diagnosis.remote_host, REMOTE_HOST_BYTES_MAX),
    );
}

fn put_state(out: &mut Vec<u8>, state: &RecipientState) {
    match state {
        RecipientState::Waiting {
            attempts,
            due,
            last,
        } => {
            out.push(if last.is_some() { 1 } else { 0 });
            put_u32(out, *attempts);
            put_u64(out, due.0);
            if let Some(last) = last {
                put_diagnosis(out, last);
            }
        }
        RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts,
            due,
        } => {
            out.push(match kind {
                ReportKind::Failed => 2,
                ReportKind::Relayed => 3,
            });
            put_u32(out, *attempts);
            put_u64(out, due.0);
            put_diagnosis(out, diagnosis);
        }
        RecipientState::Finished => out.push(4),
    }
}

pub(super) fn put_states(out: &mut Vec<u8>, states: &States) {
    for (index, state) in states {
        put_u32(out, *index);
        put_state(out, state);
    }
}

impl Cursor<'_> {
    fn version(&mut self) -> Result<(), Malformed> {
        (self.u8()? == META_VERSION).then_some(()).ok_or(Malformed)
    }

    /// States up to the end.
    pub(super) fn states(&mut self) -> Result<States, Malformed> {
        let mut states = Vec::new();
        while !self.0.is_empty() {
            let index = self.u32()?;
            states.push((index, self.state()?));
        }
        Ok(states)
    }

    fn diagnosis(&mut self) -> Result<Diagnosis, Malformed> {
        let class = self.u8()?;
        let subject = self.u16()?;
        let detail = self.u16()?;
        Ok(Diagnosis {
            status: EnhancedStatus::new(class, subject, detail),
            text: text::front(self.str()?, Diagnosis::TEXT_BYTES_MAX).into(),
            remote_host: text::front(self.str()?, REMOTE_HOST_BYTES_MAX).into(),
        })
    }

    fn state(&mut self) -> Result<RecipientState, Malformed> {
        let tag = self.u8()?;
        if tag == 4 {
            return Ok(RecipientState::Finished);
        }
        let attempts = self.u32()?;
        let due = WallTime(self.u64()?);
        let kind = match tag {
            0 | 1 => {
                let last = match tag {
                    1 => Some(self.diagnosis()?),
                    _ => None,
                };
                return Ok(RecipientState::Waiting {
                    attempts,
                    due,
                    last,
                });
            }
            2 => ReportKind::Failed,
            3 => ReportKind::Relayed,
            _ => return Err(Malformed),
        };
        Ok(RecipientState::ReportOwed {
            kind,
            diagnosis: self.diagnosis()?,
            attempts,
            due,
        })
    }
}
