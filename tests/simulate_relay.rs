//! The real relay on a simulated host: cores, lanes, listeners, sessions, TLS, spool, look-ups, delivery and its
//! connections, with one to four cores in one thread, which new relay domains and routes come to, among clients and next
//! hops who behave or do not, over a network that delays and breaks, on a disk that fails, with the power going at any
//! moment.
//!
//! Clients and next hops share no code with the relay but its sockets. They and the `ledger` know what really happened;
//! `promises` is what must be true of it. Not here: decay of the disk (`spool_simulation`), signals, and the threads.
//!
//! `RINGPOST_SIMULATION_SEED=n` replays one seed (`RINGPOST_SIMULATION_LINES=n`: so much of its story),
//! `RINGPOST_SIMULATION_SEEDS=n` runs so many. A failing one is made smaller and told, with the command that repeats it:
//! `RINGPOST_SIMULATION_PLAN` is what is left of it, see `plan`, and `RINGPOST_SIMULATION_BUG` a bug that is planted.

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
#[path = "simulate_relay/plan.rs"]
mod plan;
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

use plan::Plan;
use play::Play;
use ringpost::io::Bug;
use seen::Seen;
use simulated::seeds::{
    assert_noticed, assert_same_in_another_process, play_all, print_stories, seeds,
};
use simulated::shrink::{promise_of, shrink};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bugs whose worlds are made smaller, and where they are found.
const SHRUNK: [(Bug, u64); 3] = [
    (Bug::RecipientsSpeakForHops, 2),
    (Bug::OutcomesLost, 0),
    (Bug::RepliesMixedUp, 0),
];
/// Of an ordinary run.
const SEEDS: u64 = 200;
/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND_A_BUG: u64 = 300;
/// Lines of a story that lead to its end.
const STORY_LINES: usize = 80;

/// A failing seed is played at most so often, to make its world smaller.
const RUNS_TO_SHRINK: usize = 300;

/// How a world went.
struct Played {
    seen: Seen,
    letters: usize,
    /// The first promise that was broken. A panic is one, too.
    broken: Option<String>,
    story: String,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("RINGPOST_SIMULATION_{name}")).ok()
}

fn play_world(seed: u64, plan: &Plan, bug: Option<Bug>, is_told: bool) -> Played {
    let mut play = Play::new(seed, plan, bug, is_told);
    let played = catch_unwind(AssertUnwindSafe(|| play.play()));
    let lines = variable("LINES").and_then(|it| it.parse().ok());
    Played {
        story: play.host.story(lines.unwrap_or(STORY_LINES)),
        seen: play.seen(),
        letters: play.world.ledger.borrow().letters.len(),
        broken: match played {
            Ok(ended) => ended.err(),
            Err(_) => Some("a panic".to_owned()),
        },
    }
}

/// What was seen, or which promise was broken.
fn play_one(seed: u64, bug: Option<Bug>) -> Result<Seen, String> {
    let played = play_world(seed, &Plan::default(), bug, false);
    played.broken.map_or(Ok(played.seen), Err)
}

/// The smallest world found that breaks the same promise as the whole one, and in how many runs.
fn shrunk(seed: u64, bug: Option<Bug>, complaint: &str) -> (Plan, usize) {
    let promise = promise_of(complaint);
    shrink(Plan::default(), RUNS_TO_SHRINK, |plan| {
        let broken = play_world(seed, plan, bug, false).broken;
        broken.is_some_and(|it| promise_of(&it) == promise)
    })
}

/// As the environment says: with a bug, and with a smaller plan. Without one a world that fails is made smaller before its
/// story is told.
fn play_or_shrink(seed: u64) -> Result<Seen, String> {
    let name = variable("BUG");
    let planted = |name: &str| BUGS.iter().find(|(bug, _)| format!("{bug:?}") == name);
    let bug = name
        .as_deref()
        .map(|it| planted(it).expect("a bug of the list").0);
    let given = variable("PLAN").map(|text| Plan::parse(&text));
    let is_one = variable("SEED").is_some();
    let first = play_world(
        seed,
        given.as_ref().unwrap_or(&Plan::default()),
        bug,
        is_one,
    );
    let Some(complaint) = first.broken else {
        return Ok(first.seen);
    };
    if given.is_some() {
        return Err(format!("{complaint}\n{}", first.story));
    }
    let (plan, runs) = shrunk(seed, bug, &complaint);
    let small = play_world(seed, &plan, bug, true);
    let bug = name.map_or(String::new(), |it| format!("RINGPOST_SIMULATION_BUG={it} "));
    Err(format!(
        "{complaint}\n{} letters in {} turns\nsmaller, found in {runs} runs: {} letters in {} turns\n{}\n{}\n\
         {bug}RINGPOST_SIMULATION_SEED={seed} RINGPOST_SIMULATION_PLAN={plan} \
         cargo test --features simulate --test simulate_relay every_promise",
        first.letters,
        first.seen.polls,
        small.letters,
        small.seen.polls,
        small.broken.unwrap_or_default(),
        small.story,
    ))
}

#[test]
fn every_promise_holds_whatever_happens() {
    let all = seeds(SEEDS);
    let began = std::time::Instant::now();
    let seen = play_all(&all, play_or_shrink, Seen::add);
    let count = all.end - all.start;
    println!("{count} seeds in {:?}: {seen:?}", began.elapsed());
    // Nothing is avoided.
    if count >= SEEDS {
        let rare = seen.rarer_than(5);
        assert!(rare.is_empty(), "these happen too seldom: {rare:?}");
    }
}

fn tell(seed: u64) -> (String, (u32, u32, u64)) {
    let mut play = Play::new(seed, &Plan::default(), None, true);
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

/// Each of these breaks a promise. Beside it where it was found when it was planted: the search begins there.
const BUGS: &[(Bug, u64)] = &[
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

/// The checks notice each, some sooner than others.
#[test]
fn planted_bugs_are_noticed() {
    assert_noticed(BUGS, SEEDS_TO_FIND_A_BUG, |seed, bug| {
        play_one(seed, Some(bug))
    });
}

/// Whoever has to understand a failure reads a story of a few letters.
#[test]
fn a_failing_world_becomes_small_and_breaks_the_same_promise() {
    for (bug, seed) in SHRUNK {
        let bug = Some(bug);
        let whole = play_world(seed, &Plan::default(), bug, false);
        let complaint = whole.broken.expect("the seed finds the bug");
        let (plan, runs) = shrunk(seed, bug, &complaint);
        let small = play_world(seed, &Plan::parse(&plan.to_string()), bug, true);
        let (turns, before) = (small.seen.polls, whole.seen.polls);
        println!(
            "{bug:?}, seed {seed}, {runs} runs: {} letters in {before} turns, then {} in {turns}: {plan}",
            whole.letters, small.letters,
        );
        let promise = small.broken.as_deref().map(promise_of);
        assert_eq!(promise, Some(promise_of(&complaint)));
        assert!(small.letters * 3 <= whole.letters, "{plan}");
    }
}
