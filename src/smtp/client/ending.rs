//! How a session ends, and what that means for the transactions that are open.

use super::transaction::{Body, RecipientVerdict};
use super::{Cause, Client, ClientStep, Failure, State};
use crate::smtp::reply::{Reply, Stage};
use std::rc::Rc;

impl Client {
    /// With a QUIT that nobody waits for.
    pub(super) fn end_with_quit(&mut self, cause: Cause, out: &mut Vec<u8>) {
        out.extend_from_slice(b"QUIT\r\n");
        self.end(cause);
    }

    /// A refusal that the peer began and did not end counts for what it answers. Not for STARTTLS:
    /// there it would open a session in plaintext, which has ended.
    pub(super) fn take_partial_reply(&mut self) {
        let refusal = self.parser.end();
        if let Some(reply) = refusal
            && !matches!(self.state, State::StartTls)
        {
            // Nobody reads what follows from it.
            self.on_reply(reply, &mut Vec::new());
        }
    }

    pub(super) fn end(&mut self, cause: Cause) {
        if matches!(self.state, State::Over(_)) {
            return;
        }
        let stage = self.phase();
        for (number, mut open) in std::mem::take(&mut self.open).into_iter().enumerate() {
            open.settle(match number {
                0 => self.cut_short(open.body, stage, &cause),
                _ => RecipientVerdict::NotAttempted,
            });
            let mut result = open.finish(false);
            if number == 0 {
                let cause = cause.clone();
                result.cut_short = Some(Failure { stage, cause });
            }
            self.steps.push_back(ClientStep::Done(result));
        }
        self.over(match stage {
            Stage::Idle | Stage::Quit => ClientStep::Closed(cause.reply().cloned()),
            _ => ClientStep::Failed(Failure { stage, cause }),
        });
    }

    /// The verdict for the open transaction that the session's end has hit.
    fn cut_short(&self, body: Body, stage: Stage, cause: &Cause) -> RecipientVerdict {
        let refused = |reply: &Rc<Reply>| RecipientVerdict::Refused {
            stage,
            reply: reply.clone(),
        };
        // The peer closed a session that was idle for too long, as our MAIL was under way to it.
        let was_idle = stage == Stage::Mail && self.is_used();
        match (body, cause) {
            (Body::NotAsked, Cause::Refused(_)) if was_idle => RecipientVerdict::NotAttempted,
            (Body::NotAsked, Cause::Unexpected(_)) if self.is_used() => {
                RecipientVerdict::NotAttempted
            }
            (_, Cause::Refused(reply)) | (Body::NotAsked, Cause::Unexpected(reply)) => {
                refused(reply)
            }
            (Body::NotAsked, _) => RecipientVerdict::NotAttempted,
            (Body::Asked, _) => RecipientVerdict::LostInBody,
            (Body::Sent, _) => RecipientVerdict::LostAfterData,
        }
    }

    pub(super) fn over(&mut self, step: ClientStep) {
        self.expected.clear();
        self.state = State::Over(step);
    }
}
