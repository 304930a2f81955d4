//! One core: its roles, and the pump that connects it with the others.

use super::shared::Shared;
use crate::delivery::{self, Delivery};
use crate::engine::placement::CoreSpec;
use crate::handoff::job::{Accepted, Body, Job, Message, ToCore};
use crate::handoff::{Handoff, Outbox};
use crate::io::net::{self, Bound, Listener};
use crate::io::runtime::{sleep, spawn};
use crate::listener::{Admission, Ingress};
use crate::schedule::outcome::RecipientState;
use crate::session;
use crate::spool::{self, Note, Spool};
use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Items taken from the lanes before other tasks get their turn.
const PUMP_ITEMS: usize = 256;
/// How often items that did not fit into a lane are tried again.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

/// What a thread is given to become a core.
pub struct Seed {
    pub number: usize,
    pub spec: CoreSpec,
    pub shared: Arc<Shared>,
    pub handoff: Handoff<ToCore>,
    pub spool: spool::CorePart,
    /// With whether TLS comes first.
    pub listeners: Vec<(Bound, bool)>,
    pub recovered: Vec<Box<Job>>,
}

struct Core {
    number: usize,
    shared: Arc<Shared>,
    outbox: Rc<Outbox<ToCore>>,
    spool: Spool,
    delivery: Option<Delivery>,
    ingress: RefCell<Option<Rc<Ingress>>>,
    /// Takes turns over delivery cores for hops that all of them serve.
    turn: Cell<usize>,
}

/// Runs a core until the process ends. `started` is called once it listens.
pub async fn run(seed: Seed, started: impl FnOnce()) {
    let Seed {
        number,
        spec,
        shared,
        handoff: Handoff { outbox, inbox },
        spool,
        listeners,
        recovered,
    } = seed;
    let outbox = Rc::new(outbox);
    let spool = open_spool(spool, &shared, number, &outbox);
    let core = Rc::new_cyclic(|core: &std::rc::Weak<Core>| {
        let finished = core.clone();
        let delivery = spec.delivery.then(|| {
            let finished = Box::new(move |message: &Message, recipients| {
                if let Some(core) = finished.upgrade() {
                    core.recipients_finished(message, recipients);
                }
            });
            shared.delivery(number, spool.clone(), finished)
        });
        Core {
            number,
            shared,
            outbox,
            spool,
            delivery,
            ingress: RefCell::new(None),
            turn: Cell::new(number),
        }
    });
    if spec.ingress {
        core.start_ingress(listeners);
    }
    if let Some(delivery) = &core.delivery {
        recovered.into_iter().for_each(|job| delivery.resume(job));
    }
    started();
    core.pump(inbox).await;
}

fn open_spool(
    part: spool::CorePart,
    shared: &Arc<Shared>,
    number: usize,
    outbox: &Rc<Outbox<ToCore>>,
) -> Spool {
    let (shared, outbox) = (shared.clone(), outbox.clone());
    Spool::start(part, move |note: Note| {
        shared.log_spool_note(number, &note);
        if let Note::SegmentRetired(_) = note {
            for core in shared.cores().filter(|core| *core != number) {
                outbox.send(core, ToCore::Spool(note.clone()));
            }
        }
    })
}

impl Core {
    fn start_ingress(self: &Rc<Self>, listeners: Vec<(Bound, bool)>) {
        let accepted = {
            let core = self.clone();
            Box::new(move |message, body| core.accepted(message, body))
        };
        let pass_on = {
            let outbox = self.outbox.clone();
            Box::new(move |core, accepted: Box<Accepted>| {
                outbox.send(core, ToCore::Connection(accepted));
            })
        };
        let context = self.shared.session(self.number, self.spool.clone(), accepted);
        let ingress = Rc::new(Ingress {
            context,
            admission: self.shared.admission(self.number),
            pass_on,
            draining: Cell::new(false),
        });
        for (bound, implicit_tls) in listeners {
            spawn(ingress.clone().listen(Listener::new(bound), implicit_tls));
        }
        *self.ingress.borrow_mut() = Some(ingress);
    }

    /// Receives from the other cores, for ever.
    async fn pump(self: Rc<Self>, inbox: crate::handoff::Inbox<ToCore>) {
        loop {
            let drained = inbox.drain(PUMP_ITEMS, |item| self.receive(item));
            self.outbox.flush();
            if drained >= PUMP_ITEMS {
                crate::io::runtime::yield_now().await;
            } else if self.outbox.backlog() > 0 {
                sleep(BACKLOG_RETRY).await;
            } else {
                inbox.wait().await;
            }
        }
    }

    fn receive(self: &Rc<Self>, item: ToCore) {
        match item {
            ToCore::Deliver(job) => self.deliver(job),
            ToCore::Finished(message) => self.spool.message_finished(message),
            ToCore::Spool(note) => self.spool.receive_note(note),
            ToCore::Connection(accepted) => {
                if let Some(ingress) = &*self.ingress.borrow() {
                    ingress.start(*accepted);
                }
            }
            ToCore::Drain => self.clone().drain(),
            ToCore::Drained => {}
        }
    }

    fn deliver(&self, job: Box<Job>) {
        match &self.delivery {
            Some(delivery) => delivery.submit(job),
            None => self.outbox.send(self.shared.delivery_cores[0], ToCore::Deliver(job)),
        }
    }

    /// A message is durable: its recipients go to the cores that deliver them.
    fn accepted(&self, message: Arc<Message>, body: Option<Arc<Body>>) {
        let recipients = &message.envelope.recipients;
        let anywhere = self.any_delivery_core();
        let mut parts: Vec<(usize, Vec<(u32, RecipientState)>)> = Vec::new();
        for (index, recipient) in recipients.iter().enumerate() {
            let core = self
                .shared
                .core_for_domain(recipient.forward_path.domain())
                .unwrap_or(anywhere);
            let entry = (index as u32, RecipientState::fresh());
            match parts.iter_mut().find(|(other, _)| *other == core) {
                Some((_, part)) => part.push(entry),
                None => parts.push((core, vec![entry])),
            }
        }
        for (core, recipients) in parts {
            let job = Box::new(Job {
                message: message.clone(),
                body: body.clone(),
                recipients,
            });
            if core == self.number {
                self.deliver(job);
            } else {
                self.outbox.send(core, ToCore::Deliver(job));
            }
        }
    }

    /// For hops that every delivery core serves: this one if it delivers, else each in turn.
    fn any_delivery_core(&self) -> usize {
        if self.delivery.is_some() {
            return self.number;
        }
        let cores = &self.shared.delivery_cores;
        self.turn.set(self.turn.get().wrapping_add(1));
        cores[self.turn.get() % cores.len()]
    }

    fn recipients_finished(&self, message: &Message, recipients: u32) {
        if !message.finish(recipients) {
            return;
        }
        if message.home == self.number {
            self.spool.message_finished(message.id);
        } else {
            self.outbox
                .send(message.home, ToCore::Finished(message.id));
        }
    }

    fn stop_accepting(&self) {
        if let Some(ingress) = &*self.ingress.borrow() {
            ingress.draining.set(true);
            ingress.context.draining.set(true);
            net::interrupt_idle();
        }
    }

    /// Ends sessions, then deliveries, then waits for the last outcomes; tells the control thread.
    fn drain(self: Rc<Self>) {
        self.stop_accepting();
        spawn(async move {
            let ingress = self.ingress.borrow().clone();
            if let Some(ingress) = ingress {
                ingress.context.wait_until_empty().await;
            }
            if let Some(delivery) = &self.delivery {
                delivery.drain().await;
            }
            self.spool.flush().await;
            self.outbox.send(self.shared.control, ToCore::Drained);
        });
    }
}
