//! Who is let in: limits on connections, in all and per address, and the balance between cores.
//!
//! The counts are atomics that all ingress cores share; each is touched once when a connection
//! comes and once when it goes.

use crate::session::rates::{Rates, prefix_of};
use crate::time::Now;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses are counted in this many cells by a keyed hash. Two that share a cell share its
/// count: with a few thousand clients that is rare, and only makes the limit stricter for them.
const CELLS: usize = 1 << 16;

/// A core passes connections on when it has this many more than the one with the fewest, and
/// also an eighth more.
const IMBALANCE_MIN: u32 = 16;

/// Connections per IPv4 address or IPv6 /64, of all cores.
pub struct AddressCounts {
    cells: Box<[AtomicU32]>,
    hasher: RandomState,
}

impl Default for AddressCounts {
    fn default() -> Self {
        AddressCounts {
            cells: (0..CELLS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl AddressCounts {
    fn cell(&self, address: IpAddr) -> usize {
        self.hasher.hash_one(prefix_of(address)) as usize % CELLS
    }
}

/// Open connections of one core, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub struct Load(AtomicU32);

impl Load {
    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
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
    /// Trusted clients are exempt. `None`: no limit.
    pub per_address_max: Option<u32>,
}

/// A connection that was let in; its counts fall when it is dropped.
pub struct Admitted {
    loads: Arc<[Load]>,
    own: usize,
    address: Option<(Arc<AddressCounts>, usize)>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.loads[self.own].0.fetch_sub(1, Ordering::Relaxed);
        if let Some((counts, cell)) = &self.address {
            counts.cells[*cell].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Why a connection was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    TooMany,
    TooManyOfAddress,
    /// More new connections in a time than an address, or all together, may make.
    TooFast,
    TooManyErrors,
    Memory,
    Draining,
}

impl Refused {
    pub fn reason(self) -> &'static str {
        match self {
            Refused::TooMany => "too many connections",
            Refused::TooManyOfAddress => "too many connections from this address",
            Refused::TooFast => "too many new connections",
            Refused::TooManyErrors => "too many errors from this address",
            Refused::Memory => "out of memory",
            Refused::Draining => "shutting down",
        }
    }

    pub fn reply(self, hostname: &str) -> String {
        let status = match self {
            Refused::TooMany | Refused::Memory | Refused::Draining => "4.3.2",
            Refused::TooManyOfAddress | Refused::TooFast | Refused::TooManyErrors => "4.7.0",
        };
        format!("421 {status} {hostname} {}, try later\r\n", self.reason())
    }
}

impl Admission {
    /// Counts a new connection in, or says why not.
    pub fn admit(&self, address: IpAddr, trusted: bool, now: Now) -> Result<Admitted, Refused> {
        if !trusted {
            self.check_rates(address, now)?;
        }
        let open: u32 = self.loads.iter().map(Load::get).sum();
        if open >= self.connections_max {
            return Err(Refused::TooMany);
        }
        let limit = self.per_address_max.filter(|_| !trusted);
        let address = match limit {
            Some(most) => Some(self.count_address(address, most)?),
            None => None,
        };
        self.loads[self.own].0.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted {
            loads: self.loads.clone(),
            own: self.own,
            address,
        })
    }

    fn check_rates(&self, address: IpAddr, now: Now) -> Result<(), Refused> {
        if self.rates.has_erred_too_often(address, now) {
            return Err(Refused::TooManyErrors);
        }
        let connected = self.rates.connect(address, now);
        connected.map_err(|_| Refused::TooFast)
    }

    fn count_address(
        &self,
        address: IpAddr,
        most: u32,
    ) -> Result<(Arc<AddressCounts>, usize), Refused> {
        let cell = self.addresses.cell(address);
        let before = self.addresses.cells[cell].fetch_add(1, Ordering::Relaxed);
        if before >= most {
            self.addresses.cells[cell].fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::TooManyOfAddress);
        }
        Ok((self.addresses.clone(), cell))
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
    use crate::config::RateConfig;
    use crate::smtp::server::Spending;

    const NOW: Now = Now(1);

    fn admission(cores: usize, own: usize) -> Admission {
        Admission {
            own,
            ingress_cores: (0..cores).map(|core| core + 10).collect(),
            loads: (0..cores).map(|_| Load::default()).collect(),
            addresses: Arc::new(AddressCounts::default()),
            rates: Arc::new(Rates::new(&RateConfig {
                connections: Some(20),
                errors: Some(1),
                ..RateConfig::default()
            })),
            connections_max: 100,
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
        door.connections_max = 3;
        door.loads[0].0.store(2, Ordering::Relaxed);
        let _in = door.admit(address(1), false, NOW).ok().unwrap();
        assert_eq!(
            door.admit(address(2), false, NOW).err(),
            Some(Refused::TooMany)
        );
    }

    #[test]
    fn a_core_far_over_its_share_passes_connections_to_the_lightest() {
        let door = admission(3, 0);
        door.loads[0].0.store(40, Ordering::Relaxed);
        door.loads[1].0.store(30, Ordering::Relaxed);
        door.loads[2].0.store(20, Ordering::Relaxed);
        assert_eq!(door.lighter_core(), Some(12));
        door.loads[2].0.store(30, Ordering::Relaxed);
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
