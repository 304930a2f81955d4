//! How much an address may ask for in a time: connections, handshakes, messages, recipients, errors.
//!
//! Addresses (IPv4, or IPv6 /64) are counted in two rows of cells by a keyed hash, and one is over
//! its limit only when its cells in both rows are: a sketch. Its memory never grows, and nothing is
//! ever evicted, so no flood of addresses can wash an attacker's count away. The price is that a
//! stranger may share cells in both rows with somebody over the limit: while a thousand addresses
//! are over it, that befalls one honest address in a thousand.
//!
//! A cell is a bucket that empties at a steady rate (the generic cell rate algorithm): the time at
//! which it will be empty. All ingress cores share the cells without a lock. Two cores that count
//! for one address at the same instant may count one of the two.

use crate::io::random::{self, Keyed};
use crate::smtp::server::Spending;
use crate::time::Now;
use crate::time::flow::{Flow, in_ns};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often, for clients that are not trusted. `None`: no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Per IPv4 address or IPv6 /64, and minute.
    pub connections: Option<u32>,
    pub handshakes: Option<u32>,
    pub messages: Option<u32>,
    pub recipients: Option<u32>,
    pub errors: Option<u32>,
    /// Of all together, per second.
    pub connections_total: Option<u32>,
    pub handshakes_total: Option<u32>,
}

/// Defaults of [`Limits`]; what is not here has none.
pub const CONNECTIONS: u32 = 6000;
pub const HANDSHAKES: u32 = 3000;
pub const HANDSHAKES_TOTAL: u32 = 2000;
pub const MESSAGES: u32 = 6000;
pub const RECIPIENTS: u32 = 30_000;
pub const ERRORS: u32 = 600;

impl Limits {
    pub const NONE: Limits = Limits {
        connections: None,
        handshakes: None,
        messages: None,
        recipients: None,
        errors: None,
        connections_total: None,
        handshakes_total: None,
    };
}

/// Cells of a row. Two rows are 512 KB for each limit that is set.
const CELLS: usize = 1 << 15;

/// Limits per address are stated per minute, those for all addresses together per second. That
/// much may also come at once.
const PER_ADDRESS: Duration = Duration::from_secs(60);
const IN_TOTAL: Duration = Duration::from_secs(1);

/// What counts as one client: an IPv4 address or an IPv6 /64.
pub fn prefix_of(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

/// One limit for all addresses together.
struct Total {
    flow: Flow,
    empty_ns: AtomicU64,
}

impl Total {
    fn new(limit: u32) -> Self {
        Total {
            flow: Flow::new(limit, IN_TOTAL),
            empty_ns: AtomicU64::new(0),
        }
    }

    fn spend(&self, now_ns: u64) -> bool {
        let add = |empty_ns| self.flow.add(empty_ns, now_ns);
        self.empty_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }
}

/// One limit per address.
struct PerAddress {
    flow: Flow,
    rows: [Box<[AtomicU64]>; 2],
}

impl PerAddress {
    fn new(limit: u32) -> Self {
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        PerAddress {
            flow: Flow::new(limit, PER_ADDRESS),
            rows: [row(), row()],
        }
    }

    fn cells(&self, hash: u64) -> [&AtomicU64; 2] {
        let (first, second) = (hash as usize % CELLS, (hash >> 32) as usize % CELLS);
        [&self.rows[0][first], &self.rows[1][second]]
    }

    /// Counts one event, unless it is over the limit.
    fn spend(&self, hash: u64, now_ns: u64) -> bool {
        let Some(after) = self.after_one_more(hash, now_ns) else {
            return false;
        };
        for cell in self.cells(hash) {
            cell.fetch_max(after, Ordering::Relaxed);
        }
        true
    }

    fn is_spent(&self, hash: u64, now_ns: u64) -> bool {
        self.after_one_more(hash, now_ns).is_none()
    }

    /// What the cells of an address would say after one event more; `None`: it is over the limit.
    fn after_one_more(&self, hash: u64, now_ns: u64) -> Option<u64> {
        let [one, other] = self.cells(hash).map(|cell| cell.load(Ordering::Relaxed));
        self.flow.add(one.min(other), now_ns)
    }
}

/// Which limit an address, or everybody, is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    Address,
    Total,
}

/// All limits, shared by all ingress cores. Trusted clients are not to be counted.
pub struct Rates {
    hasher: Keyed,
    connections: Option<PerAddress>,
    handshakes: Option<PerAddress>,
    messages: Option<PerAddress>,
    recipients: Option<PerAddress>,
    errors: Option<PerAddress>,
    connections_total: Option<Total>,
    handshakes_total: Option<Total>,
}

impl Rates {
    pub fn new(settings: &Limits) -> Self {
        Rates {
            hasher: random::keyed(),
            connections: settings.connections.map(PerAddress::new),
            handshakes: settings.handshakes.map(PerAddress::new),
            messages: settings.messages.map(PerAddress::new),
            recipients: settings.recipients.map(PerAddress::new),
            errors: settings.errors.map(PerAddress::new),
            connections_total: settings.connections_total.map(Total::new),
            handshakes_total: settings.handshakes_total.map(Total::new),
        }
    }

    /// A new connection.
    pub fn connect(&self, address: IpAddr, now: Now) -> Result<(), Over> {
        let (of_address, total) = (&self.connections, &self.connections_total);
        self.spend_both(of_address.as_ref(), total.as_ref(), address, now)
    }

    /// Something that a session asks for.
    pub fn spend(&self, what: Spending, address: IpAddr, now: Now) -> Result<(), Over> {
        let (of_address, total) = match what {
            Spending::Handshake => (&self.handshakes, self.handshakes_total.as_ref()),
            Spending::Message => (&self.messages, None),
            Spending::Recipient => (&self.recipients, None),
            Spending::Error => (&self.errors, None),
        };
        self.spend_both(of_address.as_ref(), total, address, now)
    }

    /// The address has erred as often as it may.
    pub fn has_erred_too_often(&self, address: IpAddr, now: Now) -> bool {
        let spent = |errors: &PerAddress| errors.is_spent(self.hash(address), in_ns(now));
        self.errors.as_ref().is_some_and(spent)
    }

    fn spend_both(
        &self,
        of_address: Option<&PerAddress>,
        total: Option<&Total>,
        address: IpAddr,
        now: Now,
    ) -> Result<(), Over> {
        let now_ns = in_ns(now);
        // What an address may not have anyway is not counted against all others.
        if of_address.is_some_and(|limit| !limit.spend(self.hash(address), now_ns)) {
            return Err(Over::Address);
        }
        if total.is_some_and(|limit| !limit.spend(now_ns)) {
            return Err(Over::Total);
        }
        Ok(())
    }

    fn hash(&self, address: IpAddr) -> u64 {
        self.hasher.hash_one(prefix_of(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const START: Now = Now(1_000_000);

    fn rates(connections: u32) -> Rates {
        Rates::new(&Limits {
            connections: Some(connections),
            ..Limits::NONE
        })
    }

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_at_its_rate() {
        let rates = rates(60);
        let taken = |now| {
            (0..1000)
                .filter(|_| rates.connect(v4(1), now).is_ok())
                .count()
        };
        assert_eq!(taken(START), 60);
        assert_eq!(rates.connect(v4(1), START), Err(Over::Address));
        assert_eq!(taken(START + Duration::from_secs(10)), 10);
        assert_eq!(taken(START + Duration::from_secs(3600)), 60);
    }

    #[test]
    fn a_slash_64_is_one_client_and_its_neighbour_another() {
        let rates = rates(1);
        let v6 = |host: u128, net: u128| -> IpAddr {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | net << 64 | host).into()
        };
        assert!(rates.connect(v6(1, 1), START).is_ok());
        assert!(rates.connect(v6(2, 1), START).is_err());
        assert!(rates.connect(v6(1, 2), START).is_ok());
    }

    #[test]
    fn an_ipv4_address_within_ipv6_is_that_address() {
        let rates = rates(1);
        assert!(rates.connect(v4(7), START).is_ok());
        let mapped = Ipv4Addr::from_bits(7).to_ipv6_mapped().into();
        assert!(rates.connect(mapped, START).is_err());
    }

    /// However many addresses come by, the one that used up its share has not got it back.
    #[test]
    fn a_flood_of_addresses_does_not_wash_a_count_away() {
        let rates = rates(10);
        while rates.connect(v4(1), START).is_ok() {}
        for number in 2..200_000 {
            let _ = rates.connect(v4(number), START);
        }
        assert!(rates.connect(v4(1), START).is_err());
    }

    #[test]
    fn a_thousand_attackers_hardly_touch_the_honest() {
        let rates = rates(10);
        for number in 0..1000 {
            while rates.connect(v4(number), START).is_ok() {}
        }
        let honest = 1_000_000..1_010_000;
        let refused = honest
            .filter(|number| rates.connect(v4(*number), START).is_err())
            .count();
        // One in a thousand is expected; a hundred would be the work of one row alone.
        assert!(refused < 60, "{refused} of 10,000");
    }

    #[test]
    fn all_together_have_a_limit_of_their_own() {
        let rates = Rates::new(&Limits {
            handshakes: Some(2),
            handshakes_total: Some(3),
            ..Limits::NONE
        });
        let shake = |number| rates.spend(Spending::Handshake, v4(number), START);
        assert_eq!((shake(1), shake(1)), (Ok(()), Ok(())));
        assert_eq!(shake(1), Err(Over::Address));
        assert_eq!((shake(2), shake(3)), (Ok(()), Err(Over::Total)));
    }

    #[test]
    fn what_has_no_limit_is_not_counted() {
        let rates = Rates::new(&Limits::NONE);
        for _ in 0..100_000 {
            assert!(rates.spend(Spending::Message, v4(1), START).is_ok());
        }
        assert!(!rates.has_erred_too_often(v4(1), START));
    }

    #[test]
    fn whoever_erred_is_known_at_the_door() {
        let rates = Rates::new(&Limits {
            errors: Some(5),
            ..Limits::NONE
        });
        while rates.spend(Spending::Error, v4(1), START).is_ok() {}
        assert!(rates.has_erred_too_often(v4(1), START));
        assert!(!rates.has_erred_too_often(v4(2), START));
        assert!(!rates.has_erred_too_often(v4(1), START + Duration::from_secs(60)));
    }
}
