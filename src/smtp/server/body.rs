//! DATA and BDAT: how a body begins, arrives, is given up, and ends.

use crate::message::{BodyType, Envelope};
use crate::smtp::data::{Progress, Scanner, Swallowed, Violation};
use crate::smtp::extension::Extension;
use crate::smtp::refusals::*;

use super::answers;
use super::rejection::RejectedAt;
use super::{
    Claim, Incoming, Next, Policy, Refusal, Refused, SMALL_CHUNK_BYTES, SWALLOWED_BYTES_MAX,
    Server, State, Step, Waits,
};

impl Server {
    pub(super) fn data(&mut self, policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        let refusal = match &self.state {
            State::Mail(envelope) if envelope.recipients.is_empty() => NO_RECIPIENTS,
            State::Mail(envelope) => match self.admit_body(envelope, None, policy) {
                Ok(()) => return Some(self.begin_data(out)),
                Err(refusal) => {
                    self.report_refused_body(RejectedAt::Data, &refusal, policy);
                    refusal
                }
            },
            _ => self.out_of_sequence(),
        };
        self.refuse_data(&refusal, out)
    }

    fn begin_data(&mut self, out: &mut Vec<u8>) -> Step {
        let incoming = Incoming {
            envelope: self.take_envelope(),
            scanner: Scanner::for_data(self.settings.rules()).behind_field(),
        };
        self.state = State::Data(incoming);
        if self.waits != Waits::Unasked {
            self.waits = Waits::For354;
        }
        answers::write_line(b"354 End data with <CR><LF>.<CR><LF>", out);
        Step::BeginBody
    }

    fn take_envelope(&mut self) -> Box<Envelope> {
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Mail(envelope) => envelope,
            other => panic!("no transaction in {other:?}"),
        }
    }

    /// No 354: the transaction is over, and the next line had better be a command.
    pub(super) fn refuse_data(&mut self, refusal: &Refusal, out: &mut Vec<u8>) -> Next {
        self.waits = Waits::Refused;
        self.refuse(refusal, out);
        self.reset()
    }

    pub(super) fn after_data(&mut self, progress: Progress, policy: &dyn Policy) -> Step {
        match progress {
            Progress::More => Step::NeedInput,
            Progress::End => self.end_of_data(),
            Progress::Refused(violation) => self.swallow_data(violation, policy),
        }
    }

    fn swallow_data(&mut self, violation: Violation, policy: &dyn Policy) -> Step {
        let refusal = answers::content_refusal(violation);
        self.report_refused_body(RejectedAt::Content, &refusal, policy);
        let incoming = self.take_incoming();
        self.state = State::RefusedData(Refused {
            swallower: incoming.scanner.into_swallower(),
            refusal,
            swallowed_bytes: 0,
        });
        Step::BodyAborted
    }

    fn take_incoming(&mut self) -> Incoming {
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Data(incoming)
            | State::BetweenChunks(incoming)
            | State::Chunk { incoming, .. } => incoming,
            other => panic!("no body in {other:?}"),
        }
    }

    fn end_of_data(&mut self) -> Step {
        let Incoming {
            mut envelope,
            scanner,
        } = self.take_incoming();
        let content = scanner.content();
        if content.is_8bit {
            // Whatever MAIL said: the next hop must be told.
            envelope.body_type = BodyType::EightBitMime;
        }
        // Many clients give the parameter with every message.
        envelope.smtputf8 &= content.header_is_8bit;
        self.state = State::Commit {
            content,
            recipients: envelope.recipients.len() as u64,
        };
        Step::EndOfData(envelope)
    }

    pub(super) fn after_refused_data(&mut self, swallowed: Swallowed, out: &mut Vec<u8>) -> Next {
        let State::RefusedData(refused) = &self.state else {
            panic!("no refused data in {:?}", self.state);
        };
        let is_too_much = refused.swallowed_bytes > SWALLOWED_BYTES_MAX;
        if swallowed == Swallowed::More && !is_too_much {
            return Some(Step::NeedInput);
        }
        let refusal = refused.refusal.clone();
        if swallowed == Swallowed::End {
            self.state = State::Ready;
            self.reply_refusal(&refusal, out)
        } else {
            self.close(&refusal, out)
        }
    }

    pub(super) fn bdat(
        &mut self,
        chunk_bytes: u64,
        last: bool,
        policy: &dyn Policy,
        out: &mut Vec<u8>,
    ) -> Next {
        match self.admit_chunk(chunk_bytes, policy) {
            Ok(()) => self.begin_chunk(chunk_bytes, last),
            Err(refusal) => {
                self.report_refused_body(RejectedAt::Data, &refusal, policy);
                self.refuse_chunk(chunk_bytes, refusal, out)
            }
        }
    }

    fn admit_chunk(&self, chunk_bytes: u64, policy: &dyn Policy) -> Result<(), Refusal> {
        let message_bytes = match &self.state {
            _ if !self.offers().has(Extension::Chunking) => return Err(NO_CHUNKING),
            State::Mail(envelope) if envelope.recipients.is_empty() => return Err(RCPT_FIRST),
            State::Mail(_) => 0,
            State::BetweenChunks(incoming) => incoming.scanner.content().message_bytes,
            _ => return Err(self.out_of_sequence()),
        };
        if message_bytes.saturating_add(chunk_bytes) > self.settings.max_message_bytes {
            return Err(TOO_LARGE);
        }
        match &self.state {
            State::Mail(envelope) => self.admit_body(envelope, Some(chunk_bytes), policy),
            _ => Ok(()),
        }
    }

    /// Is there room for the body of a message of which so many octets come first?
    fn admit_body(
        &self,
        envelope: &Envelope,
        first_bytes: Option<u64>,
        policy: &dyn Policy,
    ) -> Result<(), Refusal> {
        policy.admit(&self.peer, first_bytes)?;
        let bytes = first_bytes.unwrap_or(0).max(self.declared_bytes.into());
        policy.share(&self.peer, Claim::Message(envelope), bytes)
    }

    fn begin_chunk(&mut self, left: u64, last: bool) -> Next {
        match left {
            _ if last => {}
            0 => self.idle_commands += 1,
            1..SMALL_CHUNK_BYTES => self.small_chunks += 1,
            _ => {}
        }
        let (incoming, step) = match std::mem::replace(&mut self.state, State::Ready) {
            State::BetweenChunks(incoming) => (incoming, None),
            State::Mail(envelope) => {
                let scanner = Scanner::for_chunks(self.settings.rules()).behind_field();
                (Incoming { envelope, scanner }, Some(Step::BeginBody))
            }
            other => panic!("no chunk begins in {other:?}"),
        };
        self.state = State::Chunk {
            incoming,
            left,
            last,
        };
        step
    }

    /// Ends the transaction; swallows what is `left` of the chunk and then says why. Pipelined
    /// chunks behind it find no transaction, and are swallowed one by one (RFC 3030 section 2).
    pub(super) fn refuse_chunk(&mut self, left: u64, refusal: Refusal, out: &mut Vec<u8>) -> Next {
        let aborted = self.reset();
        if left == 0 {
            self.refuse(&refusal, out);
        } else if left > SWALLOWED_BYTES_MAX {
            return self.close(&refusal, out);
        } else {
            self.state = State::RefusedChunk { left, refusal };
        }
        aborted
    }

    pub(super) fn handle_chunk(
        &mut self,
        input: &[u8],
        policy: &dyn Policy,
        body: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        let State::Chunk {
            incoming,
            left,
            last,
        } = &mut self.state
        else {
            panic!("no chunk in {:?}", self.state);
        };
        let (consumed, progress) = incoming.scanner.feed(within(input, *left), body);
        *left -= consumed as u64;
        let (left, last) = (*left, *last);
        let next = match progress {
            Progress::Refused(violation) => self.refuse_content(left, violation, policy, out),
            _ if left > 0 => Some(Step::NeedInput),
            _ => self.end_chunk(last, policy, body, out),
        };
        (consumed, next)
    }

    fn refuse_content(
        &mut self,
        left: u64,
        violation: Violation,
        policy: &dyn Policy,
        out: &mut Vec<u8>,
    ) -> Next {
        let refusal = answers::content_refusal(violation);
        self.report_refused_body(RejectedAt::Content, &refusal, policy);
        self.refuse_chunk(left, refusal, out)
    }

    fn end_chunk(
        &mut self,
        last: bool,
        policy: &dyn Policy,
        body: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Next {
        let mut incoming = self.take_incoming();
        let finished = if last {
            incoming.scanner.finish_chunks(body)
        } else {
            Ok(())
        };
        self.state = State::BetweenChunks(incoming);
        match finished {
            Err(violation) => self.refuse_content(0, violation, policy, out),
            Ok(()) if last => Some(self.end_of_data()),
            Ok(()) => {
                answers::write_line(b"250 2.0.0 Chunk ok", out);
                None
            }
        }
    }

    pub(super) fn handle_refused_chunk(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        let State::RefusedChunk { left, refusal } = &mut self.state else {
            panic!("no refused chunk in {:?}", self.state);
        };
        let consumed = within(input, *left).len();
        *left -= consumed as u64;
        if *left > 0 {
            return (consumed, Some(Step::NeedInput));
        }
        let refusal = refusal.clone();
        self.state = State::Ready;
        (consumed, self.reply_refusal(&refusal, out))
    }
}

/// The part of `input` that belongs to a chunk with `left` octets to come.
fn within(input: &[u8], left: u64) -> &[u8] {
    let bytes = usize::try_from(left).unwrap_or(usize::MAX);
    &input[..input.len().min(bytes)]
}
