//! How much of the relay's room the mail for one destination, or of one origin, may hold.
//!
//! A dead destination, or a client with a flood, would fill memory or the spool, and then nobody's mail is taken. So a
//! party may hold no more than a multiple of what is left ([`Who::alpha`]): the more is used, the less each may have
//! (Choudhury and Hahne, dynamic queue length thresholds). One destination has at most half of all, two have a third each,
//! and whoever has nothing yet finds room. Nobody configures a quota, and nothing that was accepted is dropped.
//!
//! A message counts whole at each way that it still goes: it stays whole until the last of its recipients is done. A
//! part of it would let 99 recipients at good hosts hide the one who keeps it.
//!
//! Each core has counts of its own for the mail that it is home to, which are added up when somebody asks. They are
//! sketches: two rows of cells by a keyed hash, and a party holds what the lesser of its two cells says. Nothing is
//! allocated for a party. One that shares both cells with a hog is taken for it: beside a hundred hogs, one in 420.
//!
//! Promise: what was charged is given back once, whatever the order, and all counts are zero when no mail is left.
//! Not here: how much room there is, and what a party is called.

mod ways;

pub use ways::{Way, Ways};

use crate::io::random::{self, Keyed};
use crate::io::{Bug, planted};
use std::cell::Cell;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Cells of a row. A core has two rows for destinations and two for origins: 128 KB.
const CELLS: usize = 1 << 11;

/// Sites of domains that are known, for all cores: 128 KB.
const SITES: usize = 1 << 14;

/// What other cores hold is summed up once in so many questions while there is plenty.
const LOOKS_PER_SUM: u32 = 16;

/// Where its weight is not known yet, mail is refused so much of a share earlier: else what is refused would be whole
/// messages, and not the recipients at one destination.
const MARGIN_PARTS: u64 = 16;

/// Whose share it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The next hop as routed.
    Destination,
    /// The client's network; behind trusted clients, the sender.
    Origin,
}

impl Who {
    /// A party may hold so many times what is left. An origin may have more than a destination: else the first dead
    /// destination that it writes to would end its mail to all others.
    fn alpha(self) -> u64 {
        match self {
            Who::Destination => 1,
            Who::Origin => 3,
        }
    }
}

/// Where a party is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Party(u32);

impl Party {
    fn cells(self) -> [usize; 2] {
        let [one, other] = [self.0, self.0 >> 16];
        [one as usize % CELLS, other as usize % CELLS]
    }
}

/// What mail takes, in octets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Weight {
    pub memory: u64,
    pub spool: u64,
}

/// Mail that is asked for, and what it weighs.
#[derive(Clone, Copy, Debug)]
pub enum Mail {
    /// What is known of its weight, before its last recipient has been named.
    Begins(Weight),
    /// As far as it is declared.
    Comes(Weight),
    /// What it is charged for.
    IsCharged(Weight),
}

/// What there is of something, in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub used: u64,
    pub left: u64,
}

impl Room {
    /// More than half is used, or is about to be: shares count.
    fn is_scarce(self) -> bool {
        self.used > self.less_a_margin()
    }

    fn less_a_margin(self) -> u64 {
        self.left - self.left / MARGIN_PARTS
    }

    /// What other cores do until they are looked at again may bring it about.
    fn may_soon_be_scarce(self) -> bool {
        self.used > self.left / 2
    }

    /// Who `holds` so much may have so much `more`. Whoever holds nothing may: else a large message would have no
    /// share at all.
    fn limit(self, who: Who, holds: u64, mail: (u64, bool)) -> Option<u64> {
        let (more, begins) = mail;
        let left = match begins {
            true => self.less_a_margin(),
            false => self.left,
        };
        if self.used <= left || holds == 0 {
            return None;
        }
        let limit = left.saturating_sub(more).saturating_mul(who.alpha());
        (holds.saturating_add(more) > limit).then_some(limit)
    }
}

/// The room that there is for mail of a core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rooms {
    pub memory: Room,
    pub spool: Room,
    /// The core has a part of the spool to itself: only what lies there counts.
    pub spool_is_own: bool,
}

impl Rooms {
    pub fn are_scarce(&self) -> bool {
        self.memory.is_scarce() || self.spool.is_scarce()
    }

    fn may_soon_be_scarce(&self) -> bool {
        self.memory.may_soon_be_scarce() || self.spool.may_soon_be_scarce()
    }
}

/// What there is too little of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    Memory,
    Spool,
}

/// A party has its share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    pub who: Who,
    pub party: Party,
    pub resource: Resource,
    pub holds: u64,
    pub limit: u64,
}

#[derive(Default)]
struct Count {
    memory: AtomicU64,
    spool: AtomicU64,
}

impl Count {
    fn get(&self) -> Weight {
        Weight {
            memory: self.memory.load(Ordering::Relaxed),
            spool: self.spool.load(Ordering::Relaxed),
        }
    }

    /// What was `before` is `after`.
    fn replace(&self, before: Weight, after: Weight) {
        let replace = |count: &AtomicU64, before: u64, after: u64| {
            if before != after {
                count.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            }
        };
        replace(&self.memory, before.memory, after.memory);
        replace(&self.spool, before.spool, after.spool);
    }

    fn subtract(&self, weight: Weight) {
        self.replace(weight, Weight::default());
    }
}

struct Sketch([Box<[Count]>; 2]);

impl Sketch {
    fn new() -> Self {
        let row = || (0..CELLS).map(|_| Count::default()).collect();
        Sketch([row(), row()])
    }

    fn cells(&self, party: Party) -> [&Count; 2] {
        let [one, other] = party.cells();
        [&self.0[0][one], &self.0[1][other]]
    }
}

/// What the mail of one core holds. On cache lines of its own.
#[repr(align(128))]
struct OfCore {
    destinations: Sketch,
    origins: Sketch,
    /// Of all that is charged.
    all: Count,
    /// What of it is not accepted: no other count knows of it.
    incoming: Count,
}

impl OfCore {
    fn new() -> Self {
        OfCore {
            destinations: Sketch::new(),
            origins: Sketch::new(),
            all: Count::default(),
            incoming: Count::default(),
        }
    }

    fn of(&self, who: Who) -> &Sketch {
        match who {
            Who::Destination => &self.destinations,
            Who::Origin => &self.origins,
        }
    }
}

/// What all mail holds, and what is not accepted of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    pub all: Weight,
    pub incoming: Weight,
}

/// The counts of all cores. Any core may charge and give back.
pub struct Shares {
    hasher: Keyed,
    cores: Box<[OfCore]>,
    /// By domain: a part of its hash, and the party of its site. The last one that was learned stands.
    sites: Box<[AtomicU64]>,
}

impl Shares {
    pub fn new(cores: usize) -> Arc<Self> {
        Arc::new(Shares {
            hasher: random::keyed(),
            cores: (0..cores).map(|_| OfCore::new()).collect(),
            sites: (0..SITES).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Of whatever names it.
    pub fn party(&self, name: impl Hash) -> Party {
        Party(self.hasher.hash_one(name) as u32)
    }

    /// Mail for a domain counts at its site, once that is known.
    pub fn way_of_domain(&self, domain: &str) -> Way {
        let (place, tag, domain) = self.place_of(domain);
        let entry = place.load(Ordering::Relaxed);
        match entry >> 32 == u64::from(tag) && entry != 0 {
            true => Way {
                party: Party(entry as u32),
                before: Some(domain),
            },
            false => domain.into(),
        }
    }

    /// From now on mail for the domain counts at this site.
    pub fn learn(&self, domain: &str, site: &str) {
        let (place, tag, _) = self.place_of(domain);
        let site = self.party(("site", site));
        let entry = u64::from(tag) << 32 | u64::from(site.0);
        if place.load(Ordering::Relaxed) != entry {
            place.store(entry, Ordering::Relaxed);
        }
    }

    fn place_of(&self, domain: &str) -> (&AtomicU64, u32, Party) {
        let hash = self.hasher.hash_one(domain);
        let tag = (hash >> 32) as u32;
        (&self.sites[tag as usize % SITES], tag, Party(hash as u32))
    }

    /// What is charged for one core.
    pub fn held_by(&self, core: usize) -> Totals {
        let core = &self.cores[core];
        Totals {
            all: core.all.get(),
            incoming: core.incoming.get(),
        }
    }

    /// What is charged for all. Reads some cache lines of each.
    pub fn held(&self) -> Totals {
        let of_cores = (0..self.cores.len()).map(|core| self.held_by(core));
        of_cores.fold(Totals::default(), Totals::and)
    }

    /// Nothing is charged, anywhere.
    pub fn are_given_back(&self) -> bool {
        let is_zero = |count: &Count| count.get() == Weight::default();
        let rows = |core: &OfCore| {
            let mut rows = core.destinations.0.iter().chain(&core.origins.0);
            rows.all(|row| row.iter().all(is_zero))
        };
        let mut cores = self.cores.iter();
        cores.all(|core| is_zero(&core.all) && is_zero(&core.incoming) && rows(core))
    }

    /// What a party holds: as seen from a core if that has a part of the spool to itself. Reads cells of each core.
    fn held_by_party(&self, who: Who, party: Party, spool_of: Option<usize>) -> Weight {
        let mut sums = [Weight::default(); 2];
        for (number, core) in self.cores.iter().enumerate() {
            for (sum, cell) in sums.iter_mut().zip(core.of(who).cells(party)) {
                let cell = cell.get();
                sum.memory = sum.memory.wrapping_add(cell.memory);
                if spool_of.is_none_or(|of| of == number) {
                    sum.spool = sum.spool.wrapping_add(cell.spool);
                }
            }
        }
        Weight {
            memory: sums[0].memory.min(sums[1].memory),
            spool: sums[0].spool.min(sums[1].spool),
        }
    }

    /// Whether mail may come this way, or of this origin, to a core with such rooms.
    ///
    /// # Errors
    /// It has its share.
    fn ask(
        &self,
        (who, way): (Who, Way),
        mail: Mail,
        (core, rooms): (usize, &Rooms),
    ) -> Result<(), Over> {
        if !rooms.are_scarce() {
            return Ok(());
        }
        let spool_of = rooms.spool_is_own.then_some(core);
        let parties = [Some(way.party), way.before].into_iter().flatten();
        let held = parties.map(|party| self.held_by_party(who, party, spool_of));
        let held = held.fold(Weight::default(), Weight::and);
        let (own, more) = match mail {
            Mail::Begins(more) | Mail::Comes(more) => (Weight::default(), more),
            Mail::IsCharged(own) => (own, Weight::default()),
        };
        let begins = matches!(mail, Mail::Begins(_));
        let resources = [
            (
                Resource::Memory,
                rooms.memory,
                held.memory,
                own.memory,
                more.memory,
            ),
            (
                Resource::Spool,
                rooms.spool,
                held.spool,
                own.spool,
                more.spool,
            ),
        ];
        for (resource, room, held, own, more) in resources {
            // What is the asker's is not left any more, and counts if there is something beside it.
            let others = held.saturating_sub(own);
            let holds = if others == 0 { 0 } else { held };
            if let Some(limit) = room.limit(who, holds, (more, begins)) {
                return Err(Over {
                    who,
                    party: way.party,
                    resource,
                    holds,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Charges mail that comes to a core.
    pub fn charge(
        self: &Arc<Self>,
        core: usize,
        origin: Option<Party>,
        ways: Ways,
        weight: Weight,
    ) -> ShareCharge {
        let mut charge = ShareCharge {
            shares: self.clone(),
            core: core as u32,
            origin,
            ways,
            weight: Weight::default(),
            is_incoming: true,
        };
        charge.set(weight);
        charge
    }
}

/// The shares as one core sees them.
pub struct View {
    pub shares: Arc<Shares>,
    core: usize,
    /// What the other cores held at the last look.
    others: Cell<Totals>,
    looks: Cell<u32>,
}

impl View {
    pub fn new(shares: Arc<Shares>, core: usize) -> Self {
        View {
            shares,
            core,
            others: Cell::default(),
            looks: Cell::new(0),
        }
    }

    /// The room for mail here: of memory, and of the spool, of which so much is `left` to this core. Mostly a few loads:
    /// the other cores are asked at every [`LOOKS_PER_SUM`]th question, and each time when a third is used.
    pub fn rooms(&self, memory: Room, (left, spool_is_own): (u64, bool)) -> Rooms {
        let own = self.shares.held_by(self.core);
        let rooms = |all: Totals| {
            let spool = if spool_is_own { own } else { all };
            Rooms {
                memory: Room {
                    used: memory.used.saturating_add(all.incoming.memory),
                    left: memory.left.saturating_sub(all.incoming.memory),
                },
                spool: Room {
                    used: spool.all.spool,
                    left: left.saturating_sub(spool.incoming.spool),
                },
                spool_is_own,
            }
        };
        let looks = self.looks.get();
        let known = rooms(own.and(self.others.get()));
        if looks > 0 && !known.may_soon_be_scarce() {
            self.looks.set(looks - 1);
            return known;
        }
        let all = self.shares.held();
        self.others.set(all.without(own));
        self.looks.set(LOOKS_PER_SUM);
        rooms(all)
    }

    /// Octets in the spool that are charged for this core.
    pub fn own_spool_bytes(&self) -> u64 {
        self.shares.held_by(self.core).all.spool
    }

    /// Whether mail may come this way, or of this origin, if there are such rooms.
    ///
    /// # Errors
    /// It has its share.
    pub fn ask(&self, who: Who, way: Way, mail: Mail, rooms: &Rooms) -> Result<(), Over> {
        self.shares.ask((who, way), mail, (self.core, rooms))
    }

    /// See [`Shares::charge`].
    pub fn charge(&self, origin: Party, ways: Ways, weight: Weight) -> ShareCharge {
        (self.shares).charge(self.core, Some(origin), ways, weight)
    }
}

impl Weight {
    fn without(self, other: Weight) -> Weight {
        Weight {
            memory: self.memory.saturating_sub(other.memory),
            spool: self.spool.saturating_sub(other.spool),
        }
    }

    fn and(self, other: Weight) -> Weight {
        Weight {
            memory: self.memory.saturating_add(other.memory),
            spool: self.spool.saturating_add(other.spool),
        }
    }
}

impl Totals {
    fn without(self, other: Totals) -> Totals {
        Totals {
            all: self.all.without(other.all),
            incoming: self.incoming.without(other.incoming),
        }
    }

    fn and(self, other: Totals) -> Totals {
        Totals {
            all: self.all.and(other.all),
            incoming: self.incoming.and(other.incoming),
        }
    }
}

/// What one message holds of the shares, from the beginning of its body on. Given back by way, and the rest when it is
/// dropped. Any core may do either.
pub struct ShareCharge {
    shares: Arc<Shares>,
    core: u32,
    /// `None`: not known any more.
    origin: Option<Party>,
    ways: Ways,
    weight: Weight,
    is_incoming: bool,
}

impl ShareCharge {
    pub fn weight(&self) -> Weight {
        self.weight
    }

    fn of_core(&self) -> &OfCore {
        &self.shares.cores[self.core as usize]
    }

    /// From now on it weighs so much.
    pub fn set(&mut self, weight: Weight) {
        let before = std::mem::replace(&mut self.weight, weight);
        let is_bare = self.is_incoming && planted(Bug::IncomingNotCharged);
        if before == weight || is_bare {
            return;
        }
        let core = self.of_core();
        let open = self.ways.all().iter().filter(|it| it.is_open());
        let destinations = open.flat_map(|it| core.destinations.cells(it.way));
        let origin = self.origin.map(|party| core.origins.cells(party));
        let incoming = self.is_incoming.then_some(&core.incoming);
        let counts = destinations.chain(origin.into_iter().flatten());
        for count in counts.chain(incoming).chain([&core.all]) {
            count.replace(before, weight);
        }
    }

    /// The message is in memory and in the spool, whose own counts have it from now on.
    pub fn accepted(&mut self) {
        let was_incoming = std::mem::replace(&mut self.is_incoming, false);
        if was_incoming && planted(Bug::IncomingNotCharged) {
            let weight = std::mem::take(&mut self.weight);
            self.set(weight);
        } else if was_incoming {
            self.of_core().incoming.subtract(self.weight);
        }
    }

    /// Whether the origin and the destinations at which it counts may have it, as far as `counts` says that they have
    /// shares.
    ///
    /// # Errors
    /// One of them has its share without it: of a destination, the party that was charged (see [`Way::counts_at`]).
    pub fn ask(&self, rooms: &Rooms, counts: impl Fn(Who) -> bool) -> Result<(), Over> {
        let origin = self.origin.map(|party| (Who::Origin, party));
        let ways = self.ways.all().iter().map(|it| (Who::Destination, it.way));
        let core = self.core as usize;
        for (who, party) in origin.into_iter().chain(ways).filter(|it| counts(it.0)) {
            let asked = (who, party.into());
            (self.shares).ask(asked, Mail::IsCharged(self.weight), (core, rooms))?;
        }
        Ok(())
    }

    /// A recipient needs no delivery any more. Each is told of once.
    pub fn done(&self, index: usize) {
        if planted(Bug::SharesKept) {
            return;
        }
        let open = self.ways.of_recipient(index);
        if open.done() {
            self.give_back(open.way);
            if planted(Bug::SharesGivenBackTwice) {
                self.give_back(open.way);
            }
        }
    }

    fn give_back(&self, way: Party) {
        let cells = self.of_core().destinations.cells(way);
        cells.iter().for_each(|cell| cell.subtract(self.weight));
    }
}

impl Drop for ShareCharge {
    fn drop(&mut self) {
        if planted(Bug::SharesKept) {
            return;
        }
        self.set(Weight::default());
    }
}

#[cfg(test)]
mod tests;
