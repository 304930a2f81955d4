//! The real relay on a simulated host: cores, lanes, listeners, sessions, TLS, spool, look-ups, delivery and its
//! connections, with one to four cores in one thread, which new relay domains and routes come to, among clients and next
//! hops who behave or do not, over a network that delays and breaks, on a disk that fails, with the power going at any
//! moment.
//!
//! Clients and next hops share no code with the relay but its sockets. They and the `ledger` know what really happened;
//! `promises` is what must be true of it. Not here: decay of the disk (`spool_simulation`), signals, and the threads.
//!
//! `RINGPOST_SIMULATION_SEED=n` replays one seed and tells its story (`RINGPOST_SIMULATION_LINES=n`: so much of it),
//! `RINGPOST_SIMULATION_SEEDS=n` runs so many.

#[macro_use]
#[path = "support/simulated/mod.rs"]
mod simulated;

#[macro_use]
#[path = "simulate_relay/world.rs"]
mod world;

#[path = "simulate_relay/bounds.rs"]
mod bounds;
#[path = "simulate_relay/client.rs"]
mod client;
#[path = "simulate_relay/hog.rs"]
mod hog;
#[path = "simulate_relay/host.rs"]
mod host;
#[path = "simulate_relay/ledger.rs"]
mod ledger;
#[path = "simulate_relay/link.rs"]
mod link;
#[path = "simulate_relay/logged.rs"]
mod logged;
#[path = "simulate_relay/neighbours.rs"]
mod neighbours;
#[path = "simulate_relay/network.rs"]
mod network;
#[path = "simulate_relay/play.rs"]
mod play;
#[path = "simulate_relay/probe.rs"]
mod probe;
#[path = "simulate_relay/promises.rs"]
mod promises;
#[path = "simulate_relay/relay.rs"]
mod relay;
#[path = "simulate_relay/seen.rs"]
mod seen;
#[path = "simulate_relay/sites.rs"]
mod sites;
#[path = "simulate_relay/told.rs"]
mod told;
#[path = "simulate_relay/trouble.rs"]
mod trouble;

use play::Play;
use ringpost::io::Bug;
use seen::Seen;
use simulated::seeds::{
    assert_noticed, assert_same_in_another_process, play_all, print_stories, seeds,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Of an ordinary run.
const SEEDS: u64 = 200;
/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND_A_BUG: u64 = 300;
/// Lines of a story that lead to its end.
const STORY_LINES: usize = 80;

/// What was seen, or the story of a broken promise. A panic is one, too.
fn play_one(seed: u64, bug: Option<Bug>) -> Result<Seen, String> {
    let is_told = std::env::var("RINGPOST_SIMULATION_SEED").is_ok();
    let mut play = Play::new(seed, bug, is_told);
    let played = catch_unwind(AssertUnwindSafe(|| play.play()));
    let lines = std::env::var("RINGPOST_SIMULATION_LINES");
    let lines = lines.ok().and_then(|it| it.parse().ok());
    let story = play.host.story(lines.unwrap_or(STORY_LINES));
    let seen = play.seen();
    match played {
        Ok(Ok(())) => Ok(seen),
        Ok(Err(complaint)) => Err(format!("{complaint}\n{story}")),
        Err(_) => Err(format!("a panic\n{story}")),
    }
}

#[test]
fn every_promise_holds_whatever_happens() {
    let all = seeds(SEEDS);
    let began = std::time::Instant::now();
    let seen = play_all(&all, |seed| play_one(seed, None), Seen::add);
    let count = all.end - all.start;
    println!("{count} seeds in {:?}: {seen:?}", began.elapsed());
    // Nothing is avoided.
    if count >= SEEDS {
        let rare = seen.rarer_than(5);
        assert!(rare.is_empty(), "these happen too seldom: {rare:?}");
    }
}

fn tell(seed: u64) -> (String, (u32, u32, u64)) {
    let mut play = Play::new(seed, None, true);
    play.play().expect("it plays");
    (play.host.story(usize::MAX), play.host.digest())
}

#[test]
#[ignore = "no test by itself: what the one below asks of another process"]
fn stories() {
    print_stories(tell);
}

#[test]
fn a_seed_gives_the_same_world_in_another_process() {
    assert_same_in_another_process(tell);
}

/// Each of these breaks a promise, so the checks must notice each, some sooner than others.
#[test]
fn planted_bugs_are_noticed() {
    // Where each was found when it was planted: the search begins there.
    let bugs = [
        (Bug::BellsUnrung, 0),
        (Bug::WindowsKept, 0),
        (Bug::IdleEndsUntold, 0),
        (Bug::RepliesAwaitedForLong, 6),
        (Bug::BrokenIsDelivered, 0),
        (Bug::DeferredForgotten, 0),
        (Bug::RecoveredForgotten, 0),
        (Bug::ChargesKept, 0),
        (Bug::RulesOfBefore, 0),
        (Bug::AnsweredEarly, 0),
        (Bug::NotifyForgotten, 0),
        (Bug::FinishedEarly, 0),
        (Bug::OutcomesLost, 0),
        (Bug::StatesForgotten, 0),
        (Bug::ReportsForgotten, 0),
        (Bug::RepliesMixedUp, 0),
        (Bug::PostponedForgotten, 0),
        (Bug::ContentCut, 0),
        (Bug::LifetimesIgnored, 0),
        (Bug::SendersPauseHops, 0),
        (Bug::LastWordsLost, 0),
        (Bug::ReportsNeedSmtputf8, 0),
        (Bug::ReportsUngathered, 0),
        (Bug::ReportsRepeated, 0),
        (Bug::GatheredForgotten, 0),
        (Bug::FormsMixed, 0),
        (Bug::BodiesRepeated, 0),
        (Bug::HopsTriedThrice, 0),
        (Bug::JoinsUnbounded, 0),
        (Bug::ConnectionsNotJoined, 0),
        (Bug::RecipientsSpeakForHops, 0),
        (Bug::DribblesGainTime, 35),
        (Bug::GateNeverShuts, 11),
        (Bug::GateNeverOpens, 4),
        (Bug::HandOverForgottenAtDrain, 0),
        (Bug::OwnHandOverLost, 0),
        (Bug::RecordedEarly, 0),
        (Bug::HomesMistaken, 0),
        (Bug::SharesKept, 0),
        (Bug::SharesGivenBackTwice, 0),
        (Bug::IncomingNotCharged, 0),
    ];
    assert_noticed(&bugs, SEEDS_TO_FIND_A_BUG, |seed, bug| {
        play_one(seed, Some(bug))
    });
}
