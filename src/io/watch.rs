//! Notices a loop that is kept from turning: a task that computes or blocks for too long, or a
//! thread that is not given a CPU.
//!
//! A turn is one poll of a task. It costs two looks at the coarse clock, some nanoseconds. What else
//! there is to know is asked only once a turn was too long.

use super::{clock, core_local};
use crate::time::Now;
use std::any::type_name;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest turn of a healthy loop. The coarse clock sees turns longer than this and its own
/// grain with certainty.
pub const TURN_MAX: Duration = Duration::from_millis(10);

/// A tick that comes later than this was kept waiting: by a long turn, by many turns in a row, or
/// because the process was stopped.
pub const LATE_MAX: Duration = Duration::from_millis(50);

/// What was noticed on this thread since the last [`take`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Noticed {
    /// Turns that were too long though the thread had its CPU: it computed, or blocked in a call.
    pub stalls: u64,
    /// Turns that were too long, and the kernel had given the CPU to others meanwhile.
    pub preempted: u64,
    pub late_ticks: u64,
    /// The longest turn, whatever the reason.
    pub longest: Duration,
    /// The type of the task whose turn it was.
    pub longest_task: &'static str,
    pub latest_tick: Duration,
}

impl Noticed {
    pub fn is_something(&self) -> bool {
        self.stalls + self.preempted + self.late_ticks > 0
    }
}

core_local! {
    static NOTICED: Cell<Noticed> = Cell::new(Noticed::default());
    /// Involuntary switches of this thread at the last tick.
    static SWITCHES: Cell<i64> = const { Cell::new(0) };
}

/// What was noticed on this thread since the last call.
pub fn take() -> Noticed {
    NOTICED.take()
}

/// To be called by the thread's tick with how late it is.
pub fn tick(late: Duration) {
    SWITCHES.set(involuntary_switches().unwrap_or(0));
    if late > LATE_MAX {
        let mut noticed = NOTICED.get();
        noticed.late_ticks += 1;
        noticed.latest_tick = noticed.latest_tick.max(late);
        NOTICED.set(noticed);
    }
}

/// A task under watch.
pub struct Watched<F>(pub F);

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the task is never moved out, and this type has no `Drop` and is `Unpin` only if
        // the task is: it is pinned as long as we are.
        let task = unsafe { self.map_unchecked_mut(|watched| &mut watched.0) };
        let began = clock::coarse();
        let result = task.poll(context);
        let ended = clock::coarse();
        if ended.since(began) > TURN_MAX {
            note(began, ended, type_name::<F>());
        }
        result
    }
}

#[cold]
fn note(began: Now, ended: Now, task: &'static str) {
    let mut noticed = NOTICED.get();
    let switches = involuntary_switches().unwrap_or(0);
    match switches > SWITCHES.replace(switches) {
        true => noticed.preempted += 1,
        false => noticed.stalls += 1,
    }
    let took = ended.since(began);
    if took > noticed.longest {
        noticed.longest = took;
        noticed.longest_task = task;
    }
    NOTICED.set(noticed);
}

/// How often the kernel took the CPU from this thread (`getrusage(2)`).
fn involuntary_switches() -> io::Result<i64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure that we own.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid value, and the kernel has written one.
    Ok(unsafe { usage.assume_init() }.ru_nivcsw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::runtime;

    async fn hogs_the_thread() {
        let until = clock::now() + 6 * TURN_MAX;
        while clock::now() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_task_that_hogs_its_thread_is_noticed_by_name() {
        let noticed = runtime::run(async {
            take();
            let (done, ended) = tokio::sync::oneshot::channel();
            runtime::spawn(async move {
                hogs_the_thread().await;
                let _ = done.send(());
            });
            ended.await.unwrap();
            // It is noted when the turn ends, and that was before ours.
            take()
        })
        .unwrap();
        assert_eq!(noticed.stalls + noticed.preempted, 1, "{noticed:?}");
        assert!(noticed.longest > TURN_MAX);
        assert!(
            noticed.longest_task.contains("a_task_that_hogs"),
            "{noticed:?}"
        );
    }

    #[test]
    fn a_late_tick_is_noticed() {
        take();
        tick(LATE_MAX);
        assert!(!take().is_something());
        tick(LATE_MAX + Duration::from_millis(1));
        assert_eq!(take().late_ticks, 1);
    }
}
