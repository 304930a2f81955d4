//! One ring per thread, and the executor that drives it.

use crate::io::watch::{self, Watched};
use crate::io::{clock, net};
use crate::time::Now;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Submission entries of a thread's ring; the completion queue has twice as many.
pub const RING_ENTRIES: u32 = 1024;

/// How often deadlines are looked at: a wait ends at most this much late.
pub const TICK: Duration = Duration::from_millis(100);

/// Runs `future` on a new ring of this thread until it completes, with the tick beside it.
///
/// The runtime is leaked on purpose: the kernel may still write into buffers of operations that
/// are in flight, so their memory must live until the process ends.
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    let runtime = std::mem::ManuallyDrop::new(tokio_uring::Runtime::new(&builder)?);
    Ok(runtime.block_on(async {
        spawn(tick());
        Watched(future).await
    }))
}

/// Starts a task on this thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(tokio_uring::spawn(Watched(future)));
}

async fn tick() {
    loop {
        let due = clock::now() + TICK;
        sleep(TICK).await;
        let now = clock::now();
        watch::tick(now.since(due));
        net::sweep_deadlines(now);
    }
}

pub async fn sleep(wait: Duration) {
    tokio::time::sleep(wait).await;
}

/// Resolves at `time`, at the first look if that has come. A sleep of nothing waits for a turn of the timer, which does
/// not come to a `select!` in which something else is always there.
pub async fn sleep_until(time: Now) {
    let left = time.since(clock::now());
    if !left.is_zero() {
        sleep(left).await;
    }
}

/// The result of a future, or an error if it takes longer.
pub use tokio::time::timeout;

/// Starts a task on this thread whose result somebody waits for. If it panics, so does whoever waits.
pub fn spawn_joined<R: 'static>(
    future: impl Future<Output = R> + 'static,
) -> impl Future<Output = R> {
    joined(tokio_uring::spawn(Watched(future)))
}

/// Runs `work` on a helper thread: for all that blocks.
pub fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> impl Future<Output = R> {
    joined(tokio::task::spawn_blocking(work))
}

async fn joined<R>(task: JoinHandle<R>) -> R {
    match task.await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A thread's loop beside the rings, for the control thread: no ring, no tick, signals.
pub struct Control(tokio::runtime::Runtime);

/// The loop of a thread that is no core's.
pub fn control() -> io::Result<Control> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(Control(builder.enable_all().build()?))
}

impl Control {
    /// Runs `future` on the calling thread until it completes.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

/// Lets every other task of this thread run once, and flushes submissions. Goes through the ring:
/// a bare yield keeps the loop from parking, and submissions are flushed only when it parks.
pub async fn yield_now() {
    // A failure means that the ring is gone, and then nothing waits for its turn.
    let _ = tokio_uring::no_op().await;
}
