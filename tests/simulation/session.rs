//! One inbound connection: stands in for `session`. The SMTP machine is the real one.

use crate::canary::Canary;
use crate::job::Message;
use crate::link::{End, Received};
use crate::place::Place;
use crate::relay::{Core, HOSTNAME};
use crate::spool::Chunks;
use crate::world::Owner;
use ringpost::handoff::job::Body;
use ringpost::handoff::memory::{Charge, Level};
use ringpost::message::{Envelope, Mailbox, MessageId};
use ringpost::schedule::outcome::RecipientState;
use ringpost::session::Held;
use ringpost::smtp::extension::{Extension, Extensions};
use ringpost::smtp::refusal::Refusal;
use ringpost::smtp::server::{
    PeerInfo, Phase, Policy, Rejection, Server, Settings, Spending, Step,
};
use ringpost::spool::SpoolError;
use ringpost::time::{Now, WallTime};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

pub const RECIPIENTS_MAX: usize = 5;
pub const MESSAGE_BYTES_MAX: u64 = 60_000;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const DATA_TIMEOUT: Duration = Duration::from_secs(20);
const SESSION_BYTES: u64 = 2048;
const OUT_OF_MEMORY: Refusal = Refusal::new(452, 3, 1, "Insufficient system memory, try later");
const NOT_OURS: Refusal = Refusal::new(554, 7, 1, "Relay access denied");

impl Policy for Core {
    fn recipient(&self, _trusted: bool, path: &Mailbox) -> Result<(), Refusal> {
        match path.domain_as_written() {
            "refused.test" => Err(NOT_OURS),
            _ => Ok(()),
        }
    }

    fn postmaster(&self) -> Option<Mailbox> {
        None
    }

    fn admit(&self, _peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        if self.part().budget.level() >= Level::Full {
            self.world().seen.borrow_mut().out_of_memory += 1;
            return Err(OUT_OF_MEMORY);
        }
        let admitted = self.spool().admit(declared_bytes);
        if admitted.is_err() {
            self.world().seen.borrow_mut().disk_full += 1;
        }
        admitted.map_err(|error| error.refusal())
    }

    fn lists_starttls(&self, _peer: &PeerInfo, _hello: &str) -> bool {
        true
    }

    fn spend(&self, _peer: &PeerInfo, _what: Spending) -> Result<(), Refusal> {
        Ok(())
    }

    fn rejected(&self, _rejection: &Rejection<'_>) {}
}

/// The message that is being received.
struct Incoming {
    id: MessageId,
    received_at: WallTime,
    held: Held,
    /// Present once the message has outgrown memory, with the number of the next chunk.
    written: Option<(Rc<Chunks>, u32)>,
    failed: Option<SpoolError>,
}

enum Ended {
    Closed,
    PeerGone,
    TimedOut,
}

struct Session {
    core: Core,
    end: End,
    server: Server,
    input: Vec<u8>,
    parsed: usize,
    out: Vec<u8>,
    incoming: Option<Incoming>,
    _memory: Charge,
    deadline: Now,
}

/// A client has connected.
pub fn serve(core: Core, end: End) {
    let world = core.world().clone();
    world.spawn(Owner::Relay, async move {
        let mut session = Session::new(core, end);
        let ended = session.converse().await;
        if matches!(ended, Err(Ended::TimedOut)) {
            session.server.timed_out(&mut session.out);
        }
        let _ = session.end.send(&session.out);
    });
}

impl Session {
    fn new(core: Core, end: End) -> Session {
        let settings = Settings {
            max_message_bytes: MESSAGE_BYTES_MAX,
            max_recipients: RECIPIENTS_MAX,
            offers: Extensions::OURS.without(Extension::StartTls),
            ..Settings::new(HOSTNAME)
        };
        let peer = PeerInfo {
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            trusted: true,
            tls: None,
        };
        Session {
            server: Server::new(Rc::new(settings), peer),
            _memory: core.part().budget.charge(SESSION_BYTES),
            core,
            end,
            input: Vec::new(),
            parsed: 0,
            out: Vec::new(),
            incoming: None,
            deadline: Now::NEVER,
        }
    }

    async fn converse(&mut self) -> Result<(), Ended> {
        self.server.greet(&mut self.out);
        self.flush()?;
        loop {
            if self.parsed == self.input.len() {
                self.receive().await?;
            }
            if let Flow::Close = self.serve_input().await {
                return Err(Ended::Closed);
            }
            self.flush()?;
        }
    }

    async fn receive(&mut self) -> Result<(), Ended> {
        match self.end.receive(&mut self.input, self.deadline).await {
            Received::Bytes => Ok(()),
            Received::End => Err(Ended::PeerGone),
            Received::TimedOut => Err(Ended::TimedOut),
        }
    }

    fn flush(&mut self) -> Result<(), Ended> {
        let wait = match self.server.phase() {
            Phase::Body | Phase::BodyMayBeOver => DATA_TIMEOUT,
            _ => COMMAND_TIMEOUT,
        };
        self.deadline = self.core.world().now() + wait;
        let sent = self.end.send(&self.out);
        self.out.clear();
        sent.map_err(|_| Ended::PeerGone)
    }

    /// Lets the machine work until it wants more input.
    async fn serve_input(&mut self) -> Flow {
        loop {
            let mut nowhere = Vec::new();
            let body = match &mut self.incoming {
                Some(incoming) => &mut incoming.held.body,
                None => &mut nowhere,
            };
            let input = &self.input[self.parsed..];
            let (taken, step) = self.server.handle(input, &self.core, body, &mut self.out);
            self.parsed += taken;
            match step {
                Step::NeedInput => {
                    self.input.clear();
                    self.parsed = 0;
                    self.spill().await;
                    return Flow::Continue;
                }
                Step::BeginBody => self.begin_body(),
                Step::BodyAborted => self.incoming = None,
                Step::EndOfData(envelope) => self.commit(*envelope).await,
                Step::StartTls => unreachable!("it is not offered"),
                Step::Close => return Flow::Close,
            }
        }
    }

    fn begin_body(&mut self) {
        let mut incoming = Incoming {
            id: self.core.spool().next_id(),
            received_at: self.core.world().wall_time(),
            held: Held::new(self.server.declared_bytes()),
            written: None,
            failed: None,
        };
        self.server
            .trace(incoming.id, incoming.received_at, &mut incoming.held.body);
        self.incoming = Some(incoming);
    }

    /// Moves a body that has outgrown memory to the log.
    async fn spill(&mut self) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        let (room, level) = (self.core.relay.body_room, self.core.part().budget.level());
        if !incoming.held.has_outgrown(room, level) {
            return;
        }
        let (id, body) = (incoming.id, &incoming.held.body);
        self.core.world().ledger.borrow_mut().received(id, body);
        if incoming.failed.is_none() {
            incoming.failed = incoming.write(&self.core).await.err();
        }
        incoming
            .held
            .written(room, level, incoming.failed.is_some());
    }

    /// Makes the received message durable and lets the machine answer.
    async fn commit(&mut self, envelope: Envelope) {
        let incoming = self.incoming.take().expect("a body ends after it began");
        let world = self.core.world().clone();
        let id = incoming.id;
        world.ledger.borrow_mut().received(id, &incoming.held.body);
        let answers_early = world.canary == Canary::AnswersEarly;
        if answers_early {
            self.server.committed(id, &mut self.out);
            let _ = self.flush();
        }
        let received_at = incoming.received_at;
        let was_spilled = incoming.written.is_some();
        match incoming.commit(&self.core, &envelope).await {
            Ok((place, body)) => {
                if was_spilled {
                    let seen = &mut world.seen.borrow_mut();
                    seen.spilled += 1;
                    seen.spilled_and_held += u64::from(body.is_some());
                }
                tell!(world, "{id} is durable");
                if !answers_early {
                    self.server.committed(id, &mut self.out);
                }
                self.hand_over((id, received_at), envelope, place, body);
            }
            Err(error) => {
                world.seen.borrow_mut().not_stored += 1;
                tell!(world, "{id} is refused: {error}");
                if !answers_early {
                    self.server.not_committed(error.refusal(), &mut self.out);
                }
            }
        }
    }

    fn hand_over(
        &self,
        id: (MessageId, WallTime),
        envelope: Envelope,
        place: Place,
        body: Option<Vec<u8>>,
    ) {
        let relay = &self.core.relay;
        let is_small = place.body_bytes() <= relay.body_room.whole_bytes as u64;
        let fresh = vec![RecipientState::fresh(); envelope.recipients.len()];
        let home = self.core.number;
        let message = Message::new(id, envelope, &fresh, place, home, relay.books());
        let body = body.filter(|_| is_small);
        let body = body.and_then(|body| Body::keep(body, &self.core.part().budget));
        self.core.accepted(&message, body);
    }
}

enum Flow {
    Continue,
    Close,
}

impl Incoming {
    async fn write(&mut self, core: &Core) -> Result<(), SpoolError> {
        let (chunks, index) = self.written.get_or_insert_default();
        let piece = self.held.unwritten();
        *index = core
            .spool()
            .chunk(self.id, *index, piece, chunks, false)
            .await?;
        Ok(())
    }

    /// Where it lies, and its body with the padding if that is still in memory.
    async fn commit(
        mut self,
        core: &Core,
        envelope: &Envelope,
    ) -> Result<(Place, Option<Vec<u8>>), SpoolError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let spool = core.spool();
        let place = if self.written.is_none() {
            let body = self.held.unwritten();
            spool
                .append(self.id, self.received_at, envelope, body)
                .await?
        } else {
            self.write(core).await?;
            let (chunks, _) = self.written.take().expect("just seen");
            spool
                .finish(self.id, self.received_at, envelope, &chunks)
                .await?
        };
        Ok((place, self.held.into_whole()))
    }
}
