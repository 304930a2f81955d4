//! What each reply means within the session.

use super::transaction::{Body, Open, RecipientVerdict};
use super::{Cause, Client, ClientStep, Expect, OutOfStep};
use crate::smtp::extension::Extension;
use crate::smtp::reply::{Reply, Stage};
use std::rc::Rc;

impl Client {
    pub(super) fn on_session_reply(&mut self, reply: Reply, out: &mut Vec<u8>) {
        match self.expected.front() {
            Some(Expect::Quit) => self.over(ClientStep::Closed(Some(Rc::new(reply)))),
            Some(_) if reply.code == 421 => self.end(Cause::Refused(Rc::new(reply))),
            None if reply.code == 421 => self.end(Cause::Unexpected(Rc::new(reply))),
            None => self.lose_step(reply),
            Some(_) if self.is_early => self.lose_step(reply),
            Some(Expect::Rset) => self.on_rset(reply, out),
            Some(Expect::Proof) => self.on_proof(reply),
            Some(Expect::Mail) => self.on_mail(reply, out),
            Some(&Expect::Rcpt(position)) => self.on_rcpt(position, reply, out),
            Some(Expect::Data) => self.on_data(reply, out),
            Some(Expect::FinalDot) if self.body_is_going_out() => self.on_early_end(reply),
            Some(Expect::FinalDot) => self.on_final_dot(reply),
            Some(Expect::EmptyDot) => self.end_of_refused(true),
        }
    }

    fn on_rset(&mut self, reply: Reply, out: &mut Vec<u8>) {
        // What it refuses is not the mail that waits behind it.
        match reply.is_positive() {
            true => self.answered(Some(Expect::Mail), out),
            false => self.lose_step_at_rset(reply),
        }
    }

    fn on_proof(&mut self, reply: Reply) {
        match reply.is_positive() {
            true => self.end_of_refused(false),
            false => self.lose_step_at_rset(reply),
        }
    }

    /// Whoever refuses RSET may still hold what it was to forget.
    fn lose_step_at_rset(&mut self, reply: Reply) {
        self.lose_step(reply);
        if let Some(out_of_step) = &mut self.out_of_step {
            out_of_step.refuses_rset = true;
        }
    }

    fn on_mail(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if reply.is_intermediate() {
            return self.lose_step(reply);
        }
        if reply.is_positive() {
            return self.answered(Some(Expect::Rcpt(0)), out);
        }
        let open = self.transaction();
        open.mail_refused = true;
        open.settle(RecipientVerdict::Refused {
            stage: Stage::Mail,
            reply: Rc::new(reply),
        });
        if self.features.has(Extension::Pipelining) {
            self.answered(None, out);
        } else {
            self.end_of_refused(false);
        }
    }

    fn on_rcpt(&mut self, position: usize, reply: Reply, out: &mut Vec<u8>) {
        if reply.is_intermediate() {
            return self.lose_step(reply);
        }
        let open = self.transaction();
        if reply.is_positive() {
            open.accept_recipient(position);
        } else {
            open.refuse_recipient(position, reply);
        }
        let (is_last, has_accepted) = (position + 1 == open.recipient_count(), open.has_accepted());
        if !is_last {
            self.answered(Some(Expect::Rcpt(position + 1)), out);
        } else if has_accepted || self.features.has(Extension::Pipelining) {
            self.answered(Some(Expect::Data), out);
        } else {
            self.end_of_refused(true);
        }
    }

    fn on_data(&mut self, reply: Reply, out: &mut Vec<u8>) {
        let open = self.transaction();
        match reply.code / 100 {
            3 if open.has_accepted() => {
                open.body = Body::Asked;
                self.expected.pop_front();
                self.expected.push_front(Expect::FinalDot);
                self.steps.push_back(ClientStep::SendBody);
            }
            // Not even a dot: a peer that forgets its own refusal might deliver an empty message.
            3 if open.mail_refused => self.end(Cause::Unexpected(Rc::new(reply))),
            3 => {
                out.extend_from_slice(b".\r\n");
                self.expected.pop_front();
                self.expected.push_front(Expect::EmptyDot);
            }
            2 => self.lose_step(reply),
            _ => self.on_data_refused(reply, out),
        }
    }

    fn on_data_refused(&mut self, reply: Reply, out: &mut Vec<u8>) {
        let open = self.transaction();
        let (has_accepted, mail_refused) = (open.has_accepted(), open.mail_refused);
        open.settle(RecipientVerdict::Refused {
            stage: Stage::Data,
            reply: Rc::new(reply),
        });
        // A reply too many would have made MAIL's own, a positive one, that of the first recipient: where all
        // were refused there is no doubt.
        if self.is_used() && (has_accepted || mail_refused) {
            out.extend_from_slice(b"RSET\r\n");
            self.expected.pop_front();
            return self.expected.push_front(Expect::Proof);
        }
        self.end_of_refused(!mail_refused);
    }

    /// The session has carried other mail.
    pub(super) fn is_used(&self) -> bool {
        self.transactions_ended > 0
    }

    /// A reply that nobody asked for, or that its command cannot have: nobody knows to what the replies before
    /// it belong, or what the peer has in mind.
    fn lose_step(&mut self, reply: Reply) {
        let reply = Rc::new(reply);
        self.out_of_step = Some(OutOfStep {
            reply: reply.clone(),
            refuses_rset: false,
        });
        let is_proven = self.expected.front() == Some(&Expect::EmptyDot);
        if let Some(open) = self.open.front_mut()
            && open.body == Body::NotAsked
            && !is_proven
        {
            open.withdraw();
        }
        self.end(Cause::Unexpected(reply));
    }

    /// A reply while the content is going out. What follows of it would be read as commands, so
    /// the connection must end; and no such reply can be an acceptance.
    fn on_early_end(&mut self, reply: Reply) {
        let reply = Rc::new(reply);
        if !reply.is_transient() && !reply.is_permanent() {
            return self.end(Cause::Unexpected(reply));
        }
        self.transaction().settle(RecipientVerdict::Refused {
            stage: Stage::Body,
            reply: reply.clone(),
        });
        self.end(Cause::Refused(reply));
    }

    fn on_final_dot(&mut self, reply: Reply) {
        let reply = Rc::new(reply);
        let verdict = match reply.code / 100 {
            2 => RecipientVerdict::Accepted { reply },
            4 | 5 => RecipientVerdict::Refused {
                stage: Stage::FinalDot,
                reply,
            },
            _ => return self.end(Cause::Unexpected(reply)),
        };
        self.transaction().settle(verdict);
        self.end_of_transaction();
    }

    /// The first expected reply has come. Without PIPELINING the next command goes out.
    fn answered(&mut self, next: Option<Expect>, out: &mut Vec<u8>) {
        self.expected.pop_front();
        if !self.features.has(Extension::Pipelining)
            && let Some(next) = next
        {
            self.transaction().send_next_command(out);
            self.expected.push_back(next);
        }
    }

    /// A transaction that never came to its content.
    fn end_of_refused(&mut self, needs_rset: bool) {
        self.needs_rset = needs_rset;
        self.end_of_transaction();
    }

    fn end_of_transaction(&mut self) {
        self.expected.pop_front();
        self.transactions_ended = self.transactions_ended.saturating_add(1);
        let open = self
            .open
            .pop_front()
            .expect("a reply belongs to an open transaction");
        self.steps.push_back(ClientStep::Done(open.finish(true)));
    }

    /// The transaction that the first expected reply belongs to.
    fn transaction(&mut self) -> &mut Open {
        self.open
            .front_mut()
            .expect("a reply to a transaction's command belongs to an open transaction")
    }
}
