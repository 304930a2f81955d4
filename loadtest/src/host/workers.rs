//! Threads with a single-threaded runtime each, and the CPU time that they used.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::host::cpu::thread_cpu_us;

/// How often a thread writes down its CPU time.
const METER_PERIOD: Duration = Duration::from_millis(100);

/// CPU time of a group of threads, at most a tenth of a second old.
#[derive(Clone, Default)]
pub struct Meter(Arc<Vec<AtomicU64>>);

impl Meter {
    pub fn new(threads: usize) -> Self {
        Self(Arc::new((0..threads).map(|_| AtomicU64::new(0)).collect()))
    }

    pub fn cpu_us(&self) -> u64 {
        self.0
            .iter()
            .map(|thread| thread.load(Ordering::Relaxed))
            .sum()
    }

    pub fn threads(&self) -> usize {
        self.0.len()
    }

    /// To be called on thread `index` itself.
    pub fn note(&self, index: usize) {
        self.0[index].store(thread_cpu_us(), Ordering::Relaxed);
    }
}

pub fn new_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs `work` to its end on a thread of its own, metered as number `index`.
pub fn spawn<F>(
    name: &str,
    runtime: Runtime,
    meter: Meter,
    index: usize,
    work: F,
) -> io::Result<JoinHandle<()>>
where
    F: Future<Output = ()> + Send + 'static,
{
    std::thread::Builder::new()
        .name(format!("{name}-{index}"))
        .spawn(move || {
            let ticking = meter.clone();
            runtime.spawn(async move {
                loop {
                    ticking.note(index);
                    tokio::time::sleep(METER_PERIOD).await;
                }
            });
            runtime.block_on(work);
            // What is still open (idle connections, the meter's task) is dropped with the runtime.
            drop(runtime);
            meter.note(index);
        })
}
