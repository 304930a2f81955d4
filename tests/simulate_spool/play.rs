//! One seed: several runs of a host, all but the last ended by a power cut or a stop; then everything heals, and
//! whoever waits too long complains.

use crate::host::{Host, Manners};
use crate::ledger::{Ledger, Stats};
use crate::mail::{id_of, in_words, stage_of};
use ringpost::io::Bug;
use ringpost::io::file::{Durability, free_bytes_blocking};
use ringpost::io::simulated::{Faults, Guard, Order, Owner, World};
use ringpost::spool::{
    self, OpenError, Opened, RecoveredMessage, SEGMENT_BYTES_MIN, Settings, SpoolStats,
};
use ringpost::time::Now;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const SPOOL: &str = "/spool";

/// Room for the lock and the like on a disk that is to get full.
const SMALL_FILES_BYTES: u64 = 16 * 4096;

/// Virtual time that the last run may take until nothing is left.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// Time after that in which space is made.
const TIDY_MAX: Duration = Duration::from_secs(10);
/// Segments of each core that may be in use when there is no mail, and more is wanted: those at work.
const SEGMENTS_LEFT_MAX: u64 = 3;
/// A turn takes some microseconds, so this is far more than any time bound above.
const POLLS_MAX: u64 = 3_000_000;

/// Of an uneven life: how long deliverers go on, and files fail, when no more mail comes.
const EBB: Duration = Duration::from_secs(2);
/// Of a long life: how long mail is tried again and again.
const LONG: Duration = Duration::from_secs(4);
/// ... and the outcome segments that each core has after that. States of all mail there take three, so three may be written
/// beside twice as many; the rest are those of earlier runs, those at work, and those that wait to be retired.
const OUTCOME_SEGMENTS_MAX: u64 = 20;
/// Of an uneven life: one message in so many is left lying. Some segments hold none of these.
const NEGLECTS: usize = 40;

/// What the host goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    Any,
    /// Segments and outcomes go fast, while some mail is left lying between mail that has moved; and most mail has
    /// gone when the power does, so that few segments are used again before.
    Uneven,
    /// Some mail waits for long, tried again and again, beside mail that has gone.
    Long,
    /// Others have taken all of the disk that the spool has not, the next hop takes little or nothing, and the relay is
    /// started anew many times.
    Full,
}

/// Planted bugs that are none of the relay: in the world itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canary {
    None,
    Relay(Bug),
    /// The disk says yes and writes nothing.
    WritesVanish,
    /// Senders know the nonce.
    NonceLeaks,
}

/// What has happened, for a simulation that avoids a path proves nothing about it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Seen {
    pub stats: Stats,
    pub polls: u64,
    pub simulated_s: u64,
    pub cuts: u64,
    pub kills: u64,
    pub recoveries_cut: u64,
    pub stops: u64,
    pub holes: u64,
    pub torn: u64,
    pub duplicates: u64,
    pub retired: u64,
    pub moved: u64,
    pub rewritten: u64,
    pub write_failures: u64,
    pub refused: u64,
    pub abandoned: u64,
    pub told: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Seen) {
        for (sum, (_, more)) in self.fields().into_iter().zip(other.named()) {
            *sum += more;
        }
    }

    fn fields(&mut self) -> [&mut u64; 20] {
        [
            &mut self.stats.accepted,
            &mut self.stats.finished,
            &mut self.stats.recovered,
            &mut self.stats.read_back,
            &mut self.polls,
            &mut self.simulated_s,
            &mut self.cuts,
            &mut self.kills,
            &mut self.recoveries_cut,
            &mut self.stops,
            &mut self.holes,
            &mut self.torn,
            &mut self.duplicates,
            &mut self.retired,
            &mut self.moved,
            &mut self.rewritten,
            &mut self.write_failures,
            &mut self.refused,
            &mut self.abandoned,
            &mut self.told,
        ]
    }

    pub fn named(&self) -> [(&'static str, u64); 20] {
        const NAMES: [&str; 20] = [
            "accepted",
            "finished",
            "recovered",
            "read_back",
            "polls",
            "simulated_s",
            "cuts",
            "kills",
            "recoveries_cut",
            "stops",
            "holes",
            "torn",
            "duplicates",
            "retired",
            "moved",
            "rewritten",
            "write_failures",
            "refused",
            "abandoned",
            "told",
        ];
        let mut copy = *self;
        let values = copy.fields().map(|value| *value);
        std::array::from_fn(|at| (NAMES[at], values[at]))
    }

    fn note(&mut self, stats: &SpoolStats) {
        self.retired += stats.segments_retired;
        self.moved += stats.moved;
        self.rewritten += stats.rewritten;
        self.write_failures += stats.write_failures;
    }
}

pub struct Play {
    pub world: Guard,
    ledger: Rc<RefCell<Ledger>>,
    life: Life,
    canary: Canary,
    settings: Settings,
    hand_over_delay: Duration,
    /// What this host's file system cannot do.
    lacks: Faults,
    pub seen: Seen,
}

impl Play {
    pub fn new(seed: u64, life: Life, canary: Canary, is_told: bool) -> Play {
        let world = World::begin(seed, is_told);
        if let Canary::Relay(bug) = canary {
            world.plant(Some(bug));
        }
        let segment_bytes = 64 * 1024 * [1, 1, 2, 4][world.below(4)];
        let message_bytes_max = (1 + world.below(3) as u64) * segment_bytes / 2;
        let mut settings = Settings {
            segment_bytes,
            message_bytes_max,
            keep_free_bytes: segment_bytes * world.below(2) as u64,
            ..Settings::default()
        };
        let hand_over_delay = Duration::from_millis(match (life, world.below(3)) {
            (Life::Full, _) | (Life::Any, 0) => 50,
            (Life::Any, 1) => 5,
            _ => 0,
        });
        let is_tight = world.one_in(3);
        if is_tight || world.one_in(2) {
            let more = segment_bytes * world.below(if is_tight { 6 } else { 20 }) as u64;
            settings.spool_bytes_max = Some(settings.spool_bytes_min(3) + more);
        }
        if matches!(life, Life::Uneven | Life::Long) {
            settings = Settings {
                segment_bytes: SEGMENT_BYTES_MIN,
                message_bytes_max: SEGMENT_BYTES_MIN / 2,
                spool_bytes_max: None,
                ..settings
            };
        }
        if life == Life::Full {
            settings = Settings {
                segment_bytes: SEGMENT_BYTES_MIN,
                message_bytes_max: SEGMENT_BYTES_MIN / 2,
                keep_free_bytes: 0,
                ..settings
            };
            let least = settings.spool_bytes_min(1);
            let more = SEGMENT_BYTES_MIN * world.below(6) as u64;
            settings.spool_bytes_max = world.one_in(2).then_some(least + more);
        }
        let lacks = Faults {
            has_no_direct: world.one_in(4),
            has_no_unnamed: world.one_in(4),
            has_no_fallocate: world.one_in(4),
            ..Faults::default()
        };
        Play {
            world,
            ledger: Rc::default(),
            life,
            canary,
            settings,
            hand_over_delay,
            lacks,
            seen: Seen::default(),
        }
    }

    pub fn play(&mut self) -> Result<(), String> {
        match self.life {
            Life::Full => self.play_on_a_full_disk()?,
            Life::Any | Life::Uneven | Life::Long => {
                for _ in 0..1 + self.world.below(3) {
                    self.choose_order();
                    let host = self.start()?;
                    self.run(&host)?;
                }
            }
        }
        self.world.set_order(Order::Fifo);
        self.heal()?;
        self.seen.stats = self.ledger.borrow().stats;
        self.seen.polls = self.world.polls();
        self.seen.simulated_s = self.world.now().0 / 1_000_000;
        Ok(())
    }

    fn choose_order(&self) {
        let starved = Owner::Core(self.world.below(3) as u16);
        self.world.set_order(match self.world.below(6) {
            0 | 1 => Order::Fifo,
            2 => Order::WholeTurns,
            3 => Order::Starves(starved),
            _ => Order::Any,
        });
    }

    fn segments(&self) -> PathBuf {
        Path::new(SPOOL).join("segments")
    }

    // ---- the start ----

    /// Opens the spool, perhaps only after the power has gone within that, and starts the cores.
    fn start(&mut self) -> Result<Rc<Host>, String> {
        let cores = match self.life {
            Life::Full => 1,
            Life::Any | Life::Uneven | Life::Long => 1 + self.world.below(3) as u16,
        };
        self.world.set_faults(self.lacks);
        self.settings.durability = self.world.one_in(3).then_some(Durability::Buffered);
        if self.life != Life::Full {
            self.set_space();
        }
        let opened = self.open(cores)?;
        let manners = self.manners();
        let parts = (opened.parts, opened.messages);
        let segments = self.segments();
        Ok(Host::start(
            &self.world,
            &self.ledger,
            parts,
            segments,
            manners,
        ))
    }

    fn set_space(&self) {
        let segments = match self.world.below(4) {
            0 => 3 * 7 + self.world.below(20) as u64,
            _ => 10_000,
        };
        let capacity = segments * self.settings.segment_bytes;
        self.world.set_space(capacity, 0);
    }

    fn plenty(&self) -> u64 {
        10_000 * self.settings.segment_bytes
    }

    fn open(&mut self, cores: u16) -> Result<Opened, String> {
        loop {
            let calls = self.world.one_in(4).then(|| self.world.below(40) as u32);
            self.world.set_calls_left(calls);
            let opened = spool::open(Path::new(SPOOL), &self.settings, cores);
            let is_cut = self.world.is_out_of_calls();
            self.world.set_calls_left(None);
            if let Ok(opened) = &opened {
                self.world.tell(|| opened.report.to_string());
            }
            if is_cut {
                self.seen.recoveries_cut += 1;
                drop(opened);
                self.end_relay();
                continue;
            }
            let opened = match opened {
                Ok(opened) => opened,
                // Not a byte is left. Somebody makes room and starts it again.
                Err(OpenError::Io(_, error))
                    if error.kind() == ErrorKind::StorageFull && self.life != Life::Full =>
                {
                    self.world.set_space(self.plenty(), 0);
                    continue;
                }
                Err(error) => return Err(format!("it does not start: {error}")),
            };
            self.seen.holes += opened.report.holes;
            self.seen.torn += opened.report.torn;
            self.seen.duplicates += opened.report.duplicates;
            self.check(&opened.messages)?;
            if !opened.report.is_sound() {
                return Err(format!("a crash looks like damage:\n{}", opened.report));
            }
            return Ok(opened);
        }
    }

    fn check(&self, messages: &[RecoveredMessage]) -> Result<(), String> {
        let found: Vec<_> = messages
            .iter()
            .map(|message| {
                let stages = message.states.iter().map(stage_of).collect();
                (id_of(message.id), in_words(&message.envelope), stages)
            })
            .collect();
        self.ledger.borrow_mut().check_recovered(&found)
    }

    fn manners(&self) -> Manners {
        let world = &self.world;
        let manners = Manners {
            appenders: 1 + world.below(4),
            deliverers: 1 + world.below(3),
            pause: Duration::from_millis([2, 10, 40][world.below(3)]),
            body_bytes_max: self.settings.message_bytes_max as usize,
            hand_over_delay: self.hand_over_delay,
            patience: 3 + world.below([3, 20][world.below(2)]),
            neglects: 0,
            is_quiet: false,
            knows_nonce: self.canary == Canary::NonceLeaks,
        };
        match self.life {
            Life::Any => manners,
            Life::Full => Manners {
                appenders: 2,
                deliverers: 1,
                pause: Duration::from_millis(10),
                patience: 1 + world.below(2),
                ..manners
            },
            Life::Long => Manners {
                appenders: 2,
                deliverers: 3,
                pause: Duration::from_millis(4),
                patience: 3 + world.below(3),
                neglects: NEGLECTS,
                ..manners
            },
            Life::Uneven => Manners {
                appenders: 4,
                deliverers: 3,
                pause: Duration::from_millis(4),
                neglects: NEGLECTS,
                ..manners
            },
        }
    }

    fn faults(&self) -> Faults {
        let world = &self.world;
        let pick = |chances: [usize; 4]| chances[world.below(4)];
        Faults {
            write_errors: pick([0, 0, 60, 12]),
            short_writes: pick([0, 4, 4, 4]),
            interruptions: pick([0, 20, 20, 20]),
            read_errors: pick([0, 0, 0, 50]),
            sync_errors: pick([0, 0, 20, 8]),
            call_errors: pick([0, 0, 30, 6]),
            delays: pick([0, 0, 0, 100]),
            vanishing_writes: match self.canary {
                Canary::WritesVanish => 20,
                _ => 0,
            },
            ..self.lacks
        }
    }

    // ---- a run ----

    fn run(&mut self, host: &Rc<Host>) -> Result<(), String> {
        self.world.set_faults(self.faults());
        let length = Duration::from_millis(50 + self.world.below(1500) as u64);
        let dies = self.world.one_in(8);
        self.pass(host, length, || false)?;
        if self.life == Life::Uneven {
            host.is_ending.set(true);
            self.pass(host, EBB, || false)?;
        }
        if self.life == Life::Long {
            self.try_for_long(host)?;
        }
        if dies {
            self.world.set_faults(Faults {
                is_dead: true,
                ..self.lacks
            });
            self.pass(host, Duration::from_millis(500), || false)?;
        } else if self.world.one_in(6) {
            self.world.set_faults(self.lacks);
            self.world.set_space(self.plenty(), 0);
            self.stop(host)?;
        }
        self.cut(host)
    }

    /// No more mail comes, and what is there is tried again and again. That takes no more of the disk, however often.
    fn try_for_long(&mut self, host: &Rc<Host>) -> Result<(), String> {
        host.is_ending.set(true);
        let patient = Manners {
            patience: 1,
            ..host.manners.get()
        };
        host.manners.set(patient);
        self.pass(host, LONG, || false)?;
        let spools = host.spools.borrow();
        let mut stats = spools.iter().map(|it| it.stats());
        // A failed write gives up its segment, and it takes a while until files that fail have gone.
        let most = |it: &SpoolStats| OUTCOME_SEGMENTS_MAX + it.write_failures;
        match stats.find(|it| it.outcome_segments > most(it)) {
            Some(stats) => Err(format!("tries without end fill the disk: {stats:?}")),
            None => Ok(()),
        }
    }

    /// At the worst time, mostly: while helpers are at work.
    fn cut(&mut self, host: &Rc<Host>) -> Result<(), String> {
        if self.world.tasks_of_cores() > 0 && !self.world.one_in(3) {
            let wait = Duration::from_millis(100);
            self.pass(host, wait, || self.world.helpers_at_work() > 1)?;
        }
        self.end(host);
        self.end_relay();
        Ok(())
    }

    /// By the power, or by a signal: then the page cache stays.
    fn end_relay(&mut self) {
        match self.world.one_in(3) {
            true => {
                self.seen.kills += 1;
                self.world.kill();
            }
            false => {
                self.seen.cuts += 1;
                self.world.cut_power();
            }
        }
    }

    fn play_on_a_full_disk(&mut self) -> Result<(), String> {
        let least = self.settings.spool_bytes_min(1) / SEGMENT_BYTES_MIN;
        let segments = least + 3 + self.world.below(6) as u64;
        let capacity = segments * SEGMENT_BYTES_MIN + SMALL_FILES_BYTES;
        self.world.set_space(capacity, 0);
        let most = self.settings.spool_bytes_max.unwrap_or(capacity) / SEGMENT_BYTES_MIN;
        for restarts in 0..6 + self.world.below(10) {
            self.choose_order();
            let host = self.start()?;
            self.world.set_faults(self.lacks);
            let has_grown = || {
                let stats = host.spool(0).stats();
                let files = stats.segments_in_use + stats.segments_prepared + stats.segments_free;
                files >= segments.min(most)
            };
            if restarts == 0 && !self.pass(&host, Duration::from_secs(20), has_grown)? {
                return Err(format!("it does not use its disk: {}", host.describe()));
            }
            let length = Duration::from_millis(self.world.below(400) as u64);
            self.pass(&host, length, || false)?;
            if self.world.one_in(2) {
                self.stop(&host)?;
            }
            self.cut(&host)?;
            self.world.set_space(capacity, 0);
            let free = free_bytes_blocking(Path::new(SPOOL)).map_err(|error| error.to_string())?;
            self.world.set_space(capacity, free);
        }
        Ok(())
    }

    fn end(&mut self, host: &Host) {
        for spool in &*host.spools.borrow() {
            self.seen.note(&spool.stats());
        }
        self.seen.refused += host.refused.get();
        self.seen.abandoned += host.abandoned.get();
        self.seen.told += host.told.borrow().len() as u64;
        host.spools.borrow_mut().clear();
    }

    /// Lets time pass until that or until something is so. True if it is.
    fn pass(
        &self,
        host: &Host,
        time: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> Result<bool, String> {
        let until: Now = self.world.now() + time;
        while self.world.now() < until {
            if is_so() {
                return Ok(true);
            }
            let is_alive = self.world.step();
            if let Some(complaint) = host.broken.borrow().clone() {
                return Err(complaint);
            }
            if !is_alive {
                return Err(format!("it stands still: {}", host.describe()));
            }
            if self.world.polls() > POLLS_MAX {
                return Err(format!("it runs without end: {}", host.describe()));
            }
        }
        Ok(is_so())
    }

    /// No new mail; what waits is written, and all tasks end.
    fn stop(&mut self, host: &Rc<Host>) -> Result<(), String> {
        self.seen.stops += 1;
        host.is_ending.set(true);
        host.is_closing.set(true);
        self.world.tell(|| "[no more mail]".to_owned());
        let wait = Duration::from_secs(30);
        if !self.pass(host, wait, || host.users.get() == 0)? {
            return Err(format!("somebody is not answered: {}", host.describe()));
        }
        for core in 0..host.spools.borrow().len() {
            let spool = host.spool(core as u16);
            let world = self.world.clone();
            let closing = async move {
                world.tell(|| format!("[core {core} closes]"));
                spool.close().await;
                world.tell(|| format!("[core {core} has closed]"));
            };
            self.world.spawn(Owner::Core(core as u16), closing);
        }
        let world = &self.world;
        let has_ended = self.pass(host, wait, || world.tasks_of_cores() == 0)?;
        match has_ended {
            true => Ok(()),
            false => Err(format!("it does not stop: {}", host.describe())),
        }
    }

    // ---- the end ----

    /// Nothing goes wrong any more: mail is taken and goes, and space is made.
    fn heal(&mut self) -> Result<(), String> {
        let host = self.start()?;
        self.world.set_faults(self.lacks);
        let mut quiet = Manners {
            is_quiet: true,
            neglects: 0,
            deliverers: 3,
            pause: Duration::from_millis(60),
            ..host.manners.get()
        };
        match self.life {
            Life::Full => {
                quiet.patience = 20;
                quiet.pause = Duration::from_millis(5);
            }
            Life::Any | Life::Uneven | Life::Long => self.world.set_space(self.plenty(), 0),
        }
        host.manners.set(quiet);
        self.pass(&host, Duration::from_secs(1), || false)?;
        host.is_ending.set(true);
        if !self.pass(&host, DRAIN_MAX, || host.is_drained())? {
            return Err(format!(
                "{} messages do not go",
                self.ledger.borrow().open()
            ));
        }
        self.check_space_is_made(&host)?;
        self.check_largest_is_taken(&host)?;
        self.stop(&host)?;
        self.end(&host);
        drop(host);
        self.world.cut_power();
        let left = spool::recovery::inspect::verify(Path::new(SPOOL))
            .map_err(|error| error.to_string())?;
        match left.exit_status() {
            0 => {}
            _ => return Err(format!("it is damaged: {left}")),
        }
        let opened = self.open(1)?;
        match &opened.messages[..] {
            [] => Ok(()),
            [left, ..] => Err(format!("{} is left: {:?}", left.id, left.states)),
        }
    }

    fn check_space_is_made(&self, host: &Host) -> Result<(), String> {
        let is_tidy = || {
            let spools = host.spools.borrow();
            spools.iter().all(|spool| {
                // Whoever wants more than there is sets going all that makes space.
                let _ = spool.admit(Some(u64::MAX / 2));
                let stats = spool.stats();
                stats.live_messages == 0 && stats.segments_in_use <= SEGMENTS_LEFT_MAX
            })
        };
        match self.pass(host, TIDY_MAX, is_tidy)? {
            true => Ok(()),
            false => {
                let stats: Vec<_> = host.spools.borrow().iter().map(|it| it.stats()).collect();
                Err(format!("nothing is queued, and space is kept: {stats:?}"))
            }
        }
    }

    /// The queue is empty: the largest message that is promised room has it on each core.
    fn check_largest_is_taken(&self, host: &Rc<Host>) -> Result<(), String> {
        let waiting = Rc::new(std::cell::Cell::new(host.spools.borrow().len()));
        for core in 0..waiting.get() {
            let (host, waiting) = (host.clone(), waiting.clone());
            let largest = self.settings.message_bytes_max as usize;
            self.world.spawn(Owner::Core(core as u16), async move {
                let spool = host.spool(core as u16);
                host.has_room(&spool, largest).await;
                waiting.set(waiting.get() - 1);
            });
        }
        match self.pass(host, Duration::from_secs(60), || waiting.get() == 0)? {
            true => Ok(()),
            false => Err("nobody is answered".to_owned()),
        }
    }
}
