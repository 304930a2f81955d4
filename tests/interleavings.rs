//! The bell between cores, in every order that its threads, and the memory between them, may have (loom).
//!
//! The bell's own file is compiled here a second time, with loom's atomics; and a third time with weaker fences, which
//! must be found. A lane is as much of one as the bell depends on: items that become visible with a release, and are
//! looked for with an acquire. The queues themselves are crossbeam's, which loom cannot look into.

#![allow(clippy::duplicate_mod, reason = "it is one file with other atomics")]

/// The bell as it is.
#[path = "../src/handoff"]
mod as_it_is {
    mod sync {
        pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
    }
    pub mod bell;
}

/// The bell with fences that order too little.
#[path = "../src/handoff"]
mod weaker {
    mod sync {
        pub use loom::sync::atomic::{AtomicBool, Ordering};

        pub fn fence(_: Ordering) {
            loom::sync::atomic::fence(Ordering::AcqRel);
        }
    }
    pub mod bell;
}

/// So many senders put one item each into lanes of their own, and wake the core if they must. The core looks once, and
/// sleeps if it may: then somebody has woken it, and nobody for nothing.
macro_rules! send_and_sleep {
    ($bell:path, $senders:expr, $preemptions:expr) => {{
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicUsize, Ordering};
        use $bell as bell;

        let mut model = loom::model::Builder::new();
        model.preemption_bound = $preemptions;
        model.check(|| {
            let sleeper = Arc::new(bell::Sleeper::awake());
            let lanes: Vec<_> = (0..$senders)
                .map(|_| Arc::new(AtomicUsize::new(0)))
                .collect();
            let senders: Vec<_> = lanes
                .iter()
                .cloned()
                .map(|lane| {
                    let sleeper = sleeper.clone();
                    loom::thread::spawn(move || {
                        lane.store(1, Ordering::Release);
                        usize::from(sleeper.must_be_woken())
                    })
                })
                .collect();
            let has_slept =
                sleeper.may_sleep(|| lanes.iter().all(|lane| lane.load(Ordering::Acquire) == 0));
            let woken = senders.into_iter().map(|it| it.join().expect("it ends"));
            let woken: usize = woken.sum();
            assert!(woken <= 1, "{woken} have woken one sleeper");
            assert!(!has_slept || woken == 1, "a wake is lost");
        });
    }};
}

#[test]
fn no_wake_is_lost_in_any_order() {
    send_and_sleep!(as_it_is::bell, 1, None);
    // All orders of three threads take minutes.
    send_and_sleep!(as_it_is::bell, 2, Some(2));
}

#[test]
#[should_panic(expected = "a wake is lost")]
fn weaker_fences_are_found() {
    send_and_sleep!(weaker::bell, 1, None);
}
