//! The content of a message on its way out, from memory or piece by piece from the spool.

use super::deadlines::Awaited;
use super::{Connection, LAST_WORD_TIMEOUT};
use crate::io::buffer::AlignedBuf;
use crate::io::{Bug, clock, planted};
use crate::smtp::client::{ClientStep, Transaction};
use crate::smtp::reply::Stage;
use crate::spool::{BodyReader, Place};
use crate::time::Now;
use crate::time::pace::Pace;
use crate::tls::stream::{Received, StreamError};
use std::ops::Range;

/// Bytes of a body that are read, encrypted and sent at once.
const BODY_SLICE_BYTES: usize = 64 * 1024;

/// Where the content of a message comes from. Wire form.
pub enum Content<'a> {
    Memory(&'a [u8]),
    Spool(&'a Place),
}

/// The end of a content, with its final dot.
pub enum LastPiece<'a> {
    Memory(&'a [u8]),
    /// What lies in this range.
    Stored(AlignedBuf, Range<usize>),
}

impl LastPiece<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            LastPiece::Memory(bytes) => bytes,
            LastPiece::Stored(buffer, range) => &buffer[range.clone()],
        }
    }
}

fn split_last_slice(bytes: &[u8]) -> (&[u8], &[u8]) {
    let most = bytes.len().saturating_sub(1) / BODY_SLICE_BYTES * BODY_SLICE_BYTES;
    bytes.split_at(most)
}

impl Connection {
    /// Sends the content.
    pub async fn send_body(&mut self, content: &Content<'_>) {
        if let Some(last) = self.send_all_but_last(content).await {
            self.send_last(last).await;
        }
    }

    /// Sends the content but for its last piece, which [`Connection::send_last`] must send now. `None`: the session is over.
    pub async fn send_all_but_last<'a>(&mut self, content: &Content<'a>) -> Option<LastPiece<'a>> {
        if self.is_refused_early() {
            return None;
        }
        self.pace = Pace::new(clock::now());
        let sent = match content {
            Content::Memory(bytes) => {
                let (most, last) = split_last_slice(bytes);
                let sent = self.send_slices(most).await;
                sent.map(|()| LastPiece::Memory(last))
            }
            Content::Spool(place) => self.send_stored(place).await,
        };
        match sent {
            Ok(last) => {
                self.client.body_sent();
                Some(last)
            }
            Err(error) => {
                self.body_broke_off(&error).await;
                None
            }
        }
    }

    /// Before the last piece of a content: begins the transaction behind it, whose commands go out with that piece (RFC 2920
    /// section 3.1). False: it cannot be begun there.
    pub fn begin_ahead(&mut self, next: &Transaction<'_>) -> bool {
        self.client.can_begin() && self.client.begin(next, &mut self.out).is_ok()
    }

    pub async fn send_last(&mut self, last: LastPiece<'_>) {
        let last = last.as_slice();
        self.arm_for_block();
        let sent = self.stream.send_both(last, &self.out).await;
        self.pace.moved(last.len());
        self.out.clear();
        if let Err(error) = sent {
            self.body_broke_off(&error).await;
        }
    }

    async fn body_broke_off(&mut self, error: &StreamError) {
        self.client.body_broke_off();
        if self.content_error.is_some() || !self.read_early_reply().await {
            self.lost(error);
        }
    }

    /// Handles what has come behind 354 before the content was sent: a refusal, which ends the
    /// session, or nothing good.
    pub(super) fn is_refused_early(&mut self) -> bool {
        let input = &self.input[self.parsed..];
        if input.is_empty() {
            return false;
        }
        let (taken, step) = self.client.handle(input, &mut self.out);
        self.parsed += taken;
        let is_refused = step != ClientStep::NeedInput;
        if is_refused {
            self.pending = Some(step);
        }
        is_refused
    }

    /// After the content could not be sent: a host that finds a message too large half way answers
    /// and closes, and its reply is still there to be read.
    async fn read_early_reply(&mut self) -> bool {
        let deadline = clock::now() + LAST_WORD_TIMEOUT;
        loop {
            self.forget_input();
            self.stream.set_deadline(deadline);
            match self.stream.receive(&mut self.input).await {
                Ok(Received::Bytes) if self.is_refused_early() => return true,
                Ok(Received::Bytes) => {}
                _ => return false,
            }
        }
    }

    async fn send_slices(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        for slice in bytes.chunks(BODY_SLICE_BYTES) {
            self.arm_for_block();
            self.stream.send(slice).await?;
            self.pace.moved(slice.len());
        }
        Ok(())
    }

    /// One time for each block as a whole, and one for all of the content.
    fn arm_for_block(&mut self) {
        let due = self.due(Stage::Body);
        self.awaited = Some(Awaited {
            replies_before: self.client.replies(),
            stage: Stage::Body,
            since: clock::now(),
            due,
        });
        self.stream
            .set_deadlines(due.at.min(self.pace_due()), due.in_crowd);
    }

    /// When more of the content must have been taken, or the peer is too slow.
    fn pace_due(&self) -> Now {
        let rate = self.context.timeouts.min_rate;
        rate.map_or(Now::NEVER, |rate| self.pace.deadline(rate))
    }

    /// Streams the content from the spool, all but its last piece. If the spool cannot give it whole, the connection must end
    /// without the final dot.
    async fn send_stored(&mut self, place: &Place) -> Result<LastPiece<'static>, StreamError> {
        let mut buffer = AlignedBuf::empty();
        let mut reader = place.reader();
        let mut piece = self.read_piece(&mut reader, &mut buffer).await?;
        let mut next = AlignedBuf::new(BODY_SLICE_BYTES);
        loop {
            let following = self.read_piece(&mut reader, &mut next).await?;
            if following.is_empty() {
                return Ok(LastPiece::Stored(buffer, piece));
            }
            if !planted(Bug::ContentCut) {
                self.send_slices(&buffer[piece]).await?;
            }
            std::mem::swap(&mut buffer, &mut next);
            piece = following;
        }
    }

    async fn read_piece(
        &mut self,
        reader: &mut BodyReader,
        buffer: &mut AlignedBuf,
    ) -> Result<Range<usize>, StreamError> {
        let lent = match buffer.capacity() {
            0 => AlignedBuf::new(BODY_SLICE_BYTES),
            _ => std::mem::replace(buffer, AlignedBuf::empty()),
        };
        let began = clock::now();
        let (read, returned) = reader.next(lent).await;
        self.pace.exclude(clock::now().since(began));
        *buffer = returned;
        read.map_err(|error| {
            self.content_error = Some(error);
            StreamError::Gone(std::io::ErrorKind::InvalidData.into())
        })
    }
}
