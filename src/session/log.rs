//! The lines of a session in the log.

use super::end::End;
use super::incoming::Durable;
use super::serve::Session;
use crate::io::clock;
use crate::log::{LogLevel, Shown, event};
use crate::message::Envelope;
use crate::smtp::server::Phase;
use crate::tls::stream::StreamError;

impl Session {
    /// The flag that bounds the wait that was too long.
    pub(super) fn limit_of_wait(&self, end: &End) -> &'static str {
        let session = self.context.terms.settings.timeouts.session;
        let is_whole = session.is_some_and(|most| clock::now() >= self.started + most);
        match (end, self.server.phase()) {
            (End::Handshake(StreamError::TimedOut), _) => " (--handshake-timeout)",
            (End::Stream(StreamError::TimedOut), _) if is_whole => " (--session-timeout)",
            (End::Stream(StreamError::TimedOut), Phase::Body) => " (--data-timeout)",
            (End::Stream(StreamError::TimedOut), Phase::BodyMayBeOver) => {
                " (the message may have ended with bare line ends)"
            }
            (End::Stream(StreamError::TimedOut), _) => " (--command-timeout)",
            _ => "",
        }
    }

    pub(super) fn log_accepted(&self, durable: &Durable, envelope: &Envelope) {
        let log = &self.context.log;
        if !log.wants(LogLevel::Info) {
            return;
        }
        let now = clock::wall_time();
        let mut line = log.line(LogLevel::Info, event::ACCEPTED, now);
        line.field("id", durable.id)
            .field("session", self.context.session_id(&self.who))
            .field("from", envelope.from_field())
            .recipients(&envelope.recipients)
            .field("message_id", durable.message_id())
            .field("bytes", durable.body_bytes)
            .field("client", self.who.client());
        line.tls(self.server.summary().tls.as_ref());
    }

    pub(super) fn log_end(&self, end: &End, limit: &str) {
        let summary = self.server.summary();
        self.context.metrics.refusals.add(summary.refusals);
        let now = clock::wall_time();
        let mut line = self.context.log.line(LogLevel::Info, event::SESSION, now);
        line.field("session", self.context.session_id(&self.who))
            .field("client", self.who.client())
            .field("client_port", self.who.peer.port())
            .field("hello", &*summary.hello);
        line.tls(summary.tls.as_ref());
        line.field("messages", summary.messages)
            .field("recipients", summary.recipients)
            .field("bytes", summary.message_bytes);
        if summary.refusals > 0 {
            line.field("refusals", summary.refusals)
                .field("last_refusal", &summary.last_refusal);
        }
        if summary.input_before_tls {
            line.field("violation", "input behind STARTTLS, discarded");
        }
        if summary.starttls_withdrawn {
            line.field("starttls", "not listed: the last handshakes failed");
        }
        let seconds = clock::now().since(self.started).as_millis() as u64;
        line.field("duration_ms", seconds)
            .field("end", Shown(format_args!("{end}{limit}")));
    }
}
