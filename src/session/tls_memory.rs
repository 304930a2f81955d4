//! Whose handshakes failed, so that a client without TLS in common with us gets its mail in.
//!
//! Such a client cannot go on by itself: it saw STARTTLS, uses it, fails, and comes again after
//! minutes or hours to do the same. So after [`FAILURES`] attempts that failed one session is not
//! offered STARTTLS, one for each further failure, and then it is offered again.
//!
//! Promise: there is never more than one such session in store for a client, and none for one that has
//! had TLS within [`REMEMBERED`], for as long as failures live.
//!
//! * A client is an address *and* the name that it gives in EHLO: behind a translator or balancer
//!   each host has a memory of its own.
//! * What was open together fails once: a failure counts if its session began after the last that counted.
//! * It says one of a few hellos each time: what a scanner says is new each time, and does not add up. Where
//!   nobody at the address has had TLS within an hour, another hello counts too, if a minute has passed.
//! * Where somebody has, a scanner may be at work: failures within a minute count once, and handshakes that
//!   were merely broken off once an hour.
//! * A session that was not offered STARTTLS and then sent no mail was none that waited for that: the next
//!   one has its turn, up to [`IN_VAIN_MAX`] times for a failure.
//!
//! What is not promised: address and name are all that is known of a client before it may use TLS. Whoever
//! shares the address and says the name *is* the client here. He buys its next session without
//! STARTTLS for two failures, and each after that for one, until the client has TLS itself. And where one
//! program has TLS, another at the same address and name that has none never gets in.
//!
//! Shared by all ingress cores without a lock, bounded, and nothing is allocated after the start. A client has
//! a place among few that belong to its address (an IPv6 /64) or, once those are taken, among all. A place is
//! never given to another client once its failures are complete, so that many who take turns do not keep
//! each other from completing theirs. What others can take away is the count of one failure; a success, by as
//! many others as there are cells.

use crate::io::random::{self, Keyed};
use crate::policy::rates::prefix_of;
use crate::time::Now;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Attempts that failed before STARTTLS is withdrawn once: the mail comes in at the second attempt
/// after the first. One failure alone is often nothing but a bad line. More are not counted, so that nobody
/// lays in a store of them.
pub const FAILURES: u64 = 2;

/// Of failures, and of successes. Longer than any client waits between two attempts, and shorter than most
/// try in all: a client that has TLS no longer must get in before it gives up.
pub const REMEMBERED: Duration = Duration::from_secs(3 * 24 * 3600);

/// Sessions that may have gone without STARTTLS in vain since the last failure that counted. Beyond, it is
/// offered until the next failure: somebody looks for it, and never finds it.
pub const IN_VAIN_MAX: u64 = 2;

/// After a success of anybody at the address...
const MAY_BE_SCANNED_FOR: Duration = Duration::from_secs(3600);
/// ... failures within this count once...
const BURST: Duration = Duration::from_secs(60);
/// ... and handshakes that were broken off within this.
const BROKEN_OFF_APART: Duration = Duration::from_secs(3600);

/// Two tables of 256 KB of failures, and 512 KB of successes.
const BUCKETS: usize = 1 << 11;
const CELLS_OF_A_BUCKET: usize = 8;
const SUCCESSES: usize = 1 << 16;

/// How handshakes ended, by client. See above.
pub struct TlsMemory {
    hasher: Keyed,
    /// Buckets by address, an IPv6 /64 being one.
    of_addresses: Box<[Cell]>,
    /// Buckets by client.
    of_all: Box<[Cell]>,
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
    /// When the session began.
    pub began: Now,
}

/// A client and its failures. Two cores that write both at once may mix up the hellos of two clients, at
/// the price of an attempt.
#[derive(Default)]
struct Cell {
    /// See [`Failures`].
    failures: AtomicU64,
    /// See [`Hellos`].
    hellos: AtomicU64,
}

/// What a cell says of a client.
#[derive(Clone, Copy)]
struct Failures {
    tag: u64,
    count: u64,
    /// Sessions without STARTTLS that sent no mail.
    in_vain: u64,
    /// When the last one was counted, in milliseconds.
    at_ms: u64,
}

const TAG_BITS: u32 = 22;
const COUNT_BITS: u32 = 2;
const IN_VAIN_BITS: u32 = 2;
/// Eight years.
const TIME_BITS: u32 = 38;
const _: () = assert!(TAG_BITS + COUNT_BITS + IN_VAIN_BITS + TIME_BITS == 64);
const _: () = assert!(FAILURES < 1 << COUNT_BITS && IN_VAIN_MAX < 1 << IN_VAIN_BITS);

const fn low_bits(value: u64, bits: u32) -> u64 {
    value & ((1 << bits) - 1)
}

impl Failures {
    fn read(cell: u64) -> Self {
        Failures {
            tag: cell >> (64 - TAG_BITS),
            count: low_bits(cell >> (IN_VAIN_BITS + TIME_BITS), COUNT_BITS),
            in_vain: low_bits(cell >> TIME_BITS, IN_VAIN_BITS),
            at_ms: low_bits(cell, TIME_BITS),
        }
    }

    fn write(self) -> u64 {
        let counts = self.count << IN_VAIN_BITS | self.in_vain;
        (self.tag << (COUNT_BITS + IN_VAIN_BITS) | counts) << TIME_BITS | self.at_ms
    }

    fn age(self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.at_ms))
    }

    /// Nothing is lost if another client has the cell.
    fn is_free(self, now_ms: u64) -> bool {
        self.count == 0 || self.age(now_ms) >= REMEMBERED
    }
}

/// Never 0.
fn in_ms(now: Now) -> u64 {
    (now.0 / 1000 + 1).min(low_bits(u64::MAX, TIME_BITS))
}

/// Seconds of the monotonic clock; never 0.
fn in_s(now: Now) -> u64 {
    (now.0 / 1_000_000 + 1).min(u64::from(u32::MAX))
}

/// Different hellos of a client, up to four, 16 bits each; 0 is none.
#[derive(Clone, Copy)]
struct Hellos(u64);

impl Hellos {
    const BITS: u32 = 16;

    fn of(fingerprint: u32) -> Self {
        match low_bits(u64::from(fingerprint), Self::BITS) {
            0 => Hellos(low_bits(u64::MAX, Self::BITS)),
            hello => Hellos(hello),
        }
    }

    fn has(self, one: Hellos) -> bool {
        (0..64 / Self::BITS).any(|at| low_bits(self.0 >> (at * Self::BITS), Self::BITS) == one.0)
    }

    /// `None`: there are too many.
    fn with(self, one: Hellos) -> Option<Hellos> {
        (self.0 >> (64 - Self::BITS) == 0).then_some(Hellos(self.0 << Self::BITS | one.0))
    }
}

impl Default for TlsMemory {
    fn default() -> Self {
        let cells = || (0..BUCKETS * CELLS_OF_A_BUCKET).map(|_| Cell::default());
        TlsMemory {
            hasher: random::keyed(),
            of_addresses: cells().collect(),
            of_all: cells().collect(),
            successes: (0..SUCCESSES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl TlsMemory {
    /// The handshake of a client failed that gave this name in EHLO.
    pub fn failed(&self, address: IpAddr, hello: &str, failure: Failure, now: Now) {
        let client = self.client(address, hello);
        let Some(cell) = self.place(client, now) else {
            return;
        };
        let may_be_scanned = self.anybody_succeeded(address, now);
        let one = Hellos::of(failure.fingerprint);
        let hellos = Hellos(cell.hellos.load(Ordering::Relaxed));
        let now_ms = in_ms(now);
        let mut hellos_after = one;
        let one_more = |found| {
            let known = Failures::read(found);
            hellos_after = one;
            let mut after = Failures {
                tag: client.tag(),
                count: 1,
                in_vain: 0,
                at_ms: now_ms,
            };
            if known.tag != after.tag || known.is_free(now_ms) {
                return Some(after.write());
            }
            if hellos.has(one) {
                hellos_after = hellos;
                let apart = apart(failure, may_be_scanned);
                let is_another = in_ms(failure.began) >= known.at_ms && known.age(now_ms) >= apart;
                after.count = (known.count + 1).min(FAILURES);
                return is_another.then(|| after.write());
            }
            // One that is new, and then too many that differ: a scanner, from the beginning.
            hellos_after = hellos.with(one).unwrap_or(one);
            let is_varied = hellos.with(one).is_some();
            let is_another = !may_be_scanned && known.age(now_ms) >= BURST;
            after.count = match is_varied {
                true => (known.count + u64::from(is_another)).min(FAILURES),
                false => 1,
            };
            Some(after.write())
        };
        let _ = cell
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        cell.hellos.store(hellos_after.0, Ordering::Relaxed);
    }

    /// A handshake succeeded, with TLS from the first octet if no name was given before.
    pub fn succeeded(&self, address: IpAddr, hello: &str, now: Now) {
        let client = self.client(address, hello);
        for key in [self.anybody(address), client.key] {
            let (cell, tag) = self.success(key);
            cell.store(tag << 32 | in_s(now), Ordering::Relaxed);
        }
        let none = |known: Failures| Some(Failures { count: 0, ..known });
        self.update(client, none);
    }

    /// Whether this session, which gives this name, goes without STARTTLS. A yes uses up what was in store.
    pub fn take_withdrawal(&self, address: IpAddr, hello: &str, now: Now) -> bool {
        let client = self.client(address, hello);
        if self.find(client).is_none() || self.has_succeeded(client.key, REMEMBERED, now) {
            return false;
        }
        let now_ms = in_ms(now);
        self.update(client, |known| {
            let is_due =
                known.count >= FAILURES && known.in_vain < IN_VAIN_MAX && !known.is_free(now_ms);
            let count = known.count.saturating_sub(1);
            is_due.then_some(Failures { count, ..known })
        })
    }

    /// A session went without STARTTLS and sent no mail: it was not what the client waited for.
    pub fn withdrawn_in_vain(&self, address: IpAddr, hello: &str) {
        self.update(self.client(address, hello), |known| {
            (known.count > 0).then_some(Failures {
                count: FAILURES,
                in_vain: (known.in_vain + 1).min(IN_VAIN_MAX),
                ..known
            })
        });
    }

    /// False if there is nothing of the client, or nothing changes.
    fn update(&self, client: Client, change: impl Fn(Failures) -> Option<Failures>) -> bool {
        let changed = |found| {
            let known = Failures::read(found);
            let is_it = found != 0 && known.tag == client.tag();
            let after = if is_it { change(known) } else { None };
            after.map(Failures::write)
        };
        self.find(client).is_some_and(|cell| {
            let cell = &cell.failures;
            cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed)
                .is_ok()
        })
    }

    fn anybody_succeeded(&self, address: IpAddr, now: Now) -> bool {
        self.has_succeeded(self.anybody(address), MAY_BE_SCANNED_FOR, now)
    }

    fn has_succeeded(&self, key: u64, within: Duration, now: Now) -> bool {
        let (cell, tag) = self.success(key);
        let found = cell.load(Ordering::Relaxed);
        let age_s = in_s(now).saturating_sub(found & u64::from(u32::MAX));
        found != 0 && found >> 32 == tag && age_s < within.as_secs()
    }

    fn success(&self, key: u64) -> (&AtomicU64, u64) {
        (&self.successes[key as usize % SUCCESSES], key >> 32)
    }

    /// The key of all at an address together.
    fn anybody(&self, address: IpAddr) -> u64 {
        self.hasher.hash_one(prefix_of(address))
    }

    fn client(&self, address: IpAddr, hello: &str) -> Client {
        let mut hasher = self.hasher.build_hasher();
        address.to_canonical().hash(&mut hasher);
        hello
            .bytes()
            .for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
        Client {
            key: hasher.finish(),
            of_address: self.anybody(address),
        }
    }

    fn buckets(&self, client: Client) -> [&[Cell]; 2] {
        let bucket = |cells: &'_ [Cell], key: u64| {
            let first = key as usize % BUCKETS * CELLS_OF_A_BUCKET;
            first..(first + CELLS_OF_A_BUCKET).min(cells.len())
        };
        [
            &self.of_addresses[bucket(&self.of_addresses, client.of_address)],
            &self.of_all[bucket(&self.of_all, client.key)],
        ]
    }

    fn find(&self, client: Client) -> Option<&Cell> {
        let is_it = |cell: &&Cell| {
            let found = cell.failures.load(Ordering::Relaxed);
            found != 0 && Failures::read(found).tag == client.tag()
        };
        self.buckets(client).into_iter().flatten().find(is_it)
    }

    /// Where a client's failures are counted: where they are already, else where there is room, else in place
    /// of one that has failed but once. Of those it is any: were it the oldest, clients who take
    /// turns would all lose theirs. `None`: there is no such place.
    fn place(&self, client: Client, now: Now) -> Option<&Cell> {
        if let Some(cell) = self.find(client) {
            return Some(cell);
        }
        let now_ms = in_ms(now);
        let read = |cell: &Cell| Failures::read(cell.failures.load(Ordering::Relaxed));
        let cells = || self.buckets(client).into_iter().flatten();
        if let Some(free) = cells().find(|cell| read(cell).is_free(now_ms)) {
            return Some(free);
        }
        let incomplete = || cells().filter(|cell| read(cell).count < FAILURES);
        let any = self.hasher.hash_one((client.key, now_ms)) as usize;
        incomplete().nth(any % incomplete().count().max(1))
    }
}

/// Hashes.
#[derive(Clone, Copy)]
struct Client {
    /// Of the whole address and the name.
    key: u64,
    /// Of the address, or IPv6 /64.
    of_address: u64,
}

impl Client {
    fn tag(self) -> u64 {
        self.key >> (64 - TAG_BITS)
    }
}

/// How far apart two failures are that count both.
fn apart(failure: Failure, may_be_scanned: bool) -> Duration {
    match (may_be_scanned, failure.said_why) {
        (false, _) => Duration::ZERO,
        (true, true) => BURST,
        (true, false) => BROKEN_OFF_APART,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const START: Now = Now(1_000_000);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    /// An attempt that says this hello, fails, and says why.
    fn fails(memory: &TlsMemory, client: (IpAddr, &str), fingerprint: u32, now: Now) {
        fails_together(memory, client, fingerprint, (now, now + A_MOMENT));
    }

    const A_MOMENT: Duration = Duration::from_millis(20);

    fn fails_together(
        memory: &TlsMemory,
        (address, hello): (IpAddr, &str),
        fingerprint: u32,
        (began, now): (Now, Now),
    ) {
        let failure = Failure {
            fingerprint,
            said_why: true,
            began,
        };
        memory.failed(address, hello, failure, now);
    }

    /// One attempt of a client without TLS in common: `true` if it is not offered STARTTLS, and so
    /// brings its mail.
    fn gets_in(memory: &TlsMemory, client: (IpAddr, &str), fingerprint: u32, now: Now) -> bool {
        let without = memory.take_withdrawal(client.0, client.1, now);
        if !without {
            fails(memory, client, fingerprint, now);
        }
        without
    }

    /// How a client fares that comes again and again and says these hellos in turn.
    fn attempts(memory: &TlsMemory, hellos: &[u32], interval: Duration, count: usize) -> Vec<bool> {
        let hellos = hellos.iter().cycle().take(count);
        let mut now = START;
        let attempt = |hello: &u32| {
            now = now + interval + 2 * A_MOMENT;
            gets_in(memory, (v4(1), "old.test"), *hello, now)
        };
        hellos.map(attempt).collect()
    }

    #[test]
    fn a_client_without_tls_in_common_gets_its_mail_in_whatever_its_interval() {
        for seconds in [0, 1, 60, 600, 4 * 3600, 24 * 3600] {
            let interval = Duration::from_secs(seconds);
            let fares = attempts(&TlsMemory::default(), &[7], interval, 7);
            let expected = [false, false, true, false, true, false, true];
            assert_eq!(fares, expected, "{seconds} s");
        }
    }

    /// The usual dance: TLS 1.2, then 1.1, then 1.0.
    #[test]
    fn a_client_that_varies_its_hello_gets_its_mail_in() {
        for hellos in [&[1, 2][..], &[1, 2, 3], &[1, 1, 2, 2]] {
            for seconds in [1, 60, 3600] {
                let memory = TlsMemory::default();
                let fares = attempts(&memory, hellos, Duration::from_secs(seconds), 40);
                let first = fares.iter().position(|without| *without);
                let most = match seconds {
                    1 => hellos.len() + 1,
                    _ => 2,
                };
                assert!(first <= Some(most), "{hellos:?} {seconds} s: {first:?}");
                let count = fares.iter().filter(|without| **without).count();
                assert!(count >= 18, "{hellos:?} {seconds} s: {count} of 40");
            }
        }
    }

    /// Printers of an office, or hosts of one IPv6 /64, one after the other, round after round.
    #[test]
    fn old_clients_behind_one_address_do_not_keep_each_other_out() {
        let names: Vec<String> = (0..200).map(|number| format!("p{number}.test")).collect();
        let of_network = |number: u128| IpAddr::from(Ipv6Addr::from_bits(0xfd << 120 | number));
        for neighbours in [9, 12, 50, 200] {
            for has_own_address in [false, true] {
                let memory = TlsMemory::default();
                let client = |number: usize| match has_own_address {
                    true => (of_network(number as u128), "localhost"),
                    false => (v4(1), &*names[number]),
                };
                let mut now = START;
                let mut mails = vec![0; neighbours];
                for _ in 0..10 {
                    for (number, mails) in mails.iter_mut().enumerate() {
                        now = now + MINUTE;
                        *mails += u32::from(gets_in(&memory, client(number), 7, now));
                    }
                }
                assert!(mails.iter().all(|mails| *mails == 4), "{mails:?}");
            }
        }
    }

    /// There is room for no more than a few, and those have been taken by others of the same address.
    #[test]
    fn clients_in_want_of_a_place_complete_their_failures_in_the_end() {
        let memory = TlsMemory::default();
        for number in 0..100_000 {
            fails(&memory, (v4(2), &number.to_string()), 7, START);
        }
        let names: Vec<String> = (0..12).map(|number| format!("p{number}.test")).collect();
        let mut now = START;
        let mut mails = [0; 12];
        for _ in 0..20 {
            for (name, mails) in names.iter().zip(&mut mails) {
                now = now + MINUTE;
                *mails += u32::from(gets_in(&memory, (v4(1), name), 7, now));
            }
        }
        assert!(mails.iter().all(|mails| *mails >= 5), "{mails:?}");
    }

    #[test]
    fn a_client_that_opens_several_at_once_gets_one_in_each_time() {
        let memory = TlsMemory::default();
        let old = (v4(1), "old.test");
        let mut now = START;
        let mut mails = Vec::new();
        for _ in 0..5 {
            now = now + HOUR;
            let offered = (0..5).filter(|_| !memory.take_withdrawal(old.0, old.1, now));
            let offered = offered.count();
            (0..offered).for_each(|_| fails_together(&memory, old, 7, (now, now + A_MOMENT)));
            mails.push(5 - offered);
        }
        assert_eq!(mails, [0, 0, 1, 1, 1]);
    }

    #[test]
    fn nobody_lays_in_a_store_of_sessions_without_starttls_for_a_name_that_is_not_his() {
        let victim = (v4(1), "mx.victim.test");
        let taken = |memory: &TlsMemory| {
            let later = START + HOUR;
            let taken = (0..20).filter(|_| memory.take_withdrawal(victim.0, victim.1, later));
            taken.count()
        };
        let memory = TlsMemory::default();
        for number in 1..=15 {
            let ended = START + number * A_MOMENT;
            fails_together(&memory, victim, 7, (START, ended));
        }
        assert_eq!(taken(&memory), 0, "opened first, then failed");
        for number in 1..=15 {
            fails(&memory, victim, 7, START + number * MINUTE);
        }
        assert_eq!(taken(&memory), 1, "one after the other");
    }

    #[test]
    fn others_behind_the_same_address_are_offered_starttls() {
        let memory = TlsMemory::default();
        (0..10).for_each(|n| fails(&memory, (v4(1), "old.test"), 7, START + n * MINUTE));
        assert!(!memory.take_withdrawal(v4(1), "new.test", START));
        assert!(!memory.take_withdrawal(v4(2), "old.test", START));
        assert!(
            memory.take_withdrawal(v4(1), "OLD.test", START),
            "it is one name"
        );
    }

    #[test]
    fn nobody_can_switch_tls_off_for_a_client_that_has_it() {
        let memory = TlsMemory::default();
        memory.succeeded(v4(1), "good.test", START);
        let mut now = START;
        while now < START + REMEMBERED {
            assert!(!memory.take_withdrawal(v4(1), "good.test", now));
            fails(&memory, (v4(1), "good.test"), 7, now);
            now = now + 23 * MINUTE;
        }
        assert!(
            memory.take_withdrawal(v4(1), "good.test", now),
            "it may have changed since"
        );
    }

    #[test]
    fn who_succeeds_has_not_failed() {
        let memory = TlsMemory::default();
        (0..2).for_each(|n| fails(&memory, (v4(1), "mx.test"), 7, START + n * MINUTE));
        memory.succeeded(v4(1), "mx.test", START);
        fails(&memory, (v4(1), "mx.test"), 7, START + 2 * HOUR);
        assert!(!memory.take_withdrawal(v4(1), "mx.test", START + REMEMBERED));
    }

    /// It may succeed under one name, and never under another, and repeats a probe at times.
    #[test]
    fn a_scanner_is_not_blinded() {
        for succeeds in [false, true] {
            let memory = TlsMemory::default();
            let scanner = (v4(1), "testssl.sh");
            let mut now = START;
            for number in 0..2000 {
                now = now + Duration::from_secs(1);
                if succeeds {
                    memory.succeeded(v4(1), "mail.example.com", now);
                    fails(&memory, scanner, number / 5, now);
                } else {
                    fails(&memory, scanner, number, now);
                }
                let is_blind = memory.take_withdrawal(scanner.0, scanner.1, now);
                assert!(!is_blind, "{number}");
            }
        }
    }

    #[test]
    fn probes_that_are_broken_off_count_once_an_hour_where_tls_is_had() {
        let needed = |succeeds: bool| {
            let memory = TlsMemory::default();
            let mut now = START;
            (0..100)
                .take_while(|_| {
                    now = now + 10 * MINUTE;
                    if succeeds {
                        memory.succeeded(v4(1), "mail.example.com", now);
                    }
                    let failure = Failure {
                        fingerprint: 7,
                        said_why: false,
                        began: now,
                    };
                    memory.failed(v4(1), "quiet.test", failure, now + A_MOMENT);
                    !memory.take_withdrawal(v4(1), "quiet.test", now)
                })
                .count()
        };
        assert_eq!((needed(false), needed(true)), (1, 6));
    }

    /// A host in need behind an address that has TLS otherwise is not forgotten for that.
    #[test]
    fn a_client_in_need_behind_a_shared_address_gets_its_mail_in() {
        let memory = TlsMemory::default();
        memory.succeeded(v4(1), "good.test", START);
        let fares = attempts(&memory, &[7], 10 * MINUTE, 5);
        assert_eq!(fares, [false, false, true, false, true]);
    }

    #[test]
    fn a_probe_between_two_attempts_does_not_take_what_the_client_waits_for() {
        let memory = TlsMemory::default();
        let mut now = START;
        let mut fares = Vec::new();
        for _ in 0..7 {
            now = now + HOUR;
            fares.push(gets_in(&memory, (v4(1), "old.test"), 7, now));
            if memory.take_withdrawal(v4(1), "old.test", now + MINUTE) {
                memory.withdrawn_in_vain(v4(1), "old.test");
            }
        }
        assert_eq!(fares, [false, false, true, false, true, false, true]);
    }

    #[test]
    fn who_does_without_and_sends_no_mail_again_and_again_is_offered_it() {
        let memory = TlsMemory::default();
        (0..2).for_each(|n| fails(&memory, (v4(1), "scan.test"), 7, START + n * MINUTE));
        let looks = (0..20).filter(|_| {
            let without = memory.take_withdrawal(v4(1), "scan.test", START + HOUR);
            if without {
                memory.withdrawn_in_vain(v4(1), "scan.test");
            }
            without
        });
        assert_eq!(looks.count() as u64, IN_VAIN_MAX);
    }

    #[test]
    fn failures_are_forgotten() {
        let memory = TlsMemory::default();
        (0..10).for_each(|_| fails(&memory, (v4(1), "old.test"), 7, START));
        assert!(!memory.take_withdrawal(v4(1), "old.test", START + REMEMBERED + HOUR));
    }

    /// One address that fails under ever new names takes no complete failures away, and of others neither.
    #[test]
    fn a_flood_from_one_address_washes_nobody_else_away() {
        let memory = TlsMemory::default();
        let (complete, begun) = (100..200, 200..300);
        for number in complete.clone().chain(begun.clone()) {
            fails(&memory, (v4(number), "old.test"), 7, START);
        }
        for number in complete.clone() {
            fails(&memory, (v4(number), "old.test"), 7, START + MINUTE);
        }
        for name in 0..100_000 {
            fails(&memory, (v4(1), &name.to_string()), 7, START + HOUR);
        }
        let later = START + 2 * HOUR;
        let gets_in = |number: &u32| memory.take_withdrawal(v4(*number), "old.test", later);
        assert_eq!(complete.filter(gets_in).count(), 100);
        begun
            .clone()
            .for_each(|number| fails(&memory, (v4(number), "old.test"), 7, later));
        let kept = begun.filter(gets_in).count();
        assert!(kept >= 95, "{kept}: all but those that share its bucket");
    }

    #[test]
    fn cores_share_what_they_know() {
        let memory = std::sync::Arc::new(TlsMemory::default());
        for number in 0..2 {
            let memory = memory.clone();
            let now = START + number * MINUTE;
            let thread = std::thread::spawn(move || fails(&memory, (v4(1), "old.test"), 7, now));
            thread.join().unwrap();
        }
        assert!(memory.take_withdrawal(v4(1), "old.test", START + HOUR));
    }
}
