//! Whose handshakes failed, so that a client without TLS in common with us gets its mail in.
//!
//! Such a client cannot go on by itself: it saw STARTTLS, uses it, fails, and comes again after
//! minutes or hours to do the same. So after [`FAILURES`] failed handshakes one session is not
//! offered STARTTLS, one for each further failure, and then it is offered again.
//!
//! Promise: nobody else loses TLS by that, and no scanner sees less.
//!
//! * A client is an address (IPv4, or IPv6 /64) *and* the name that it gives in EHLO: behind a
//!   translator or balancer each host has a memory of its own.
//! * It offers the same each time: failures of hellos that differ are a scanner's, and do not add up.
//! * Whoever has succeeded within a day is offered STARTTLS always.
//! * Where anybody at the address has succeeded within an hour, failures within a minute count
//!   once, and handshakes that were merely broken off do not count.
//! * A session that was not offered STARTTLS and then sent no mail was none that waited for that:
//!   its failures are forgotten.
//!
//! Shared by all ingress cores without a lock, bounded, and nothing is allocated after the start.
//! An address can only crowd out its own failures and those of the few that share its bucket; a
//! success may be crowded out by as many others as there are cells. What is lost by that, or when
//! two cores write at the same instant, is one attempt of a client.

use super::rates::prefix_of;
use crate::time::Now;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Failed handshakes before STARTTLS is withdrawn once: the mail comes in at the second attempt
/// after the first. One failure alone is often nothing but a bad line.
pub const FAILURES: u64 = 2;

/// More are not counted: so many sessions at a time may go without, of a client that opens several.
const FAILURES_COUNTED_MAX: u64 = 15;

/// Longer than any client waits between two attempts, and than most try in all.
const FAILURES_REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// After a success of the same client.
const NEVER_WITHDRAWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// After a success of anybody at the address...
const MAY_BE_SCANNED_FOR: Duration = Duration::from_secs(3600);
/// ... failures within this count once.
const BURST: Duration = Duration::from_secs(60);

/// 256 KB of failures, and 512 KB of successes.
const BUCKETS: usize = 1 << 12;
const CELLS_OF_A_BUCKET: usize = 8;
const SUCCESSES: usize = 1 << 16;

/// How handshakes ended, by client. See above.
pub struct TlsMemory {
    hasher: RandomState,
    /// Buckets of cells; see [`Failures`].
    failures: Box<[AtomicU64]>,
    /// Tag of the client, and when. 0: nobody.
    successes: Box<[AtomicU64]>,
}

/// How a handshake failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Of what the client offered.
    pub fingerprint: u32,
    /// There was an error, here or told by the client; else it only broke off.
    pub said_why: bool,
}

/// What a cell says of a client: tag, what its hello offered, count, and when the last one was counted.
#[derive(Clone, Copy)]
struct Failures {
    tag: u64,
    fingerprint: u64,
    count: u64,
    /// In units of [`TIME_UNIT_S`].
    at: u64,
}

const TAG_BITS: u32 = 16;
const FINGERPRINT_BITS: u32 = 20;
const COUNT_BITS: u32 = 4;
const TIME_BITS: u32 = 24;
const _: () = assert!(TAG_BITS + FINGERPRINT_BITS + COUNT_BITS + TIME_BITS == 64);

/// So that four years fit.
const TIME_UNIT_S: u64 = 8;

const fn low_bits(value: u64, bits: u32) -> u64 {
    value & ((1 << bits) - 1)
}

impl Failures {
    fn read(cell: u64) -> Self {
        Failures {
            tag: cell >> (64 - TAG_BITS),
            fingerprint: low_bits(cell >> (COUNT_BITS + TIME_BITS), FINGERPRINT_BITS),
            count: low_bits(cell >> TIME_BITS, COUNT_BITS),
            at: low_bits(cell, TIME_BITS),
        }
    }

    fn write(self) -> u64 {
        let tagged = self.tag << FINGERPRINT_BITS | self.fingerprint;
        (tagged << COUNT_BITS | self.count) << TIME_BITS | self.at
    }

    /// A cell that was never used is older than any.
    fn age(self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.at) * TIME_UNIT_S)
    }
}

/// Never 0.
fn in_units(now: Now) -> u64 {
    (in_s(now) / TIME_UNIT_S + 1).min(low_bits(u64::MAX, TIME_BITS))
}

/// Seconds of the monotonic clock; never 0.
fn in_s(now: Now) -> u64 {
    (now.0 / 1_000_000 + 1).min(u64::from(u32::MAX))
}

impl Default for TlsMemory {
    fn default() -> Self {
        let cells = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        TlsMemory {
            hasher: RandomState::new(),
            failures: cells(BUCKETS * CELLS_OF_A_BUCKET),
            successes: cells(SUCCESSES),
        }
    }
}

impl TlsMemory {
    /// The handshake of a client failed that gave this name in EHLO.
    pub fn failed(&self, address: IpAddr, hello: &str, failure: Failure, now: Now) {
        let (at, tag) = (in_units(now), self.tag(address, hello));
        let fingerprint = low_bits(u64::from(failure.fingerprint), FINGERPRINT_BITS);
        let may_be_scanned = self.has_succeeded(address, "", MAY_BE_SCANNED_FOR, now);
        if may_be_scanned && !failure.said_why {
            return;
        }
        let one_more = |cell| {
            let known = Failures::read(cell);
            let age = known.age(at);
            let is_same = known.tag == tag
                && known.fingerprint == fingerprint
                && known.count > 0
                && age < FAILURES_REMEMBERED;
            let count = match is_same {
                true if may_be_scanned && age < BURST => return None,
                true => (known.count + 1).min(FAILURES_COUNTED_MAX),
                false => 1,
            };
            let after = Failures {
                tag,
                fingerprint,
                count,
                at,
            };
            Some(after.write())
        };
        let bucket = self.bucket(address);
        let cell = find(bucket, tag).unwrap_or_else(|| oldest(bucket));
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    }

    /// A handshake succeeded, with TLS from the first octet if no name was given before.
    pub fn succeeded(&self, address: IpAddr, hello: &str, now: Now) {
        for hello in ["", hello] {
            let (cell, tag) = self.success(address, hello);
            cell.store(tag << 32 | in_s(now), Ordering::Relaxed);
        }
    }

    /// Whether a session that gives this name goes without STARTTLS. A yes counts: it was for this
    /// session.
    pub fn withdraws(&self, address: IpAddr, hello: &str, now: Now) -> bool {
        let (at, tag) = (in_units(now), self.tag(address, hello));
        let Some(cell) = find(self.bucket(address), tag) else {
            return false;
        };
        if self.has_succeeded(address, hello, NEVER_WITHDRAWN_FOR, now) {
            return false;
        }
        let one_less = |cell| {
            let known = Failures::read(cell);
            let counts =
                known.tag == tag && known.count >= FAILURES && known.age(at) < FAILURES_REMEMBERED;
            let count = known.count.saturating_sub(1);
            counts.then(|| Failures { count, ..known }.write())
        };
        cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    /// A session went without STARTTLS and sent no mail: it was not what the client waited for.
    pub fn withdrawn_in_vain(&self, address: IpAddr, hello: &str) {
        let tag = self.tag(address, hello);
        if let Some(cell) = find(self.bucket(address), tag) {
            let forgotten = |cell| {
                let known = Failures::read(cell);
                (known.tag == tag).then(|| Failures { count: 0, ..known }.write())
            };
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, forgotten);
        }
    }

    fn has_succeeded(&self, address: IpAddr, hello: &str, within: Duration, now: Now) -> bool {
        let (cell, tag) = self.success(address, hello);
        let found = cell.load(Ordering::Relaxed);
        let age_s = in_s(now).saturating_sub(found & u64::from(u32::MAX));
        found != 0 && found >> 32 == tag && age_s < within.as_secs()
    }

    fn success(&self, address: IpAddr, hello: &str) -> (&AtomicU64, u64) {
        let hash = self.hash(address, hello);
        (&self.successes[hash as usize % SUCCESSES], hash >> 32)
    }

    fn bucket(&self, address: IpAddr) -> &[AtomicU64] {
        let number = self.hasher.hash_one(prefix_of(address)) as usize % BUCKETS;
        &self.failures[number * CELLS_OF_A_BUCKET..][..CELLS_OF_A_BUCKET]
    }

    fn tag(&self, address: IpAddr, hello: &str) -> u64 {
        self.hash(address, hello) >> (64 - TAG_BITS)
    }

    fn hash(&self, address: IpAddr, hello: &str) -> u64 {
        let name = hello.to_ascii_lowercase();
        self.hasher.hash_one((prefix_of(address), name))
    }
}

fn find(bucket: &[AtomicU64], tag: u64) -> Option<&AtomicU64> {
    let is_it = |cell: &&AtomicU64| {
        let found = cell.load(Ordering::Relaxed);
        found != 0 && Failures::read(found).tag == tag
    };
    bucket.iter().find(is_it)
}

fn oldest(bucket: &[AtomicU64]) -> &AtomicU64 {
    let at = |cell: &&AtomicU64| Failures::read(cell.load(Ordering::Relaxed)).at;
    bucket.iter().min_by_key(at).expect("a bucket has cells")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const START: Now = Now(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    /// What a client without TLS in common offers, each time.
    const OLD: Failure = Failure {
        fingerprint: 7,
        said_why: true,
    };

    fn probe(fingerprint: u32) -> Failure {
        Failure {
            fingerprint,
            said_why: true,
        }
    }

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    /// How a client without TLS in common fares that comes again and again: `true` for each session
    /// that is not offered STARTTLS, and so brings its mail.
    fn attempts(memory: &TlsMemory, hello: &str, interval: Duration, count: u32) -> Vec<bool> {
        let mut now = START;
        let mut fares = Vec::new();
        for _ in 0..count {
            let without = memory.withdraws(v4(1), hello, now);
            if !without {
                memory.failed(v4(1), hello, OLD, now);
            }
            fares.push(without);
            now = now + interval;
        }
        fares
    }

    #[test]
    fn a_client_without_tls_in_common_gets_its_mail_in_whatever_its_interval() {
        for seconds in [0, 1, 60, 600, 4 * 3600, 24 * 3600] {
            let interval = Duration::from_secs(seconds);
            let fares = attempts(&TlsMemory::default(), "old.test", interval, 7);
            let expected = [false, false, true, false, true, false, true];
            assert_eq!(fares, expected, "{seconds} s");
        }
    }

    #[test]
    fn a_client_that_opens_several_at_once_gets_all_but_one_in() {
        let memory = TlsMemory::default();
        for _ in 0..5 {
            assert!(!memory.withdraws(v4(1), "old.test", START));
        }
        (0..5).for_each(|_| memory.failed(v4(1), "old.test", OLD, START));
        let later = START + HOUR;
        let without = (0..5).filter(|_| memory.withdraws(v4(1), "old.test", later));
        assert_eq!(without.count(), 4);
    }

    #[test]
    fn others_behind_the_same_address_are_offered_starttls() {
        let memory = TlsMemory::default();
        (0..10).for_each(|_| memory.failed(v4(1), "old.test", OLD, START));
        assert!(!memory.withdraws(v4(1), "new.test", START));
        assert!(!memory.withdraws(v4(2), "old.test", START));
        assert!(memory.withdraws(v4(1), "OLD.test", START), "it is one name");
    }

    #[test]
    fn nobody_can_switch_tls_off_for_a_client_that_has_it() {
        let memory = TlsMemory::default();
        memory.succeeded(v4(1), "good.test", START);
        let mut now = START;
        for _ in 0..60 {
            now = now + Duration::from_secs(23 * 60);
            memory.failed(v4(1), "good.test", OLD, now);
            assert!(!memory.withdraws(v4(1), "good.test", now));
        }
        let next_day = START + 25 * HOUR;
        assert!(
            memory.withdraws(v4(1), "good.test", next_day),
            "it may have changed since"
        );
    }

    /// It may succeed under one name, and never under another, and repeats a probe at times.
    #[test]
    fn a_scanner_is_not_blinded() {
        for succeeds in [false, true] {
            let memory = TlsMemory::default();
            let mut now = START;
            for number in 0..2000 {
                now = now + Duration::from_secs(1);
                if succeeds {
                    memory.succeeded(v4(1), "mail.example.com", now);
                    memory.failed(v4(1), "testssl.sh", probe(number / 5), now);
                } else {
                    memory.failed(v4(1), "testssl.sh", probe(number), now);
                }
                assert!(!memory.withdraws(v4(1), "testssl.sh", now), "{number}");
            }
        }
    }

    #[test]
    fn probes_that_are_broken_off_do_not_count_where_tls_is_had() {
        let broken_off = Failure {
            said_why: false,
            ..OLD
        };
        for (succeeds, withdrawn) in [(false, true), (true, false)] {
            let memory = TlsMemory::default();
            if succeeds {
                memory.succeeded(v4(1), "mail.example.com", START);
            }
            for minutes in [0, 10, 20] {
                let now = START + Duration::from_secs(minutes * 60);
                memory.failed(v4(1), "testssl.sh", broken_off, now);
            }
            assert_eq!(memory.withdraws(v4(1), "testssl.sh", START), withdrawn);
        }
    }

    /// A host in need behind an address that has TLS otherwise is not forgotten for that.
    #[test]
    fn a_client_in_need_behind_a_shared_address_gets_its_mail_in() {
        let memory = TlsMemory::default();
        memory.succeeded(v4(1), "good.test", START);
        let fares = attempts(&memory, "old.test", Duration::from_secs(600), 5);
        assert_eq!(fares, [false, false, true, false, true]);
    }

    #[test]
    fn who_does_without_but_sends_no_mail_is_offered_it_again() {
        let memory = TlsMemory::default();
        (0..10).for_each(|_| memory.failed(v4(1), "scan.test", OLD, START));
        assert!(memory.withdraws(v4(1), "scan.test", START));
        memory.withdrawn_in_vain(v4(1), "scan.test");
        assert!(!memory.withdraws(v4(1), "scan.test", START));
    }

    #[test]
    fn failures_are_forgotten_after_a_week() {
        let memory = TlsMemory::default();
        (0..10).for_each(|_| memory.failed(v4(1), "old.test", OLD, START));
        assert!(!memory.withdraws(v4(1), "old.test", START + 169 * HOUR));
    }

    /// One address that fails under ever new names crowds out itself.
    #[test]
    fn a_flood_from_one_address_washes_nobody_else_away() {
        let memory = TlsMemory::default();
        let clients = 100..200;
        for number in clients.clone() {
            (0..2).for_each(|_| memory.failed(v4(number), "old.test", OLD, START));
        }
        for name in 0..100_000 {
            memory.failed(v4(1), &name.to_string(), OLD, START + HOUR);
        }
        let lost = clients.filter(|number| !memory.withdraws(v4(*number), "old.test", START));
        assert!(lost.count() <= 3, "those that share its bucket");
    }

    #[test]
    fn cores_share_what_they_know() {
        let memory = std::sync::Arc::new(TlsMemory::default());
        let threads = (0..2).map(|_| {
            let memory = memory.clone();
            std::thread::spawn(move || memory.failed(v4(1), "old.test", OLD, START))
        });
        threads.for_each(|thread| thread.join().unwrap());
        assert!(memory.withdraws(v4(1), "old.test", START));
    }
}
