//! A session with a next hop: stands in for `remote/connection.rs`, in plaintext.

use crate::link::{End, Received};
use crate::relay::HOSTNAME;
use crate::world::{World, yield_now};
use ringpost::smtp::client::{
    Cause, Client, ClientSettings, ClientStep, Failure, Features, TlsWish, Transaction,
    TransactionResult,
};
use ringpost::smtp::extension::Extension;
use ringpost::smtp::reply::Stage;
use ringpost::time::Now;
use std::rc::Rc;
use std::time::Duration;

const SLICE_BYTES: usize = 4096;
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
const FINAL_DOT_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

fn timeout(stage: Stage) -> Duration {
    match stage {
        Stage::FinalDot => FINAL_DOT_TIMEOUT,
        Stage::Quit => QUIT_TIMEOUT,
        _ => REPLY_TIMEOUT,
    }
}

/// Where a transaction stands.
pub enum Point {
    SendBody,
    Done(TransactionResult),
}

/// How a connection was lost.
#[derive(Clone, Copy)]
enum Lost {
    Gone,
    TimedOut,
}

fn split_last(content: &[u8]) -> (&[u8], &[u8]) {
    let most = content.len().saturating_sub(1) / SLICE_BYTES * SLICE_BYTES;
    content.split_at(most)
}

/// A session that is ready for a transaction.
pub struct Connection {
    world: Rc<World>,
    end: End,
    client: Client,
    input: Vec<u8>,
    parsed: usize,
    out: Vec<u8>,
    /// A step that the machine gave outside of `handle`.
    pending: Option<ClientStep>,
    /// Which reply is waited for, and since when: it has one deadline, however it comes.
    awaited: (u64, Stage, Now),
}

impl Connection {
    /// `Err(None)` is not for here: nobody was there to be spoken to.
    pub async fn open(world: &Rc<World>, end: End) -> Result<Connection, Option<Failure>> {
        let settings = ClientSettings {
            hostname: HOSTNAME.to_owned(),
            starttls: TlsWish::Never,
            detect_loop: true,
        };
        let mut connection = Connection {
            world: world.clone(),
            end,
            client: Client::new(Rc::new(settings)),
            input: Vec::new(),
            parsed: 0,
            out: Vec::new(),
            pending: None,
            awaited: (0, Stage::Connect, world.now()),
        };
        match connection.step().await {
            ClientStep::Ready => Ok(connection),
            ClientStep::Failed(failure) => {
                let _ = connection.end.send(&connection.out);
                Err(Some(failure))
            }
            _ => Err(Some(Failure {
                stage: connection.client.phase(),
                cause: Cause::PeerClosed,
            })),
        }
    }

    pub fn lives(&self) -> bool {
        !self.client.is_over()
    }

    pub fn knows_no_extensions(&self) -> bool {
        *self.client.features() == Features::default()
    }

    pub fn pipelines(&self) -> bool {
        self.client.features().has(Extension::Pipelining)
    }

    pub fn begin(&mut self, transaction: &Transaction<'_>) -> Result<(), TransactionResult> {
        self.client
            .begin(transaction, &mut self.out)
            .map_err(|unfit| TransactionResult::unfit(transaction, &unfit))
    }

    pub async fn proceed(&mut self) -> Point {
        match self.step().await {
            ClientStep::SendBody => Point::SendBody,
            ClientStep::Done(result) => Point::Done(result),
            step => unreachable!("{step:?} while a transaction is open"),
        }
    }

    pub async fn send_body(&mut self, content: &[u8]) {
        if self.send_most(content).await {
            self.send_last(content).await;
        }
    }

    /// Sends the content but for its last piece. False: the session is over.
    pub async fn send_most(&mut self, content: &[u8]) -> bool {
        if self.is_refused_early() {
            return false;
        }
        for slice in split_last(content).0.chunks(SLICE_BYTES) {
            if self.end.send(slice).is_err() {
                self.body_broke_off().await;
                return false;
            }
            yield_now(&self.world).await;
        }
        self.client.body_sent();
        true
    }

    /// Begins a transaction whose commands go out with the last piece of the content.
    pub fn begin_ahead(&mut self, next: &Transaction<'_>) -> bool {
        self.client.can_begin() && self.client.begin(next, &mut self.out).is_ok()
    }

    pub async fn send_last(&mut self, content: &[u8]) {
        let mut piece = split_last(content).1.to_vec();
        piece.append(&mut self.out);
        if self.end.send(&piece).is_err() {
            self.body_broke_off().await;
        }
    }

    async fn body_broke_off(&mut self) {
        self.client.body_broke_off();
        if !self.hears_why().await {
            self.lost(Lost::Gone);
        }
    }

    /// Handles what has come behind 354 before the content was sent: a refusal, which ends the
    /// session, or nothing good.
    fn is_refused_early(&mut self) -> bool {
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

    /// A host that finds a message too large half way answers and closes, and its reply is still
    /// there to be read.
    async fn hears_why(&mut self) -> bool {
        let deadline = self.world.now() + LAST_WORD_TIMEOUT;
        loop {
            self.forget_input();
            match self.end.receive(&mut self.input, deadline).await {
                Received::Bytes if self.is_refused_early() => {
                    self.world.seen.borrow_mut().heard_why += 1;
                    return true;
                }
                Received::Bytes => {}
                Received::End | Received::TimedOut => return false,
            }
        }
    }

    /// The next step of the machine; waits for the peer as long as the phase allows.
    async fn step(&mut self) -> ClientStep {
        loop {
            if let Some(step) = self.pending.take()
                && step != ClientStep::NeedInput
            {
                return step;
            }
            let input = &self.input[self.parsed..];
            let (taken, step) = self.client.handle(input, &mut self.out);
            self.parsed += taken;
            if step != ClientStep::NeedInput {
                return step;
            }
            self.forget_input();
            if let Err(lost) = self.exchange().await {
                self.lost(lost);
            }
        }
    }

    async fn exchange(&mut self) -> Result<(), Lost> {
        let out = std::mem::take(&mut self.out);
        if !out.is_empty() && self.end.send(&out).is_err() {
            return Err(Lost::Gone);
        }
        let (replies, phase) = (self.client.replies(), self.client.phase());
        if (self.awaited.0, self.awaited.1) != (replies, phase) {
            self.awaited = (replies, phase, self.world.now());
        }
        let deadline = self.awaited.2 + timeout(phase);
        match self.end.receive(&mut self.input, deadline).await {
            Received::Bytes => Ok(()),
            Received::End => Err(Lost::Gone),
            Received::TimedOut => Err(Lost::TimedOut),
        }
    }

    /// Tells the machine how the connection ended; its steps follow from `handle`.
    fn lost(&mut self, lost: Lost) {
        self.out.clear();
        self.pending = Some(match lost {
            Lost::TimedOut => {
                self.world.seen.borrow_mut().timed_out += 1;
                self.client.timed_out()
            }
            Lost::Gone => self.client.peer_closed(),
        });
    }

    fn forget_input(&mut self) {
        self.input.clear();
        self.parsed = 0;
    }

    pub fn has_news(&self) -> bool {
        self.parsed < self.input.len() || self.end.has_news()
    }

    /// The peer has neither said anything nor closed since the last transaction.
    pub fn is_quiet(&self) -> bool {
        !self.has_news()
    }

    /// Ends the session with QUIT, waiting only briefly for its answer.
    pub async fn quit(mut self) {
        self.client.quit(&mut self.out);
        if !self.out.is_empty() {
            while !matches!(
                self.step().await,
                ClientStep::Closed(_) | ClientStep::Failed(_)
            ) {}
        }
    }
}
