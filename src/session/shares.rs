//! Whether mail finds room in the shares of its origin and its destinations: asked of it at MAIL, RCPT and DATA, charged as
//! its body begins, and asked once more when that is whole.

use super::context::Context;
use super::incoming::{Incoming, NotTaken};
use crate::handoff::job::{LEAST_QUEUED_BYTES, queued_bytes};
use crate::io::clock;
use crate::log::{LogLevel, event};
use crate::message::{Envelope, Mailbox};
use crate::policy::origin;
use crate::policy::shares::{Mail, Over, Resource, Rooms, ShareCharge, Ways, Weight, Who};
use crate::smtp::refusal::Refusal;
use crate::smtp::server::{Claim, PeerInfo};

/// A body that turns out larger than it was charged for is charged for so much more at once.
const STEP_BYTES: u64 = 64 * 1024;

/// Of a body whose size nobody has declared.
const UNDECLARED_BYTES: u64 = 16 * 1024;

/// What mail takes whose body has so many octets.
fn weight(envelope: &Envelope, body_bytes: u64) -> Weight {
    Weight {
        memory: queued_bytes(envelope),
        spool: body_bytes,
    }
}

impl Incoming {
    /// What has come counts, if it is more than was charged for.
    pub(super) fn weigh(&mut self) {
        if self.is_refused() {
            return;
        }
        let weight = self.share.weight();
        let body_bytes = self.held.body_bytes();
        if body_bytes > weight.spool {
            self.share.set(Weight {
                spool: body_bytes + STEP_BYTES,
                ..weight
            });
        }
    }

    /// It is whole, and counts as what it is.
    pub(super) fn weigh_whole(&mut self, envelope: &Envelope) {
        if self.is_refused() {
            return;
        }
        self.share.set(weight(envelope, self.held.body_bytes()));
    }

    /// It will not be taken if one of those whose share it counts at has its share without it: others may have come
    /// since it began.
    pub(super) fn keep_share(&mut self, context: &Context, peer: &PeerInfo, envelope: &Envelope) {
        if self.is_refused() {
            return;
        }
        if let Err(who) = context.keeps_share(peer, envelope, &self.share) {
            self.refuse(NotTaken::Share(who));
        }
    }
}

impl Context {
    fn rooms(&self, trusted: bool) -> Rooms {
        let own_bytes = self.shares.own_spool_bytes();
        let spool = self.spool.room_for_mail(own_bytes);
        self.shares.rooms(self.memory.room(trusted), spool)
    }

    /// See [`Policy::share`](crate::smtp::server::Policy::share). One look where there is plenty.
    pub(super) fn share(
        &self,
        peer: &PeerInfo,
        claim: Claim<'_>,
        declared_bytes: u64,
    ) -> Result<(), Refusal> {
        // Since the last MAIL or DATA of this core.
        if matches!(claim, Claim::Recipient(_)) && !self.state.is_scarce.get() {
            return Ok(());
        }
        let rooms = self.rooms(peer.trusted);
        self.state.is_scarce.set(rooms.are_scarce());
        if !rooms.are_scarce() {
            return Ok(());
        }
        let begins = Mail::Begins(Weight {
            memory: LEAST_QUEUED_BYTES,
            spool: declared_bytes,
        });
        match claim {
            Claim::Sender(reverse_path) => self.origin_has_room(peer, reverse_path, begins, &rooms),
            Claim::Recipient(recipient) => {
                self.destination_has_room(peer, recipient, begins, &rooms)
            }
            Claim::Message(envelope) => {
                let mail = Mail::Comes(weight(envelope, declared_bytes));
                let reverse_path = envelope.reverse_path.as_ref();
                self.origin_has_room(peer, reverse_path, mail, &rooms)?;
                let mut recipients = envelope.recipients.iter();
                recipients.try_for_each(|it| {
                    self.destination_has_room(peer, &it.forward_path, mail, &rooms)
                })
            }
        }
    }

    fn origin_has_room(
        &self,
        peer: &PeerInfo,
        reverse_path: Option<&Mailbox>,
        mail: Mail,
        rooms: &Rooms,
    ) -> Result<(), Refusal> {
        let origin = origin::of(peer.address, peer.trusted, reverse_path);
        let way = self.shares.shares.party(origin).into();
        let asked = self.shares.ask(Who::Origin, way, mail, rooms);
        asked.map_err(|over| self.refuse(peer, reverse_path, None, over))
    }

    fn destination_has_room(
        &self,
        peer: &PeerInfo,
        recipient: &Mailbox,
        mail: Mail,
        rooms: &Rooms,
    ) -> Result<(), Refusal> {
        if self.terms.relay.get().has_one_way() {
            return Ok(());
        }
        let way = self.destinations.way(recipient);
        let asked = self.shares.ask(Who::Destination, way, mail, rooms);
        asked.map_err(|over| self.refuse(peer, None, Some(recipient), over))
    }

    /// Charges mail whose body begins. Whoever declares much and sends nothing takes no room from others.
    pub(super) fn charge(
        &self,
        peer: &PeerInfo,
        envelope: &Envelope,
        declared_bytes: u64,
    ) -> ShareCharge {
        let origin = origin::of(peer.address, peer.trusted, envelope.reverse_path.as_ref());
        let recipients = &envelope.recipients;
        let party = |index: usize| self.destinations.way(&recipients[index].forward_path).party;
        let bytes = match declared_bytes {
            0 => UNDECLARED_BYTES,
            declared => declared.min(STEP_BYTES),
        };
        let ways = Ways::of(recipients.len(), party);
        let origin = self.shares.shares.party(origin);
        self.shares.charge(origin, ways, weight(envelope, bytes))
    }

    /// Whether what is charged may be accepted.
    fn keeps_share(
        &self,
        peer: &PeerInfo,
        envelope: &Envelope,
        charge: &ShareCharge,
    ) -> Result<(), Who> {
        let rooms = self.rooms(peer.trusted);
        if !rooms.are_scarce() {
            return Ok(());
        }
        let has_one_way = self.terms.relay.get().has_one_way();
        let asked = charge.ask(&rooms, |who| who == Who::Origin || !has_one_way);
        asked.map_err(|over| {
            let is_its = |path: &&Mailbox| self.destinations.way(path).counts_at(over.party);
            let mut paths = envelope.recipients.iter().map(|it| &it.forward_path);
            let recipient = match over.who {
                Who::Destination => paths.find(is_its),
                Who::Origin => None,
            };
            self.refuse(peer, envelope.reverse_path.as_ref(), recipient, over);
            over.who
        })
    }

    /// Counts and logs that somebody has its share; what the client is told.
    fn refuse(
        &self,
        peer: &PeerInfo,
        reverse_path: Option<&Mailbox>,
        recipient: Option<&Mailbox>,
        over: Over,
    ) -> Refusal {
        self.metrics.refused_for_share.increment();
        let mut lines = self.state.lines.shares.borrow_mut();
        if let Some(suppressed) = lines.allow(over.party, clock::now()) {
            let mut line =
                (self.log).line(LogLevel::Warn, event::SHARE_REFUSED, clock::wall_time());
            line.field("client", peer.address.to_canonical());
            match over.who {
                Who::Destination => {
                    let name = recipient.map(|it| self.destinations.name(it));
                    line.field("destination", name.as_deref())
                }
                Who::Origin => {
                    let sender = reverse_path.filter(|_| peer.trusted);
                    line.field("sender", sender)
                }
            };
            let limit = match over.resource {
                Resource::Memory => "--memory-max",
                Resource::Spool => "--spool-size",
            };
            line.field("waiting", over.holds)
                .field("share", over.limit)
                .field("limit", limit)
                .field("lines_suppressed", suppressed);
        }
        NotTaken::Share(over.who).refusal()
    }
}
