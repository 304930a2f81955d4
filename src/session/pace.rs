//! How long a client may take, and how much of memory its session holds.

use super::end::End;
use super::serve::{SESSION_BYTES, Session};
use crate::handoff::memory::MemoryLevel;
use crate::io::clock;
use crate::io::net::SCRATCH_BYTES;
use crate::smtp::server::Phase;
use crate::time::Now;
use crate::time::pace::{MinRate, Pace};
use crate::tls::stream::StreamError;
use std::time::Duration;

/// Memory of TLS, as it counts against the ceiling.
const TLS_BYTES: usize = 4 * 1024;

/// Octets of commands that are received at once, and while memory is tight: what they are answered with is
/// sent before more is read, so this bounds the replies that wait for a client to read them.
const COMMANDS_BYTES: usize = 8 * 1024;
const COMMANDS_BYTES_WHEN_TIGHT: usize = 1024;

/// Replies of more octets than this count, with their whole buffer: fewer go out at once nearly always.
const REPLIES_BYTES_COUNTED: usize = 1024;

/// A session's memory is counted anew when it has changed by this much.
const WEIGHING_STEP_BYTES: u64 = 4 * 1024;

/// A sender whose text may have ended, if bare line ends count, mostly waits for an answer.
const BODY_MAY_BE_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// While connections run short, a client that is not trusted has so many times `Timeouts::crowded` until it
/// begins to send a message.
const CROWDED_WAITS_PER_MESSAGE: u32 = 4;

impl Session {
    /// The client is not to blame for the time since `from`.
    pub(super) fn exclude(&mut self, from: Now) {
        if let Some(pace) = &mut self.pace {
            pace.exclude(clock::now().since(from));
        }
    }

    pub(super) fn failed(&self, error: StreamError) -> End {
        match error {
            StreamError::TimedOut if self.context.state.draining.get() => End::Draining,
            StreamError::TimedOut if self.stream.socket().is_crowded_out() => End::CrowdedOut,
            StreamError::TimedOut if self.is_too_slow() => End::TooSlow,
            error => End::Stream(error),
        }
    }

    pub(super) fn is_too_slow(&self) -> bool {
        let due = self.pace_deadline();
        due <= self.deadline && due <= clock::now()
    }

    pub(super) fn pace_deadline(&self) -> Now {
        match (&self.pace, self.context.terms.settings.timeouts.min_rate) {
            (Some(pace), Some(rate)) => pace.deadline(rate),
            _ => Now::NEVER,
        }
    }

    /// The clock of a body runs from the first reading in it to the end of the transaction, also
    /// between chunks, and also if the body is refused and swallowed.
    pub(super) fn note_phase(&mut self) {
        let is_body = matches!(self.server.phase(), Phase::Body | Phase::BodyMayBeOver);
        if !is_body && self.incoming.is_none() {
            self.pace = None;
        } else if self.pace.is_none() {
            self.pace = Some(Pace::new(clock::now()));
        }
    }

    /// The next wait's deadline starts to run. Called when the machine has answered something or
    /// more of a message has come, not for every byte of a slow command.
    pub(super) fn arm_deadline(&mut self) {
        let now = clock::now();
        self.server.note_time(now);
        let timeouts = &self.context.terms.settings.timeouts;
        let wait = match self.server.phase() {
            Phase::Body => timeouts.data,
            Phase::BodyMayBeOver => timeouts.data.min(BODY_MAY_BE_OVER_TIMEOUT),
            _ => timeouts.command,
        };
        let whole = timeouts
            .session
            .map_or(Now::NEVER, |most| self.started + most);
        self.deadline = (now + wait).min(whole).min(self.pace_deadline());
        self.deadline_in_crowd = self.deadline_in_crowd(now);
    }

    /// Nobody keeps a place by a word now and then: without a message there are only so many waits, and a
    /// body has to come at its least rate from the first of them on.
    pub(super) fn deadline_in_crowd(&self, now: Now) -> Now {
        if self.server.peer().trusted {
            return Now::NEVER;
        }
        let wait = self.context.terms.settings.timeouts.crowded;
        match (&self.pace, self.context.terms.settings.timeouts.min_rate) {
            (Some(pace), Some(rate)) => {
                let rate = MinRate {
                    grace: wait.min(rate.grace),
                    ..rate
                };
                (now + wait).min(pace.deadline(rate))
            }
            (Some(_), None) => now + wait,
            (None, _) => (now + wait).min(self.last_message + wait * CROWDED_WAITS_PER_MESSAGE),
        }
    }

    pub(super) fn set_deadlines(&self) {
        self.stream
            .set_deadlines(self.deadline, self.deadline_in_crowd);
    }

    /// Counts what the session holds against the ceiling.
    pub(super) fn charge_memory(&mut self) {
        let tls = usize::from(self.stream.is_encrypted()) * TLS_BYTES;
        let body = self
            .incoming
            .as_ref()
            .map_or(0, |it| it.held.body.capacity());
        let bytes = SESSION_BYTES + tls + self.server.envelope_bytes() + body;
        let bytes = (bytes + self.input.capacity() + self.replies_bytes()) as u64;
        if bytes.abs_diff(self.memory.bytes()) >= WEIGHING_STEP_BYTES {
            self.memory.set(bytes);
        }
    }

    /// What the client has to read before it is heard again; with TLS, twice.
    pub(super) fn replies_bytes(&self) -> usize {
        match self.out.len() {
            0..=REPLIES_BYTES_COUNTED => 0,
            _ => self.out.capacity() * (1 + usize::from(self.stream.is_encrypted())),
        }
    }

    /// How much is received at once.
    pub(super) fn receive_bytes_max(&self) -> usize {
        match self.server.phase() {
            Phase::Command if self.context.memory.level() >= MemoryLevel::Tight => {
                COMMANDS_BYTES_WHEN_TIGHT
            }
            Phase::Command => COMMANDS_BYTES,
            _ => SCRATCH_BYTES,
        }
    }
}
