//! One ring per thread, and the executor that drives it.

use crate::io::watch::{self, Watched};
use crate::io::{clock, net};
use std::future::Future;
use std::io;
use std::time::Duration;

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

/// Lets every other task of this thread run once, and flushes submissions. Goes through the ring:
/// a bare yield keeps the loop from parking, and submissions are flushed only when it parks.
pub async fn yield_now() {
    // A failure means that the ring is gone, and then nothing waits for its turn.
    let _ = tokio_uring::no_op().await;
}
