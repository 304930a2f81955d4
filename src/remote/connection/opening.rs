//! From the connection to a session that is ready for mail, with as much TLS as the destination demands.

use super::{Connection, Context};
use crate::io::clock;
use crate::message::TlsSummary;
use crate::smtp::client::{Cause, ClientStep, Failure, TlsWish};
use crate::tls::stream::StreamError;
use crate::tls::terms::Terms;
use std::fmt;
use std::net::SocketAddr;

/// Whom to connect to, and on what terms.
pub struct Target<'a> {
    pub site: &'a str,
    /// The MX host's name, or the address in brackets.
    pub host: &'a str,
    pub address: SocketAddr,
    pub terms: Terms<'a>,
    /// False after a failed handshake that the level forgives.
    pub try_tls: bool,
}

impl Target<'_> {
    pub(super) fn wish(&self) -> TlsWish {
        let level = self.terms.level;
        match (level.wants_tls(), level.allows_plaintext()) {
            (true, false) => TlsWish::Required,
            (true, true) if self.try_tls => TlsWish::IfOffered,
            _ => TlsWish::Never,
        }
    }
}

/// Why no session came about.
#[derive(Debug)]
pub enum OpenError {
    /// The TCP connection failed.
    Unreachable(std::io::Error),
    /// The handshake failed or took too long, or TLS did before the first reply inside it.
    Tls(TlsFailure),
    /// The handshake worked, but not with the host that was meant.
    Untrusted(TlsSummary),
    /// The session ended before it was ready for mail.
    Session(Failure),
}

/// How TLS failed.
#[derive(Debug)]
pub struct TlsFailure {
    pub error: StreamError,
    /// The handshake was done on our side, and no reply had come inside it. A server with TLS 1.3 checks
    /// our last flight only then, so a refusal comes here as well.
    pub after_handshake: bool,
    /// It was to resume an earlier session. The tickets are forgotten: a full handshake may work.
    pub with_ticket: bool,
}

impl TlsFailure {
    /// When, and what was said.
    pub fn how(&self) -> String {
        let when = match self.after_handshake {
            true => "after",
            false => "in",
        };
        format!("{when} the handshake: {}", self.error)
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS failed {}", self.how())
    }
}

impl Connection {
    pub(super) async fn negotiate(&mut self, target: &Target<'_>) -> Result<(), OpenError> {
        loop {
            match self.step().await {
                ClientStep::StartTls => self.start_tls(target).await?,
                ClientStep::Ready => return Ok(()),
                ClientStep::Failed(failure) => {
                    self.send_pending();
                    return Err(self.failed(failure, target));
                }
                _ => {
                    return Err(OpenError::Session(Failure {
                        stage: self.client.phase(),
                        cause: Cause::PeerClosed,
                    }));
                }
            }
        }
    }

    /// Until a reply has come inside TLS, it is TLS that did not work.
    fn failed(&mut self, failure: Failure, target: &Target<'_>) -> OpenError {
        match self.broke.take() {
            Some(error) if self.tls.is_some() && !self.client.has_heard() => {
                self.tls_failed(error, true, target)
            }
            _ => OpenError::Session(failure),
        }
    }

    fn tls_failed(
        &self,
        error: StreamError,
        after_handshake: bool,
        target: &Target<'_>,
    ) -> OpenError {
        let Context { tls, sends_sni, .. } = &*self.context;
        if self.with_ticket {
            tls.forget_tickets(target.site, target.host, *sends_sni);
        }
        OpenError::Tls(TlsFailure {
            error,
            after_handshake,
            with_ticket: self.with_ticket,
        })
    }

    async fn start_tls(&mut self, target: &Target<'_>) -> Result<(), OpenError> {
        let shaken = self.handshake(target).await;
        let mut summary = shaken.map_err(|error| self.tls_failed(error, false, target))?;
        if let Some(session) = self.stream.session() {
            summary.verdict = self.context.judge.judge(
                session.peer_certificates(),
                target.terms.certificate_name,
                clock::wall_time(),
            );
        }
        if !target.terms.level.accepts(summary.verdict) {
            return Err(OpenError::Untrusted(summary));
        }
        self.tls = Some(summary);
        self.client.tls_established(&mut self.out);
        Ok(())
    }

    async fn handshake(&mut self, target: &Target<'_>) -> Result<TlsSummary, StreamError> {
        self.flush().await?;
        self.forget_input();
        let Context { tls, sends_sni, .. } = &*self.context;
        let session = tls
            .connect(target.site, target.host, *sends_sni)
            .map_err(StreamError::Tls)?;
        self.with_ticket = session.offers_ticket();
        self.stream
            .set_deadline(clock::now() + self.context.timeouts.handshake);
        self.stream.handshake(session, &mut self.input).await
    }
}
