//! What is asked of a world that plays seeds: that its promises hold in many, that planted bugs are noticed, and that a
//! seed is the same in another process.

use std::fmt::Debug;
use std::io::Seek;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The seeds to run: `RINGPOST_SIMULATION_SEED=n` is one of them alone,
/// `RINGPOST_SIMULATION_SEEDS=n` so many from zero on, and `seeds` are those of an ordinary run.
pub fn seeds(seeds: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("RINGPOST_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGPOST_SIMULATION_SEEDS").unwrap_or(seeds),
    }
}

/// Does the same on a thread for each CPU; what each of them came to.
fn on_all_cpus<R: Send>(work: impl Fn() -> R + Sync) -> Vec<R> {
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// What was seen in all of these seeds together.
///
/// # Panics
/// With the story of a broken promise.
pub fn play_all<S: Default + Send>(
    seeds: &Range<u64>,
    play: impl Fn(u64) -> Result<S, String> + Sync,
    add: impl Fn(&mut S, &S) + Sync,
) -> S {
    let next = AtomicU64::new(seeds.start);
    let sums = on_all_cpus(|| {
        let mut sum = S::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return sum;
            }
            match play(seed) {
                Ok(seen) => add(&mut sum, &seen),
                Err(story) => {
                    panic!("seed {seed}: {story}\nreplay with RINGPOST_SIMULATION_SEED={seed}")
                }
            }
        }
    });
    let mut all = S::default();
    sums.iter().for_each(|sum| add(&mut all, sum));
    all
}

/// Each of these bugs breaks a promise within so many seeds, from the one on that stands beside it.
///
/// # Panics
/// With the bugs that nothing has noticed.
pub fn assert_noticed<B: Copy + Debug + Send + Sync, S>(
    bugs: &[(B, u64)],
    seeds: u64,
    play: impl Fn(u64, B) -> Result<S, String> + Sync,
) {
    let next = AtomicUsize::new(0);
    let unnoticed = on_all_cpus(|| {
        let mut unnoticed = Vec::new();
        while let Some((bug, first)) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found =
                (*first..first + seeds).find_map(|seed| Some((seed, play(seed, *bug).err()?)));
            match found {
                Some((seed, story)) => {
                    let first = story.lines().next().unwrap_or_default();
                    println!("{bug:?}, seed {seed}: {first}");
                }
                None => unnoticed.push(*bug),
            }
        }
        unnoticed
    });
    let unnoticed = unnoticed.concat();
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}

const REPEATED: u64 = 40;

/// The events of a story, and the digest of its world in the last line. Lines of the log are left out: which of a flood
/// are written is not the seed's.
fn told<D: Debug>((story, digest): (String, D)) -> String {
    let is_event = |line: &&str| {
        let word = line.split_whitespace().nth(1);
        word.is_none_or(|it| !it.ends_with('Z'))
    };
    let events: Vec<&str> = story.lines().filter(is_event).collect();
    format!("{}\ndigest {digest:?}\n", events.join("\n"))
}

/// What a test named `stories` does, which is ignored otherwise, for [`assert_same_in_another_process`]. `play` gives the
/// story of a seed and the digest of its world.
pub fn print_stories<D: Debug>(play: impl Fn(u64) -> (String, D)) {
    (0..REPEATED).for_each(|seed| println!("story {seed}\n{}", told(play(seed))));
}

/// # Panics
/// If the test `stories` of this program tells another one in a process of its own: with the first lines that differ.
pub fn assert_same_in_another_process<D: Debug>(play: impl Fn(u64) -> (String, D)) {
    let program = std::env::current_exe().expect("it runs");
    let mut file = tempfile::tempfile().expect("a file");
    let mut other = Command::new(program)
        .args(["--exact", "stories", "--ignored", "--nocapture"])
        .stdout(file.try_clone().expect("a descriptor"))
        .spawn()
        .expect("it starts");
    let ours: Vec<String> = (0..REPEATED).map(|seed| told(play(seed))).collect();
    other.wait().expect("it ends");
    file.rewind().expect("it is a file");
    let text = std::io::read_to_string(file).expect("words");
    for (seed, ours) in ours.iter().enumerate() {
        let (_, theirs) = text
            .split_once(&format!("story {seed}\n"))
            .unwrap_or_else(|| panic!("seed {seed} was not played:\n{text}"));
        if !theirs.starts_with(ours) {
            let mut pairs = ours.lines().zip(theirs.lines());
            let (here, there) = pairs
                .find(|(here, there)| here != there)
                .unwrap_or_default();
            panic!("seed {seed}\nhere:  {here}\nthere: {there}");
        }
    }
}
