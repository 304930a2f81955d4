//! What is told, beside the reply, of a sender, a recipient or a message that was refused: so that
//! "why was this mail refused" has an answer.
//!
//! Not told: what only follows from an earlier refusal (DATA without a recipient, RCPT without a
//! sender), and commands that carry no mail.

use super::{PeerInfo, Policy, Refusal, Server, State};
use crate::message::{Envelope, Recipient};
use crate::smtp::command::MailCommand;

/// The command, or the part of the transaction, that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectedAt {
    Mail,
    Rcpt,
    /// DATA or BDAT, before any content.
    Data,
    Content,
    /// The content is whole, and could not be stored.
    Commit,
}

impl RejectedAt {
    pub fn name(self) -> &'static str {
        match self {
            RejectedAt::Mail => "MAIL",
            RejectedAt::Rcpt => "RCPT",
            RejectedAt::Data => "DATA",
            RejectedAt::Content => "content",
            RejectedAt::Commit => "commit",
        }
    }
}

/// A refusal, and whose mail it concerns. Text is as the client sent it.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    pub peer: &'a PeerInfo,
    /// As in [`Summary::hello`](super::Summary::hello).
    pub hello: &'a str,
    pub at: RejectedAt,
    /// `<>` if it is null. What cannot be read as an address stands here as it came.
    pub from: Option<&'a str>,
    /// At RCPT.
    pub to: Option<&'a str>,
    /// From DATA on.
    pub recipients: &'a [Recipient],
    pub refusal: &'a Refusal,
}

impl Server {
    fn rejection<'a>(&'a self, at: RejectedAt, refusal: &'a Refusal) -> Rejection<'a> {
        Rejection {
            peer: &self.peer,
            hello: &self.summary.hello,
            at,
            from: None,
            to: None,
            recipients: &[],
            refusal,
        }
    }

    pub(super) fn report_refused_mail(
        &self,
        mail: &MailCommand<'_>,
        refusal: &Refusal,
        to: &dyn Policy,
    ) {
        let from = mail
            .reverse_path
            .as_ref()
            .map_or("<>", |path| path.as_str());
        to.rejected(&Rejection {
            from: Some(from),
            ..self.rejection(RejectedAt::Mail, refusal)
        });
    }

    /// `forward_path`: as text, if it could be read or not.
    pub(super) fn report_refused_rcpt(
        &self,
        forward_path: &str,
        refusal: &Refusal,
        to: &dyn Policy,
    ) {
        let envelope = match &self.state {
            State::Mail(envelope) => Some(envelope),
            _ => None,
        };
        to.rejected(&Rejection {
            from: envelope.map(|envelope| envelope.from_field()),
            to: Some(forward_path),
            ..self.rejection(RejectedAt::Rcpt, refusal)
        });
    }

    /// Of the transaction that is open, if it has got as far as having a recipient.
    pub(super) fn report_refused_body(&self, at: RejectedAt, refusal: &Refusal, to: &dyn Policy) {
        let envelope = match &self.state {
            State::Mail(envelope) => envelope,
            State::Data(incoming)
            | State::BetweenChunks(incoming)
            | State::Chunk { incoming, .. } => &incoming.envelope,
            _ => return,
        };
        if !envelope.recipients.is_empty() {
            to.rejected(&self.rejection_of(envelope, at, refusal));
        }
    }

    /// Of a message that [`Step::EndOfData`](super::Step::EndOfData) handed out.
    pub fn rejection_of<'a>(
        &'a self,
        envelope: &'a Envelope,
        at: RejectedAt,
        refusal: &'a Refusal,
    ) -> Rejection<'a> {
        Rejection {
            from: Some(envelope.from_field()),
            recipients: &envelope.recipients,
            ..self.rejection(at, refusal)
        }
    }

    /// A line that was meant to be MAIL or RCPT and could not be read.
    pub(super) fn report_refused_line(&self, line: &[u8], refusal: &Refusal, to: &dyn Policy) {
        let text = String::from_utf8_lossy(line);
        let Some((verb, arguments)) = text.trim_end().split_once(' ') else {
            return;
        };
        let path = arguments
            .split_once(':')
            .map_or(arguments, |(_, path)| path);
        if verb.eq_ignore_ascii_case("MAIL") {
            to.rejected(&Rejection {
                from: Some(path.trim()),
                ..self.rejection(RejectedAt::Mail, refusal)
            });
        } else if verb.eq_ignore_ascii_case("RCPT") {
            self.report_refused_rcpt(path.trim(), refusal, to);
        }
    }
}
