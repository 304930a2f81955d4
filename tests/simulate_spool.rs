//! The real spool on a simulated host: drivers, allocator, compactor and recovery of one to three cores, on a disk that
//! tears, fails, fills up and dies, in any order of tasks, with the power going at any moment, also within a call.
//!
//! Those who use the spool stand in for sessions and delivery. They and the `ledger` know what really happened.
//! What is promised: nothing that has a receipt is lost, comes back or changes; nothing false is believed; and in
//! quiet times everybody is answered, everything goes, and space is made.
//!
//! `RINGPOST_SIMULATION_SEED=n` replays one seed and tells its story, `RINGPOST_SIMULATION_SEEDS=n` runs so many.

#[path = "simulate_spool/host.rs"]
mod host;
#[path = "simulate_spool/ledger.rs"]
mod ledger;
#[path = "simulate_spool/mail.rs"]
mod mail;
#[path = "simulate_spool/play.rs"]
mod play;
#[path = "support/simulated/mod.rs"]
mod simulated;

use play::{Canary, Play, Seen};
use ringpost::io::Bug;
use ringpost::io::simulated::World;
use ringpost::spool::SegmentId;
use ringpost::spool::log::segment::{Segments, create_directory};
use simulated::seeds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Of an ordinary run.
const SEEDS: u64 = 400;
/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND_A_BUG: u64 = 1500;
/// Lines of a story that lead to its end.
const STORY_LINES: usize = 60;

/// What was seen, or the story of a broken promise. A panic is one, too.
fn play_one(seed: u64, canary: Canary) -> Result<Seen, String> {
    let is_told = std::env::var("RINGPOST_SIMULATION_SEED").is_ok();
    let mut play = Play::new(seed, canary, is_told);
    let played = catch_unwind(AssertUnwindSafe(|| play.play()));
    let story = play.world.story(STORY_LINES);
    let (played, seen) = (played, play.seen);
    drop(play);
    match played {
        Ok(Ok(())) => Ok(seen),
        Ok(Err(complaint)) => Err(format!("{complaint}\n{story}")),
        Err(_) => Err(format!("a panic\n{story}")),
    }
}

fn digest(seed: u64) -> (u32, u32, u64) {
    let mut play = Play::new(seed, Canary::None, false);
    play.play().expect("it plays");
    play.world.digest()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

#[test]
fn every_promise_holds_whatever_happens() {
    let all = seeds(SEEDS);
    let next = AtomicU64::new(all.start);
    let work = || {
        let mut seen = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= all.end {
                return seen;
            }
            match play_one(seed, Canary::None) {
                Ok(of_seed) => seen.add(&of_seed),
                Err(story) => {
                    panic!("seed {seed}: {story}\nreplay with RINGPOST_SIMULATION_SEED={seed}")
                }
            }
        }
    };
    let began = std::time::Instant::now();
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        let mut sum = Seen::default();
        for thread in threads {
            match thread.join() {
                Ok(seen) => sum.add(&seen),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        sum
    });
    let count = all.end - all.start;
    println!("{count} seeds in {:?}: {seen:?}", began.elapsed());
    // Nothing is avoided.
    if count >= SEEDS {
        let named = seen.named().into_iter();
        let rare: Vec<_> = named.filter(|(_, count)| *count < 20).collect();
        assert!(rare.is_empty(), "these happen too seldom: {rare:?}");
    }
}

const DIGESTS: u64 = 40;

/// Not a test by itself: what the one below asks of another process.
#[test]
fn digests() {
    for seed in 0..DIGESTS {
        println!("digest {seed} {:?}", digest(seed));
    }
}

#[test]
fn a_seed_gives_the_same_world_in_another_process() {
    let program = std::env::current_exe().expect("it runs");
    let output = Command::new(program)
        .args(["--exact", "digests", "--nocapture"])
        .output()
        .expect("it starts");
    let text = String::from_utf8(output.stdout).expect("words");
    for seed in 0..DIGESTS {
        let line = format!("digest {seed} {:?}", digest(seed));
        assert!(text.lines().any(|other| other == line), "{line}:\n{text}");
    }
}

/// A name whose change was not durable comes back with the power, and with it mail that is long delivered.
#[test]
fn a_segment_is_set_aside_or_removed_once_that_is_durable() {
    type Change = fn(&Segments, SegmentId) -> std::io::Result<()>;
    let changes: [Change; 2] = [Segments::set_aside, Segments::remove];
    for (seed, change) in (0..20).flat_map(|seed| changes.map(|change| (seed, change))) {
        let world = World::begin(seed, false);
        let path = PathBuf::from("/segments");
        create_directory(&path).expect("it is made");
        let segments = Segments::new(path.clone(), 64 * 1024, None).expect("they are there");
        let id = SegmentId { core: 0, number: 1 };
        drop(segments.create(id).expect("it is made"));
        // The name changes, and the directory is not synced.
        world.set_calls_left(Some(2));
        change(&segments, id).expect_err("not durable");
        world.set_calls_left(None);
        change(&segments, id).expect("it is the second time");
        world.cut_power();
        let left = world.names_in(&path);
        assert!(!left.contains(&id.file_name()), "seed {seed}: {left:?}");
    }
}

/// Each of these breaks a promise, so the checks must notice each, some sooner than others.
#[test]
fn planted_bugs_are_noticed() {
    // Where each was found when it was planted: the search begins there.
    let bugs = [
        (Bug::WriteErrorSwallowed, 0),
        (Bug::SecondSyncBelieved, 0),
        (Bug::AppendWakesNobody, 0),
        (Bug::ReadersIgnored, 0),
        (Bug::NotesLost, 0),
        (Bug::NotesEarly, 485),
        (Bug::OutcomesForgotten, 0),
        (Bug::CopiesForget, 20),
        (Bug::OutcomesCovered, 778),
        (Bug::GenerationsRepeated, 0),
        (Bug::RunsNotCounted, 0),
        (Bug::SpaceNotLeft, 0),
        (Bug::AbandonedKept, 0),
    ];
    let in_the_world = [(Canary::WritesVanish, 0), (Canary::NonceLeaks, 8)];
    // Not found in a thousand seeds: of long runs only.
    let is_long = seeds(SEEDS).end > SEEDS;
    let seldom = [(Bug::FailedRetirementTaken, 0), (Bug::HoldsIgnored, 0)];
    let seldom = seldom.into_iter().filter(|_| is_long);
    let of_the_relay = bugs.into_iter().chain(seldom);
    let of_the_relay = of_the_relay.map(|(bug, first)| (Canary::Relay(bug), first));
    let canaries: Vec<(Canary, u64)> = of_the_relay.chain(in_the_world).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut unnoticed = Vec::new();
        while let Some((canary, first)) = canaries.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = (*first..first + SEEDS_TO_FIND_A_BUG)
                .find_map(|seed| Some((seed, play_one(seed, *canary).err()?)));
            match found {
                Some((seed, story)) => {
                    let first = story.lines().next().unwrap_or_default();
                    println!("{canary:?}, seed {seed}: {first}");
                }
                None => unnoticed.push(*canary),
            }
        }
        unnoticed
    };
    let unnoticed: Vec<Canary> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .flat_map(|unnoticed| unnoticed.expect("it catches panics"))
            .collect()
    });
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}
