//! A host with the real spool on each of its cores, and those who use it: mail comes in, is read back, gets
//! somewhere on whichever core, and is finished.

use crate::ledger::Ledger;
use crate::mail::{self, id_of, in_words, next_state, stage_of};
use ringpost::io::buffer::AlignedBuf;
use ringpost::io::runtime::{sleep, timeout};
use ringpost::io::simulated::{Owner, World};
use ringpost::message::{Envelope, MessageId};
use ringpost::schedule::outcome::{Outcome, RecipientState};
use ringpost::spool::{
    CorePart, MessageLocation, Movable, Note, RecoveredMessage, Spool, SpoolError,
};
use ringpost::time::{Now, WallTime};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longer bodies go in pieces, as they come from a client.
const PIECE_BYTES: usize = 9000;
/// In quiet times an append is answered within this, and room is made for mail within that.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const ROOM_MAX: Duration = Duration::from_secs(20);

type Work = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub appenders: usize,
    pub deliverers: usize,
    /// The longest pause of each between two things.
    pub pause: Duration,
    pub body_bytes_max: usize,
    /// How long outcomes wait for others before they go to their home.
    pub hand_over_delay: Duration,
    /// How soon recipients are finished: see [`next_state`].
    pub patience: usize,
    /// One new message in so many is left lying until the next start, and nobody moves it; 0: none.
    pub neglects: usize,
    /// Nothing goes wrong: whoever waits too long complains.
    pub is_quiet: bool,
    pub knows_nonce: bool,
}

/// A message in the queue.
struct Message {
    id: MessageId,
    received_at: WallTime,
    envelope: Envelope,
    location: MessageLocation,
    home: u16,
}

impl Movable for Message {
    fn id(&self) -> MessageId {
        self.id
    }

    fn received_at(&self) -> WallTime {
        self.received_at
    }

    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn location(&self) -> &MessageLocation {
        &self.location
    }
}

/// Some recipients of a message, and how they stand.
struct Job {
    message: Arc<Message>,
    recipients: Vec<(u32, RecipientState)>,
    /// It was found at the start, or moved perhaps: look at the body.
    is_recovered: bool,
}

/// New states of recipients of a message.
type Settled = (Arc<Message>, Vec<(u32, RecipientState)>);

enum ToCore {
    Note(Note),
    /// To the home of the message.
    Settled(Settled),
}

pub struct Host {
    pub world: Rc<World>,
    pub ledger: Rc<RefCell<Ledger>>,
    pub manners: Cell<Manners>,
    pub spools: RefCell<Vec<Spool>>,
    segments: PathBuf,
    lanes: Vec<RefCell<VecDeque<ToCore>>>,
    /// What was settled on each core and waits.
    settled: Vec<RefCell<Vec<Settled>>>,
    queue: RefCell<Vec<Job>>,
    neglected: RefCell<Vec<Arc<Message>>>,
    /// No new mail.
    pub is_ending: Cell<bool>,
    pub is_closing: Cell<bool>,
    /// What an operator has read: segments failed, there is no space, and so on.
    pub told: RefCell<Vec<String>>,
    pub broken: RefCell<Option<String>>,
    /// Mail on its way in.
    sending: Cell<usize>,
    /// Those who use the spool.
    pub users: Cell<usize>,
    pub refused: Cell<u64>,
    pub abandoned: Cell<u64>,
}

impl Host {
    /// With mail of an earlier run.
    pub fn start(
        world: &Rc<World>,
        ledger: &Rc<RefCell<Ledger>>,
        (parts, recovered): (Vec<CorePart>, Vec<RecoveredMessage>),
        segments: PathBuf,
        manners: Manners,
    ) -> Rc<Host> {
        let host = Rc::new(Host {
            world: world.clone(),
            ledger: ledger.clone(),
            manners: Cell::new(manners),
            spools: RefCell::default(),
            segments,
            lanes: parts.iter().map(|_| RefCell::default()).collect(),
            settled: parts.iter().map(|_| RefCell::default()).collect(),
            queue: RefCell::default(),
            neglected: RefCell::default(),
            is_ending: Cell::new(false),
            is_closing: Cell::new(false),
            told: RefCell::default(),
            broken: RefCell::default(),
            sending: Cell::new(0),
            users: Cell::new(0),
            refused: Cell::new(0),
            abandoned: Cell::new(0),
        });
        for part in parts {
            host.start_spool(part);
        }
        for message in recovered {
            host.adopt(message);
        }
        for core in 0..host.lanes.len() {
            host.start_core(core as u16);
        }
        host
    }

    fn start_spool(self: &Rc<Self>, part: CorePart) {
        let (core, host) = (part.core(), self.clone());
        let sink = move |note: Note| match note {
            Note::SegmentRetired { .. } | Note::SpaceWanted => {
                let others = host.lanes.iter().enumerate();
                for (_, lane) in others.filter(|(other, _)| *other != usize::from(core)) {
                    lane.borrow_mut().push_back(ToCore::Note(note.clone()));
                }
            }
            note => host.tell(&note),
        };
        let start = || Spool::start(part, sink);
        let spool = self.world.act_as(Owner::Core(core), start);
        self.spools.borrow_mut().push(spool);
    }

    fn tell(&self, note: &Note) {
        self.world.tell(|| format!("{note:?}"));
        self.told.borrow_mut().push(format!("{note:?}"));
    }

    fn start_core(self: &Rc<Self>, core: u16) {
        let manners = self.manners.get();
        let spawn = |task: fn(Rc<Host>, u16) -> Work| {
            self.users.set(self.users.get() + 1);
            let (host, task) = (self.clone(), task(self.clone(), core));
            self.world.spawn(Owner::Core(core), async move {
                task.await;
                host.users.set(host.users.get() - 1);
            });
        };
        spawn(|host, core| Box::pin(host.pump(core)));
        for _ in 0..manners.appenders {
            spawn(|host, core| Box::pin(host.send(core)));
        }
        for _ in 0..manners.deliverers {
            spawn(|host, core| Box::pin(host.deliver(core)));
        }
    }

    fn adopt(&self, found: RecoveredMessage) {
        let message = Arc::new(Message {
            id: found.id,
            received_at: found.received_at,
            envelope: found.envelope,
            location: MessageLocation::recovered(found.place, &found.states),
            home: found.home,
        });
        self.spool(found.home).keep(message.clone());
        let open = (0..)
            .zip(found.states)
            .filter(|(_, state)| !state.is_finished());
        self.queue.borrow_mut().push(Job {
            message,
            recipients: open.collect(),
            is_recovered: true,
        });
    }

    pub fn spool(&self, core: u16) -> Spool {
        self.spools.borrow()[usize::from(core)].clone()
    }

    /// A promise is broken. The first one counts.
    pub fn accuse(&self, complaint: String) {
        self.world.tell(|| complaint.clone());
        self.broken.borrow_mut().get_or_insert(complaint);
    }

    fn hold(&self, result: Result<(), String>) {
        if let Err(complaint) = result {
            self.accuse(complaint);
        }
    }

    async fn pause(&self) {
        let most = self.manners.get().pause.as_micros() as usize;
        sleep(Duration::from_micros(self.world.below(most) as u64)).await;
    }

    pub fn describe(&self) -> String {
        let stats: Vec<_> = self.spools.borrow().iter().map(|it| it.stats()).collect();
        let (tasks, queued) = (self.world.tasks_of_cores(), self.queue.borrow().len());
        let open = self.ledger.borrow().open();
        format!("{tasks} tasks, {queued} jobs, {open} messages, {stats:#?}")
    }

    /// Nobody has anything to do any more.
    pub fn is_drained(&self) -> bool {
        let has_letters = self.lanes.iter().any(|lane| !lane.borrow().is_empty());
        let is_idle = self.queue.borrow().is_empty() && self.sending.get() == 0;
        !has_letters && is_idle && self.ledger.borrow().open() == 0
    }

    // ---- between cores ----

    async fn pump(self: Rc<Self>, core: u16) {
        while !self.is_closing.get() {
            sleep(Duration::from_micros(self.world.below(5000) as u64)).await;
            let batch = self.world.below(8);
            for _ in 0..batch {
                let next = self.lanes[usize::from(core)].borrow_mut().pop_front();
                match next {
                    Some(ToCore::Note(note)) => self.spool(core).receive_note(&note),
                    Some(ToCore::Settled(settled)) => self.record(settled),
                    None => break,
                }
            }
        }
    }

    // ---- mail comes in ----

    async fn send(self: Rc<Self>, core: u16) {
        let spool = self.spool(core);
        spool.ready().await;
        loop {
            self.pause().await;
            if self.is_ending.get() {
                return;
            }
            self.sending.set(self.sending.get() + 1);
            let bytes_max = match self.world.one_in(12) {
                true => self.manners.get().body_bytes_max,
                false => self.manners.get().body_bytes_max.min(6000),
            };
            let envelope = mail::envelope(&self.world);
            let body = match self.world.one_in(10) {
                true => self.attack(core, &envelope),
                false => mail::body(&self.world, bytes_max.max(1)),
            };
            if self.has_room(&spool, body.len()).await {
                self.send_one(core, &spool, envelope, body).await;
            }
            self.sending.set(self.sending.get() - 1);
        }
    }

    fn attack(&self, core: u16, envelope: &Envelope) -> Vec<u8> {
        let knows_nonce = self.manners.get().knows_nonce;
        mail::attack(&self.world, (&self.segments, core), envelope, knows_nonce)
    }

    /// In quiet times room is made, sooner or later.
    pub async fn has_room(&self, spool: &Spool, bytes: usize) -> bool {
        let since = self.world.now();
        loop {
            match spool.admit(Some(bytes as u64)) {
                Ok(()) => return true,
                Err(SpoolError::Closing) => return false,
                Err(_) => self.refused.set(self.refused.get() + 1),
            }
            if !self.manners.get().is_quiet || self.is_closing.get() {
                return false;
            }
            if self.world.now().since(since) > ROOM_MAX && self.ledger.borrow().open() == 0 {
                let host = self.describe();
                self.accuse(format!(
                    "no room for {bytes} bytes with an empty queue: {host}"
                ));
                return false;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn send_one(&self, core: u16, spool: &Spool, envelope: Envelope, body: Vec<u8>) {
        let (id, received_at) = (spool.next_id(), self.world.wall_time());
        let begun = self.ledger.borrow_mut().begun(
            id_of(id),
            in_words(&envelope),
            body.clone(),
            envelope.recipients.len(),
        );
        self.hold(begun);
        let began = self.world.now();
        let patience = match self.world.one_in(20) {
            true => Duration::from_micros(self.world.below(2000) as u64),
            false => Duration::from_secs(100_000),
        };
        let storing = async {
            match body.len() > PIECE_BYTES && self.world.one_in(2) {
                false => spool.append(id, received_at, &envelope, &body).await,
                true => {
                    let mut writer = spool.begin(id);
                    for piece in body.chunks(PIECE_BYTES) {
                        writer.chunk(piece).await?;
                    }
                    writer.finish(received_at, &envelope).await
                }
            }
        };
        let stored = timeout(patience, storing).await;
        self.answered(began, stored.is_ok());
        match stored {
            Ok(Ok(receipt)) => {
                self.ledger.borrow_mut().accepted(id_of(id));
                self.queue_new(core, received_at, envelope, receipt);
            }
            Ok(Err(error)) => self.world.tell(|| format!("{id} is refused: {error}")),
            Err(_) => {
                self.abandoned.set(self.abandoned.get() + 1);
                self.world.tell(|| format!("{id} is given up"));
                self.ledger.borrow_mut().given_up(id_of(id));
            }
        }
    }

    fn answered(&self, began: Now, was_waited_for: bool) {
        let took = self.world.now().since(began);
        if self.manners.get().is_quiet && was_waited_for && took > ANSWER_MAX {
            self.accuse(format!("an append took {took:?}"));
        }
    }

    fn queue_new(
        &self,
        home: u16,
        received_at: WallTime,
        envelope: Envelope,
        receipt: ringpost::spool::Receipt,
    ) {
        let recipients = envelope.recipients.len();
        let message = Arc::new(Message {
            id: receipt.id(),
            received_at,
            envelope,
            location: MessageLocation::fresh(receipt.into_place(), recipients),
            home,
        });
        if self.world.one_in(self.manners.get().neglects) {
            return self.neglected.borrow_mut().push(message);
        }
        self.spool(home).keep(message.clone());
        let mut recipients: Vec<_> = (0..recipients as u32)
            .map(|index| (index, RecipientState::fresh()))
            .collect();
        // They may go different ways.
        let others = recipients.split_off(1 + self.world.below(recipients.len()));
        for recipients in [recipients, others] {
            if !recipients.is_empty() {
                self.queue.borrow_mut().push(Job {
                    message: message.clone(),
                    recipients,
                    is_recovered: false,
                });
            }
        }
    }

    // ---- mail gets somewhere ----

    async fn deliver(self: Rc<Self>, core: u16) {
        while !self.is_closing.get() {
            self.pause().await;
            let job = {
                let mut queue = self.queue.borrow_mut();
                // Mostly the oldest, so that segments come to their end.
                let among = match self.world.one_in(4) {
                    true => queue.len(),
                    false => queue.len().min(6),
                };
                match among {
                    0 => continue,
                    _ => queue.remove(self.world.below(among)),
                }
            };
            if job.is_recovered || self.world.one_in(3) {
                self.read_back(&job.message).await;
            }
            self.get_somewhere(core, job);
        }
    }

    async fn read_back(&self, message: &Message) {
        let mut reader = message.location.place().reader();
        let mut buffer = AlignedBuf::new(16 * 1024);
        let mut body = Vec::new();
        loop {
            let (piece, returned) = reader.next(buffer).await;
            buffer = returned;
            match piece {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => body.extend_from_slice(&buffer[piece]),
                Err(error) => {
                    let is_damage = error.kind() == std::io::ErrorKind::InvalidData;
                    if self.manners.get().is_quiet || is_damage {
                        self.accuse(format!("{} cannot be read: {error}", message.id));
                    }
                    return;
                }
            }
        }
        let checked = self.ledger.borrow_mut().read_back(id_of(message.id), &body);
        self.hold(checked);
    }

    fn get_somewhere(self: &Rc<Self>, core: u16, job: Job) {
        let patience = self.manners.get().patience;
        let mut recipients = Vec::new();
        let mut rest = Vec::new();
        for (index, state) in job.recipients {
            match recipients.is_empty() || !self.world.one_in(3) {
                true => recipients.push((index, next_state(&self.world, &state, patience))),
                false => rest.push((index, state)),
            }
        }
        let message = job.message;
        let id = message.id;
        for (index, state) in &recipients {
            let stage = stage_of(state);
            let mut ledger = self.ledger.borrow_mut();
            ledger.recording(id_of(id), *index, stage);
        }
        self.settle(core, (message.clone(), recipients));
        if !rest.is_empty() {
            self.queue.borrow_mut().push(Job {
                message,
                recipients: rest,
                is_recovered: job.is_recovered,
            });
        }
    }

    fn settle(self: &Rc<Self>, core: u16, settled: Settled) {
        let delay = self.manners.get().hand_over_delay;
        let mut waiting = self.settled[usize::from(core)].borrow_mut();
        waiting.push(settled);
        if waiting.len() > 1 {
            return;
        }
        drop(waiting);
        if delay.is_zero() {
            return self.hand_over(core);
        }
        self.users.set(self.users.get() + 1);
        let host = self.clone();
        self.world.spawn(Owner::Core(core), async move {
            sleep(delay).await;
            host.hand_over(core);
            host.users.set(host.users.get() - 1);
        });
    }

    fn hand_over(self: &Rc<Self>, core: u16) {
        for settled in self.settled[usize::from(core)].take() {
            match settled.0.home {
                home if home == core => self.record(settled),
                home => {
                    let mut lane = self.lanes[usize::from(home)].borrow_mut();
                    lane.push_back(ToCore::Settled(settled));
                }
            }
        }
    }

    /// On the home of the message.
    fn record(self: &Rc<Self>, (message, recipients): Settled) {
        let outcome = Outcome {
            message: message.id,
            recipients: recipients.clone(),
        };
        let (host, of_message) = (self.clone(), message.clone());
        let then = move || host.recorded(of_message, recipients);
        let spool = self.spool(message.home);
        spool.record(&outcome, &message.location, then);
    }

    fn recorded(&self, message: Arc<Message>, recipients: Vec<(u32, RecipientState)>) {
        let mut is_last = false;
        for (index, state) in &recipients {
            let mut ledger = self.ledger.borrow_mut();
            is_last |= ledger.recorded(id_of(message.id), *index, stage_of(state));
        }
        let open: Vec<_> = recipients
            .into_iter()
            .filter(|(_, state)| !state.is_finished())
            .collect();
        if is_last {
            self.spool(message.home).message_finished(message.id);
        } else if !open.is_empty() {
            self.queue.borrow_mut().push(Job {
                message,
                recipients: open,
                is_recovered: false,
            });
        }
    }
}
