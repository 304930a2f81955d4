//! One connection from greeting to close.

use super::asked::{Asked, Who};
use super::context::Context;
use super::end::End;
use super::incoming::{Durable, Incoming};
use super::tls_memory::Failure;
use crate::handoff::job::{Body, Charged, Message};
use crate::handoff::memory::{Charge, MemoryLevel};
use crate::io::net::{SCRATCH_BYTES, Socket};
use crate::io::{Bug, clock, planted, pool};
use crate::message::{Envelope, TlsSummary};
use crate::policy::origin;
use crate::policy::port::Port;
use crate::smtp::server::{Phase, Policy, RejectedAt, Server, Spending, Step};
use crate::time::Now;
use crate::time::pace::Pace;
use crate::tls::session::TlsError;
use crate::tls::stream::{Received, Stream, StreamError};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long a last word, such as 421, may take to be sent, and then to be read.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of a session's task, which is there as long as the connection; TLS comes on top.
#[cfg(test)]
const IDLE_BYTES_MAX: usize = 1288;

/// Memory of a session, as it counts against the ceiling; its TLS comes on top.
pub(super) const SESSION_BYTES: usize = 2 * 1024;

/// Whether a conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    Close,
}

/// Serves one connection from greeting to close, and writes its line to the log. `place`, which
/// the connection takes somewhere, is given up at the end.
pub fn serve(
    context: Rc<Context>,
    socket: Socket,
    peer: SocketAddr,
    port: Port,
    place: impl Sized + 'static,
) -> impl Future<Output = ()> + 'static {
    let number = context.state.sessions.begin();
    context.metrics.sessions.increment();
    // Made here and captured: arguments of an async function would stay in the task as well.
    let mut session = Session::new(context, socket, Who { peer, number });
    async move {
        let end = match session.run(port).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        };
        session.finish(&end).await;
        let context = session.context.clone();
        drop(session);
        context.state.sessions.end();
        drop(place);
    }
}

/// One connection. What it seldom waits for (handshake, commit, log) waits in boxes of its own:
/// a task is as large as the largest of its waits, and most sessions wait for a command.
pub(super) struct Session {
    pub(super) context: Rc<Context>,
    pub(super) stream: Stream,
    pub(super) who: Who,
    pub(super) server: Server,
    pub(super) started: Now,
    /// Received and not yet parsed: `input[parsed..]`.
    pub(super) input: Vec<u8>,
    pub(super) parsed: usize,
    /// What the machine wanted done while it received, before it works on.
    due: Option<Step>,
    /// Replies not yet sent.
    pub(super) out: Vec<u8>,
    pub(super) incoming: Option<Incoming>,
    /// Of the body that is coming, swallowed ones included.
    pub(super) pace: Option<Pace>,
    pub(super) memory: Charge,
    /// Of the wait that is under way, or the next one.
    pub(super) deadline: Now,
    /// The same while connections run short.
    pub(super) deadline_in_crowd: Now,
    /// When the last message was accepted, or the session began.
    pub(super) last_message: Now,
}

impl Session {
    fn new(context: Rc<Context>, socket: Socket, who: Who) -> Self {
        let started = clock::now();
        let info = context.peer_info(who.peer.ip());
        Session {
            server: Server::new(context.terms.server.clone(), info),
            stream: Stream::new(socket),
            memory: context.memory.charge(SESSION_BYTES as u64),
            context,
            who,
            started,
            input: Vec::new(),
            parsed: 0,
            due: None,
            out: Vec::new(),
            incoming: None,
            pace: None,
            deadline: Now::NEVER,
            deadline_in_crowd: Now::NEVER,
            last_message: started,
        }
    }

    async fn run(&mut self, port: Port) -> Result<(), End> {
        if port.has_implicit_tls() {
            let mut info = self.context.peer_info(self.who.peer.ip());
            let spent = self.context.spend(&info, Spending::Handshake);
            spent.map_err(|_| End::Limited)?;
            // TLS was there before the first word, so it belongs to who the peer is.
            info.tls = Some(Box::pin(self.handshake()).await?);
            self.server = Server::new(self.context.terms.server.clone(), info);
        }
        self.server.greet(&mut self.out);
        self.flush().await?;
        loop {
            let flow = if self.parsed < self.input.len() {
                // With implicit TLS commands may have come with the client's last flight.
                self.serve_input().await?
            } else if self.must_take_turns() {
                Box::pin(self.serve_in_turn()).await?
            } else {
                self.receive().await?;
                self.serve_input().await?
            };
            if flow == Flow::Close {
                return Ok(());
            }
            self.flush().await?;
        }
    }

    /// Content is coming and memory is tight.
    fn must_take_turns(&self) -> bool {
        self.incoming.is_some()
            && self.server.phase() != Phase::Command
            && self.context.memory.level() >= MemoryLevel::Tight
    }

    /// Receives one piece of content and brings it to the log, a few sessions at a time. Whoever
    /// waits for its turn leaves what has come in the kernel, which slows the sender down; and its
    /// time-outs stand still. Since a turn leaves little in memory, everybody's comes.
    async fn serve_in_turn(&mut self) -> Result<Flow, End> {
        let context = self.context.clone();
        self.set_deadlines();
        let readable = self.stream.socket().readable().await;
        readable.map_err(|error| self.failed(error.into()))?;
        self.stream.set_deadline(Now::NEVER);
        let came = clock::now();
        context.metrics.body_pauses.increment();
        let _turn = context.state.turns.acquire().await;
        self.exclude(came);
        self.stream.socket().set_receive_bytes_max(SCRATCH_BYTES);
        let received = self.stream.receive_unasked(&mut self.input).await;
        note_progress(&mut self.pace, self.input.len() - self.parsed);
        self.received(received)?;
        self.serve_input().await
    }

    fn received(&self, received: Result<Received, StreamError>) -> Result<(), End> {
        match received {
            Ok(Received::Bytes) => Ok(()),
            Ok(Received::End { clean }) => Err(End::PeerGone { clean }),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Waits for input until the deadline of the machine's phase. An idle session holds no buffer.
    /// The machine works on what comes where it lies, up to the first step that it wants done;
    /// only what is behind that is kept.
    async fn receive(&mut self) -> Result<(), End> {
        let idle = self.server.is_idle();
        if idle && self.context.state.draining.get() {
            return Err(End::Draining);
        }
        self.set_deadlines();
        let most = self.receive_bytes_max();
        self.stream.socket().set_receive_bytes_max(most);
        self.stream.socket().set_interruptible(idle);
        let take = |text: &[u8]| {
            note_progress(&mut self.pace, text.len());
            if self.due.is_some() {
                return 0;
            }
            let machine = (&mut self.server, &mut self.incoming);
            let asked = self.context.asked(&self.who);
            let (taken, step) = work(machine, text, &asked, &mut self.out);
            self.due = Some(step).filter(|step| !matches!(step, Step::NeedInput));
            taken
        };
        let received = self.stream.receive_offering(&mut self.input, take).await;
        self.stream.socket().set_interruptible(false);
        self.received(received)
    }

    /// Does what the machine wants done, and lets it work until it wants more input.
    async fn serve_input(&mut self) -> Result<Flow, End> {
        loop {
            let step = match self.due.take() {
                Some(step) => step,
                None => {
                    let input = &self.input[self.parsed..];
                    let machine = (&mut self.server, &mut self.incoming);
                    let asked = self.context.asked(&self.who);
                    let (taken, step) = work(machine, input, &asked, &mut self.out);
                    self.parsed += taken;
                    step
                }
            };
            match step {
                Step::NeedInput => {
                    self.forget_input();
                    if self.server.has_refused_data() && self.stream.socket().has_bytes() {
                        self.server.more_has_come();
                    }
                    self.note_phase();
                    // Before and after: others go on while this one waits for the disk.
                    self.charge_memory();
                    self.incoming.iter_mut().for_each(Incoming::weigh);
                    self.spill().await;
                    self.charge_memory();
                    return Ok(Flow::Continue);
                }
                Step::BeginBody => self.begin_body(),
                Step::BodyAborted => self.incoming = None,
                Step::EndOfData(envelope) => Box::pin(self.commit(envelope)).await,
                Step::StartTls => {
                    self.forget_input();
                    self.flush().await?;
                    // What comes with the client's last flight is the first command over TLS.
                    let tls = Box::pin(self.handshake()).await?;
                    self.server.tls_established(tls);
                }
                Step::Close => return Ok(Flow::Close),
            }
        }
    }

    /// Drops what was received, parsed or not. After STARTTLS that is the promise of RFC 3207
    /// section 4.2; otherwise everything has been parsed.
    fn forget_input(&mut self) {
        pool::give(std::mem::take(&mut self.input));
        self.parsed = 0;
    }

    fn begin_body(&mut self) {
        let id = self.context.spool.next_id();
        let declared_bytes = self.server.declared_bytes();
        let envelope = self.server.envelope().expect("its body begins");
        let share = (self.context).charge(self.server.peer(), envelope, declared_bytes.into());
        let mut incoming = Incoming::new(id, declared_bytes, share);
        self.server
            .trace(id, incoming.received_at, &mut incoming.held.body);
        self.incoming = Some(incoming);
    }

    /// Moves a body that has outgrown memory to the log.
    async fn spill(&mut self) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        let context = &self.context;
        self.stream.set_deadline(Now::NEVER);
        let level = context.memory.level();
        incoming
            .held
            .make_room(context.terms.settings.body_room, level);
        if !incoming
            .held
            .has_outgrown(context.terms.settings.body_room, level)
        {
            return;
        }
        if let Some(envelope) = self.server.envelope() {
            incoming.keep_share(context, self.server.peer(), envelope);
        }
        let began = clock::now();
        Box::pin(incoming.spill(&context.spool, context.terms.settings.body_room, level)).await;
        self.exclude(began);
    }

    /// Makes the received message durable and lets the machine answer.
    async fn commit(&mut self, envelope: Box<Envelope>) {
        self.charge_memory();
        let mut incoming = self
            .incoming
            .take()
            .expect("a body ends only after it began");
        incoming.weigh_whole(&envelope);
        incoming.keep_share(&self.context, self.server.peer(), &envelope);
        self.pace = None;
        self.stream.set_deadline(Now::NEVER);
        let complete = clock::now();
        let is_early = planted(Bug::AnsweredEarly);
        if is_early {
            self.server.committed(incoming.id, &mut self.out);
            let _ = self.flush().await;
        }
        match incoming.commit(&self.context.spool, &envelope).await {
            Ok(durable) => {
                let took = clock::now().since(complete);
                self.context.metrics.accept_us.record_duration(took);
                self.last_message = clock::now();
                if !is_early {
                    self.server.committed(durable.id, &mut self.out);
                }
                self.hand_over(durable, *envelope);
            }
            Err(error) => {
                let refusal = error.refusal();
                let at = RejectedAt::Commit;
                let rejection = self.server.rejection_of(&envelope, at, &refusal);
                self.context.asked(&self.who).rejected(&rejection);
                if !is_early {
                    self.server.not_committed(refusal, &mut self.out);
                }
            }
        }
    }

    fn hand_over(&mut self, mut durable: Durable, mut envelope: Envelope) {
        if planted(Bug::NotifyForgotten) {
            (envelope.recipients.iter_mut()).for_each(|recipient| recipient.notify = None);
        }
        let context = &self.context;
        let metrics = &context.metrics;
        metrics.messages_accepted.increment();
        metrics.bytes_accepted.add(durable.body_bytes);
        metrics
            .recipients_accepted
            .add(envelope.recipients.len() as u64);
        self.log_accepted(&durable, &envelope);
        durable.share.accepted();
        let memory = durable.share.weight().memory;
        let charged = Charged {
            memory: context.memory.charge(memory),
            share: durable.share,
        };
        if planted(Bug::ChargesKept) {
            std::mem::forget(context.memory.charge(memory));
        }
        let peer = self.server.peer();
        let origin = origin::of(peer.address, peer.trusted, envelope.reverse_path.as_ref());
        let message = Message::new(
            durable.id,
            (durable.received_at, clock::now()),
            envelope,
            durable.receipt.into_place(),
            context.core,
            origin,
            charged,
        );
        let is_small = durable.body_bytes <= context.terms.settings.body_room.whole_bytes as u64;
        let body = durable.body.filter(|_| is_small);
        let body = body.and_then(|body| Body::keep(body, &context.memory));
        (context.accepted)(message, body);
    }

    async fn handshake(&mut self) -> Result<TlsSummary, End> {
        let context = self.context.clone();
        let now = clock::now();
        self.stream
            .set_deadline(now + context.terms.settings.timeouts.handshake);
        let session = context.terms.tls.get().accept();
        let result = match session {
            Ok(session) => self.stream.handshake(session, &mut self.input).await,
            Err(error) => Err(StreamError::Tls(error)),
        };
        match result {
            Ok(summary) => {
                let hello = &self.server.summary().hello;
                context.tls_memory.succeeded(self.who.peer.ip(), hello, now);
                match summary.resumed {
                    true => context.metrics.handshakes_in_resumed.increment(),
                    false => context.metrics.handshakes_in_full.increment(),
                }
                self.arm_deadline();
                Ok(summary)
            }
            Err(error) => {
                self.note_failed_handshake(&error);
                context.metrics.handshakes_in_failed.increment();
                Err(End::Handshake(error))
            }
        }
    }

    /// What failed here, and what no name was given for, says nothing of the client.
    fn note_failed_handshake(&self, error: &StreamError) {
        let hello = &self.server.summary().hello;
        let is_ours = matches!(error, StreamError::Tls(TlsError::Ours(_)));
        if hello.is_empty() || is_ours {
            return;
        }
        let failure = Failure {
            fingerprint: self.stream.failed_hello(),
            said_why: match error {
                StreamError::Tls(TlsError::Alert(alert)) => **alert != *"CloseNotify",
                StreamError::Tls(_) => true,
                StreamError::Gone(_) | StreamError::TimedOut => false,
            },
            began: self.started,
        };
        let memory = &self.context.tls_memory;
        memory.failed(self.who.peer.ip(), hello, failure, clock::now());
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            pool::give(std::mem::take(&mut self.out));
            if matches!(self.server.phase(), Phase::Body | Phase::BodyMayBeOver) {
                self.arm_deadline();
            }
            return Ok(());
        }
        self.arm_deadline();
        self.set_deadlines();
        let counts = self.replies_bytes() > 0;
        if counts {
            if self.context.memory.level() >= MemoryLevel::Tight {
                self.out.shrink_to_fit();
            }
            self.charge_memory();
        }
        let sent = self.stream.send(&self.out).await;
        pool::give(std::mem::take(&mut self.out));
        if counts {
            self.charge_memory();
        }
        sent.map_err(|error| self.failed(error))
    }

    /// Says the last word where one is due, closes, and writes the session's line.
    async fn finish(&mut self, end: &End) {
        let limit = self.limit_of_wait(end);
        match end {
            End::Stream(StreamError::TimedOut) => {
                self.context.metrics.sessions_timed_out.increment();
                self.server.timed_out(&mut self.out);
            }
            End::CrowdedOut => {
                self.context.metrics.sessions_timed_out.increment();
                self.server.crowded_out(&mut self.out);
            }
            End::TooSlow => {
                self.context.metrics.sessions_too_slow.increment();
                self.server.timed_out(&mut self.out);
            }
            End::Draining => self.server.shutting_down(&mut self.out),
            _ => {}
        }
        self.note_withdrawal();
        self.log_end(end, limit);
        let last_words = std::mem::take(&mut self.out);
        let last_words_due = clock::now() + LAST_WORD_TIMEOUT;
        let peer_may_be_sending = match end {
            End::Closed => !self.server.has_quit(),
            End::PeerGone { .. } | End::Limited => false,
            End::TooSlow | End::CrowdedOut => true,
            End::Stream(error) | End::Handshake(error) => !matches!(error, StreamError::Gone(_)),
            End::Draining => true,
        };
        if peer_may_be_sending {
            self.stream.linger(&last_words, last_words_due).await;
        } else {
            self.stream.set_deadline(last_words_due);
            self.stream.close(&last_words).await;
        }
        pool::give(last_words);
    }

    fn note_withdrawal(&self) {
        let summary = self.server.summary();
        if summary.starttls_withdrawn && summary.transactions == 0 {
            let memory = &self.context.tls_memory;
            memory.withdrawn_in_vain(self.who.peer.ip(), &summary.hello);
        }
    }
}

/// Lets the machine work on `input` up to its next step, content going to the body that is under way.
fn work(
    (server, incoming): (&mut Server, &mut Option<Incoming>),
    input: &[u8],
    asked: &Asked<'_>,
    out: &mut Vec<u8>,
) -> (usize, Step) {
    let mut nowhere = Vec::new();
    let body = match incoming {
        Some(incoming) => &mut incoming.held.body,
        None => &mut nowhere,
    };
    if out.capacity() == 0 {
        *out = pool::take();
    }
    server.handle(input, asked, body, out)
}

/// Content has come, if it is content.
fn note_progress(pace: &mut Option<Pace>, bytes: usize) {
    if let Some(pace) = pace {
        pace.moved(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, E, F: Future>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_that_waits_for_a_command_is_small() {
        let bytes = future_bytes::<_, _, _, _, (), _>(serve);
        assert!(bytes <= IDLE_BYTES_MAX, "{bytes} bytes");
    }
}
