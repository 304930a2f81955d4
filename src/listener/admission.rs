//! Who is let in: limits on connections, in all and per address, and the balance between cores.
//!
//! The counts are atomics that all ingress cores share; each is touched once when a connection
//! comes and once when it goes.

use crate::io::random::{self, Keyed};
use crate::policy::rates::{Rates, prefix_of};
use crate::smtp::refusal::Refusal;
use crate::smtp::refusals;
use crate::time::Now;
use std::borrow::Cow;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses are counted in this many cells by a keyed hash. Two that share a cell share its
/// count: with a few thousand clients that is rare, and only makes the limit stricter for them.
const CELLS: usize = 1 << 16;

/// The same for networks, whose limits are so much higher that sharing seldom matters.
const NETWORK_CELLS: usize = 1 << 14;

/// How many times the limit of an address (an IPv6 /64) its networks may have. Whoever is given a /56 or a
/// /48 has all its /64s, and often all of a /24 belongs to one host too.
const PER_V6_56: u32 = 4;
const PER_V6_48: u32 = 16;
const PER_V4_24: u32 = 16;

/// A core passes connections on when it has this many more than the one with the fewest, and
/// also an eighth more.
const IMBALANCE_MIN: u32 = 16;

/// Connections of addresses and of the networks that they are in, of all cores.
pub struct AddressCounts {
    /// IPv4 addresses and IPv6 /64s.
    addresses: Box<[AtomicU32]>,
    /// IPv6 /56s.
    sites: Box<[AtomicU32]>,
    /// IPv4 /24s and IPv6 /48s.
    networks: Box<[AtomicU32]>,
    hasher: Keyed,
}

impl Default for AddressCounts {
    fn default() -> Self {
        let cells = |count| (0..count).map(|_| AtomicU32::new(0)).collect();
        AddressCounts {
            addresses: cells(CELLS),
            sites: cells(NETWORK_CELLS),
            networks: cells(NETWORK_CELLS),
            hasher: random::keyed(),
        }
    }
}

/// The three cells of an address, and how many times the limit of one address each may hold.
type Shares<'a> = [Option<(&'a AtomicU32, u32)>; 3];

impl AddressCounts {
    fn shares(&self, address: IpAddr) -> Shares<'_> {
        let prefix = prefix_of(address);
        let cell = |cells: &'_ [AtomicU32], prefix: u64| {
            self.hasher.hash_one(prefix) as usize % cells.len()
        };
        let address_cell = &self.addresses[cell(&self.addresses, prefix)];
        let (site, network) = match address.to_canonical() {
            IpAddr::V4(_) => (None, (prefix >> 8, PER_V4_24)),
            IpAddr::V6(_) => (Some(prefix >> 8), (prefix >> 16, PER_V6_48)),
        };
        let site = site.map(|site| (&self.sites[cell(&self.sites, site)], PER_V6_56));
        let (network, share) = network;
        let network = (&self.networks[cell(&self.networks, network)], share);
        [Some((address_cell, 1)), site, Some(network)]
    }
}

/// Open connections of one core, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub struct Load {
    all: AtomicU32,
    /// Those of clients that are not trusted.
    strangers: AtomicU32,
}

impl Load {
    fn get(&self) -> u32 {
        self.all.load(Ordering::SeqCst)
    }

    fn strangers(&self) -> u32 {
        self.strangers.load(Ordering::SeqCst)
    }
}

/// The door of one core.
pub struct Admission {
    /// This core's place in `ingress_cores`.
    pub own: usize,
    pub ingress_cores: Vec<usize>,
    /// One for each of `ingress_cores`.
    pub loads: Arc<[Load]>,
    pub addresses: Arc<AddressCounts>,
    pub rates: Arc<Rates>,
    pub connections_max: u32,
    /// How many of those only trusted clients may have.
    pub reserved: u32,
    /// Trusted clients are exempt. `None`: no limit.
    pub per_address_max: Option<u32>,
}

/// A connection that was let in; its counts fall when it is dropped.
pub struct Admitted {
    _strangers: Option<Counted>,
    _all: Counted,
    _address: Option<AddressCounted>,
}

/// One that counts among the connections of a core, all or strangers, until it is dropped.
struct Counted {
    loads: Arc<[Load]>,
    own: usize,
    of: fn(&Load) -> &AtomicU32,
}

impl Counted {
    /// Counts first and looks then, in one order that all cores see: of those who come at once nobody
    /// gets in over the limit, at worst one too few does. `None`: the limit is reached.
    fn new(door: &Admission, of: fn(&Load) -> &AtomicU32, most: u32) -> Option<Counted> {
        of(&door.loads[door.own]).fetch_add(1, Ordering::SeqCst);
        let counted = Counted {
            loads: door.loads.clone(),
            own: door.own,
            of,
        };
        let open: u32 = door
            .loads
            .iter()
            .map(|load| of(load).load(Ordering::SeqCst))
            .sum();
        (open <= most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.of)(&self.loads[self.own]).fetch_sub(1, Ordering::SeqCst);
    }
}

/// An address that counts, and its networks, until it is dropped.
struct AddressCounted {
    counts: Arc<AddressCounts>,
    address: IpAddr,
}

impl AddressCounted {
    /// `None`: the address, or a network that it is in, has as many as it may.
    fn new(counts: &Arc<AddressCounts>, address: IpAddr, most: u32) -> Option<AddressCounted> {
        let shares = counts.shares(address);
        let add_one = |(cell, share): (&AtomicU32, u32)| {
            cell.fetch_add(1, Ordering::Relaxed) < most.saturating_mul(share)
        };
        // All are counted before any refusal: dropping takes all of them back.
        let all = shares.into_iter().flatten().map(add_one);
        let has_room = all.fold(true, |has_room, more| has_room & more);
        let counted = AddressCounted {
            counts: counts.clone(),
            address,
        };
        has_room.then_some(counted)
    }
}

impl Drop for AddressCounted {
    fn drop(&mut self) {
        for (cell, _) in self.counts.shares(self.address).into_iter().flatten() {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Why a connection was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    TooMany,
    /// What is left is for trusted clients.
    TooManyStrangers,
    TooManyOfAddress,
    /// More new connections in a time than an address, or all together, may make.
    TooFast,
    TooManyErrors,
    Memory,
    Draining,
}

impl Refused {
    fn refusal(self) -> Refusal {
        match self {
            Refused::TooMany => refusals::TOO_MANY_CONNECTIONS,
            Refused::TooManyStrangers => refusals::LAST_CONNECTIONS_RESERVED,
            Refused::TooManyOfAddress => refusals::TOO_MANY_CONNECTIONS_OF_ADDRESS,
            Refused::TooFast => refusals::CONNECTION_RATE,
            Refused::TooManyErrors => refusals::CONNECTIONS_OF_WHO_ERRS,
            Refused::Memory => refusals::CONNECTIONS_WITHOUT_MEMORY,
            Refused::Draining => refusals::CONNECTIONS_AT_THE_END,
        }
    }

    pub fn reason(self) -> Cow<'static, str> {
        self.refusal().text
    }

    /// The whole line.
    pub fn reply(self, hostname: &str) -> String {
        let Refusal { code, status, text } = self.refusal();
        format!("{code} {status} {hostname} {text}, try later\r\n")
    }
}

impl Admission {
    /// Counts a new connection in, or says why not. Strangers are counted among themselves first: those who
    /// are refused take no place away from trusted clients, not even for a moment.
    pub fn admit(&self, address: IpAddr, trusted: bool, now: Now) -> Result<Admitted, Refused> {
        if !trusted {
            self.check_rates(address, now)?;
        }
        let strangers = match trusted {
            true => None,
            false => Some(
                Counted::new(self, |load| &load.strangers, self.strangers_max())
                    .ok_or(self.too_many_strangers())?,
            ),
        };
        let all =
            Counted::new(self, |load| &load.all, self.connections_max).ok_or(Refused::TooMany)?;
        let address = match self.per_address_max.filter(|_| !trusted) {
            Some(most) => Some(
                AddressCounted::new(&self.addresses, address, most)
                    .ok_or(Refused::TooManyOfAddress)?,
            ),
            None => None,
        };
        Ok(Admitted {
            _strangers: strangers,
            _all: all,
            _address: address,
        })
    }

    fn too_many_strangers(&self) -> Refused {
        match self.reserved {
            0 => Refused::TooMany,
            _ => Refused::TooManyStrangers,
        }
    }

    fn strangers_max(&self) -> u32 {
        self.connections_max.saturating_sub(self.reserved)
    }

    /// True if strangers should hurry: they have three quarters of what they may have, or all together
    /// seven eighths.
    pub fn is_crowded(&self) -> bool {
        let sum = |of: fn(&Load) -> u32| {
            self.loads
                .iter()
                .map(|load| u64::from(of(load)))
                .sum::<u64>()
        };
        let (strangers_max, all_max) = (self.strangers_max(), self.connections_max);
        sum(Load::strangers) * 4 >= u64::from(strangers_max) * 3
            || sum(Load::get) * 8 >= u64::from(all_max) * 7
    }

    fn check_rates(&self, address: IpAddr, now: Now) -> Result<(), Refused> {
        if self.rates.has_erred_too_often(address, now) {
            return Err(Refused::TooManyErrors);
        }
        let connected = self.rates.connect(address, now);
        connected.map_err(|_| Refused::TooFast)
    }

    /// The core that should have the next connection instead of this one. The kernel spreads
    /// connections by hash, which leaves some cores with far more than others when they are few.
    pub fn lighter_core(&self) -> Option<usize> {
        let own = self.loads[self.own].get();
        if own < IMBALANCE_MIN {
            return None;
        }
        let (lightest, load) = self
            .loads
            .iter()
            .map(Load::get)
            .enumerate()
            .min_by_key(|(_, load)| *load)?;
        (own >= load + IMBALANCE_MIN.max(load / 8)).then(|| self.ingress_cores[lightest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rates::Limits;
    use crate::smtp::server::Spending;

    const NOW: Now = Now(1);

    fn admission(cores: usize, own: usize) -> Admission {
        Admission {
            own,
            ingress_cores: (0..cores).map(|core| core + 10).collect(),
            loads: (0..cores).map(|_| Load::default()).collect(),
            addresses: Arc::new(AddressCounts::default()),
            rates: Arc::new(Rates::new(&Limits {
                connections: Some(20),
                errors: Some(1),
                ..Limits::NONE
            })),
            connections_max: 100,
            reserved: 12,
            per_address_max: Some(2),
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn an_address_gets_its_share_and_has_it_back_when_it_leaves() {
        let door = admission(1, 0);
        let first = door.admit(address(1), false, NOW).ok().unwrap();
        let _second = door.admit(address(1), false, NOW).ok().unwrap();
        let third = door.admit(address(1), false, NOW).err();
        assert_eq!(third, Some(Refused::TooManyOfAddress));
        drop(first);
        assert!(door.admit(address(1), false, NOW).is_ok());
    }

    #[test]
    fn trusted_clients_are_exempt_from_the_limit_per_address() {
        let door = admission(1, 0);
        let all: Vec<_> = (0..10).map(|_| door.admit(address(1), true, NOW)).collect();
        assert!(all.iter().all(Result::is_ok));
    }

    #[test]
    fn the_total_counts_all_cores() {
        let mut door = admission(2, 1);
        (door.connections_max, door.reserved) = (3, 0);
        door.loads[0].all.store(2, Ordering::Relaxed);
        let _in = door.admit(address(1), false, NOW).ok().unwrap();
        assert_eq!(
            door.admit(address(2), false, NOW).err(),
            Some(Refused::TooMany)
        );
    }

    #[test]
    fn two_strangers_with_ten_connections_each_leave_places_for_trusted_clients() {
        let mut door = admission(1, 0);
        (door.connections_max, door.reserved) = (20, 2);
        door.per_address_max = Some(10);
        let mut open: Vec<_> = (1..=2)
            .flat_map(|last| (0..10).map(move |_| last))
            .filter_map(|last| door.admit(address(last), false, NOW).ok())
            .collect();
        assert_eq!(open.len(), 18);
        let stranger = door.admit(address(3), false, NOW).err();
        assert_eq!(stranger, Some(Refused::TooManyStrangers));
        for _ in 0..2 {
            open.push(door.admit(address(9), true, NOW).ok().unwrap());
        }
        let trusted = door.admit(address(9), true, NOW).err();
        assert_eq!(trusted, Some(Refused::TooMany));
    }

    #[test]
    fn nothing_is_said_of_a_reserve_where_there_is_none() {
        let mut door = admission(1, 0);
        (door.connections_max, door.reserved, door.per_address_max) = (3, 0, None);
        let strangers: Vec<_> = (0..3).map(|n| door.admit(address(n), false, NOW)).collect();
        assert!(strangers.iter().all(Result::is_ok));
        let fourth = door.admit(address(3), false, NOW).err();
        assert_eq!(fourth, Some(Refused::TooMany));
    }

    #[test]
    fn trusted_clients_over_the_reserve_leave_strangers_what_is_left() {
        let mut door = admission(1, 0);
        (door.connections_max, door.reserved, door.per_address_max) = (20, 2, None);
        let _trusted: Vec<_> = (0..15).map(|_| door.admit(address(9), true, NOW)).collect();
        let strangers: Vec<_> = (0..20)
            .map_while(|_| door.admit(address(1), false, NOW).ok())
            .collect();
        assert_eq!(strangers.len(), 5);
    }

    #[test]
    fn the_reserve_holds_while_all_cores_admit_at_once() {
        const CORES: usize = 4;
        let doors: Vec<Admission> = {
            let first = admission(CORES, 0);
            let of_core = |own| Admission {
                own,
                ingress_cores: first.ingress_cores.clone(),
                loads: first.loads.clone(),
                addresses: first.addresses.clone(),
                rates: Arc::new(Rates::new(&Limits::NONE)),
                connections_max: 64,
                reserved: 8,
                per_address_max: None,
            };
            (0..CORES).map(of_core).collect()
        };
        let most = AtomicU32::new(0);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for door in &doors {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut open = Vec::new();
                        open.extend(
                            (0..40).filter_map(|n| door.admit(address(n), false, NOW).ok()),
                        );
                        most.fetch_add(open.len() as u32, Ordering::SeqCst);
                        let in_all = most.load(Ordering::SeqCst);
                        is_over.fetch_or(in_all > 56, Ordering::SeqCst);
                        most.fetch_sub(open.len() as u32, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!is_over.into_inner());
        assert!(
            doors[0]
                .loads
                .iter()
                .all(|load| load.get() + load.strangers() == 0)
        );
    }

    #[test]
    fn a_56_and_a_48_have_a_share_however_many_64s_they_use() {
        let open_from = |prefix_bits: u32, limit: u32| {
            let mut door = admission(1, 0);
            (door.connections_max, door.reserved) = (100_000, 0);
            door.per_address_max = Some(limit);
            door.rates = Arc::new(Rates::new(&Limits::NONE));
            let base: u128 = 0x2001_0db8_0001 << 80;
            let networks = 1u128 << (64 - prefix_bits);
            let from = (0..networks.min(4096)).flat_map(|net| (0..limit).map(move |_| net));
            let open: Vec<_> = from
                .filter_map(|net| {
                    let address = std::net::Ipv6Addr::from(base | net << 64 | 1);
                    door.admit(address.into(), false, NOW).ok()
                })
                .collect();
            open.len() as u32
        };
        assert_eq!(open_from(64, 10), 10);
        assert_eq!(open_from(56, 10), 40);
        assert_eq!(open_from(48, 10), 160);
    }

    #[test]
    fn a_refused_address_leaves_no_count_behind() {
        let door = admission(1, 0);
        let of_network = |last| door.admit(address(last), false, NOW);
        let _two = (of_network(1).ok().unwrap(), of_network(1).ok().unwrap());
        for _ in 0..10 {
            assert!(of_network(1).is_err());
        }
        assert_eq!((door.loads[0].get(), door.loads[0].strangers()), (2, 2));
        assert!(of_network(2).is_ok());
    }

    #[test]
    fn strangers_hurry_when_their_places_run_short() {
        let door = admission(2, 0);
        assert!(!door.is_crowded());
        door.loads[1].strangers.store(66, Ordering::Relaxed);
        assert!(door.is_crowded());
        door.loads[1].strangers.store(10, Ordering::Relaxed);
        door.loads[0].all.store(88, Ordering::Relaxed);
        assert!(door.is_crowded());
    }

    #[test]
    fn a_core_far_over_its_share_passes_connections_to_the_lightest() {
        let door = admission(3, 0);
        door.loads[0].all.store(40, Ordering::Relaxed);
        door.loads[1].all.store(30, Ordering::Relaxed);
        door.loads[2].all.store(20, Ordering::Relaxed);
        assert_eq!(door.lighter_core(), Some(12));
        door.loads[2].all.store(30, Ordering::Relaxed);
        assert_eq!(door.lighter_core(), None);
    }

    #[test]
    fn an_address_that_comes_too_fast_or_erred_is_told_so_and_a_trusted_one_is_not() {
        let door = admission(1, 0);
        let admit = |last, trusted| door.admit(address(last), trusted, NOW).err();
        let refused = (0..21).find_map(|_| admit(1, false));
        assert_eq!(refused, Some(Refused::TooFast));
        assert_eq!((0..100).find_map(|_| admit(1, true)), None);
        let erred = door.rates.spend(Spending::Error, address(2), NOW);
        assert_eq!(erred, Ok(()));
        assert_eq!(admit(2, false), Some(Refused::TooManyErrors));
    }
}
