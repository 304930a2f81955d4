//! What cores agree about without a lock, in every order that threads, and the memory between them, may have (loom).
//!
//! The bell's own file is compiled here a second time, with loom's atomics; and a third time with weaker fences, which
//! must be found. A lane is as much of one as the bell depends on: items that become visible with a release, and are
//! looked for with an acquire. The queues themselves are crossbeam's, which loom cannot look into.
//!
//! New lists are a model (`handoff/current.rs` stands on `arc_swap`): a number in the place of the lists, with the
//! weakest load that a look may be. It shows why a core looks there before it routes mail of another core, and that
//! reading the control thread's lane first would not do.

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

/// How the core that routes learns of new lists.
#[derive(Clone, Copy)]
enum Learns {
    /// It looks at the place where they are published, behind each job.
    ByLook,
    /// By an item of the control thread's lane, which it reads before the others.
    ByLane,
}

/// New lists come. One core takes mail, by whichever it sees, and sends it on. Another one routes it: by no older ones.
fn route_mail_of_another_core(learns: Learns) {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    const JOB: usize = 1;
    loom::model(move || {
        let published = Arc::new(AtomicUsize::new(0));
        let (told, jobs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let control = {
            let (published, told) = (published.clone(), told.clone());
            loom::thread::spawn(move || {
                // The lane first, which is all that can be done for who learns by it.
                told.store(1, Ordering::Release);
                published.store(1, Ordering::Release);
            })
        };
        let takes_mail = {
            let (published, jobs) = (published.clone(), jobs.clone());
            loom::thread::spawn(move || {
                let taken_by = published.load(Ordering::Relaxed);
                jobs.store(JOB + taken_by, Ordering::Release);
            })
        };
        let told = match learns {
            Learns::ByLook => 0,
            Learns::ByLane => told.load(Ordering::Acquire),
        };
        if let Some(taken_by) = jobs.load(Ordering::Acquire).checked_sub(JOB) {
            let routed_by = match learns {
                Learns::ByLook => published.load(Ordering::Relaxed),
                Learns::ByLane => told,
            };
            assert!(routed_by >= taken_by, "mail takes a route of before");
        }
        control.join().expect("it ends");
        takes_mail.join().expect("it ends");
    });
}

#[test]
fn mail_of_another_core_is_routed_by_no_older_lists_in_any_order() {
    route_mail_of_another_core(Learns::ByLook);
}

#[test]
#[should_panic(expected = "mail takes a route of before")]
fn a_lane_that_is_read_first_is_read_too_early() {
    route_mail_of_another_core(Learns::ByLane);
}
