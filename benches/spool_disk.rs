//! The spool on a real directory: messages made durable in commits of 1, 8 and 64, and mail that is moved out of the way.
//! The directory is in the target directory, `TMPDIR` has no say.
//!
//! One iteration is one batch: its messages are appended at once, the batch ends when all are durable, and its messages are
//! finished, so that segments go round. Figures called CPU are CPU time of all threads, the kernel's workers included.
//!
//! Floor, measured with bare io_uring (O_DIRECT and O_DSYNC into zero-filled files, one batch in flight, 4 KB messages,
//! ext4 on a virtual disk, 2-core Zen 4 VM): 113, 128 and 185 us a batch; 24, 3.4 and 0.53 us of CPU a message.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`,
//! ext4 on a virtual disk, a batch of 1 / 8 / 64: 4 KB 153 / 190 / 352 us, CPU 43 / 60 / 193 us; 10 KB 155 / 212 / 718 us, CPU
//! 53 / 90 / 491 us. 64 messages of which 8 stay and move: 2.0 ms.

mod common;

use common::{CpuTime, LINE_BYTES, RingThread, content, envelope};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::io::runtime;
use ringpost::message::{Envelope, MessageId};
use ringpost::smtp::data::to_wire_form;
use ringpost::spool::{self, MessageLocation, Movable, Receipt, Settings, Spool, SpoolError};
use ringpost::time::WallTime;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: WallTime = WallTime(1_780_000_000_000);
const MIB: u64 = 1024 * 1024;

/// What all messages have in common.
struct Mail {
    envelope: Envelope,
    body: Vec<u8>,
}

impl Mail {
    fn of_bytes(bytes: usize) -> Arc<Self> {
        Arc::new(Mail {
            envelope: envelope(1),
            body: to_wire_form(&content(bytes, LINE_BYTES, false)),
        })
    }
}

/// A message that may be moved.
struct Kept {
    id: MessageId,
    mail: Arc<Mail>,
    location: MessageLocation,
}

impl Movable for Kept {
    fn id(&self) -> MessageId {
        self.id
    }

    fn received_at(&self) -> WallTime {
        NOW
    }

    fn envelope(&self) -> &Envelope {
        &self.mail.envelope
    }

    fn location(&self) -> &MessageLocation {
        &self.location
    }
}

/// A thread with a spool, and with what `make` makes of it.
fn open<S: 'static>(
    directory: &TempDir,
    segment_bytes: u64,
    spool_bytes_max: Option<u64>,
    make: impl FnOnce(Spool) -> S + Send + 'static,
) -> RingThread<S> {
    let settings = Settings {
        segment_bytes,
        spool_bytes_max,
        keep_free_bytes: 0,
        ..Settings::default()
    };
    let mut opened = spool::open(directory.path(), &settings, 1).expect("a spool");
    let part = opened.parts.remove(0);
    // The lock is held until the process ends, as the threads are.
    std::mem::forget(opened.directory);
    RingThread::start(|| make(Spool::start(part, |_| {})))
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// As a client would that is told 452, only sooner.
async fn store(spool: &Spool, mail: &Mail) -> Receipt {
    let id = spool.next_id();
    loop {
        match spool.append(id, NOW, &mail.envelope, &mail.body).await {
            Ok(receipt) => return receipt,
            Err(SpoolError::Full) => runtime::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Appends so many at once; gives what is durable.
async fn append(spool: &Spool, mail: &Arc<Mail>, messages: usize) -> Vec<Receipt> {
    let mut batch = JoinSet::new();
    for _ in 0..messages {
        let (spool, mail) = (spool.clone(), mail.clone());
        batch.spawn_local(async move { store(&spool, &mail).await });
    }
    batch.join_all().await
}

/// Lets go of the place, which a receipt pins.
fn id_of(receipt: Receipt) -> MessageId {
    receipt.id()
}

async fn batches(spool: &Spool, mail: Arc<Mail>, messages: usize, rounds: u64) -> Duration {
    let began = Instant::now();
    for _ in 0..rounds {
        for receipt in append(spool, &mail, messages).await {
            spool.message_finished(id_of(receipt));
        }
    }
    began.elapsed()
}

fn commits(c: &mut Criterion) {
    let directory = directory();
    let spool = open(&directory, 16 * MIB, None, |spool| spool);
    spool.run(async |spool: &Spool| spool.ready().await);
    let mut group = c.benchmark_group("commit");
    for bytes in [4_000, 10_000] {
        let mail = Mail::of_bytes(bytes);
        for messages in [1, 8, 64] {
            group.throughput(Throughput::Elements(messages as u64));
            let run = |rounds| {
                let mail = mail.clone();
                spool.run(async move |spool: &Spool| batches(spool, mail, messages, rounds).await)
            };
            let name = BenchmarkId::new(format!("{bytes} bytes"), messages);
            group.bench_function(name, |bench| bench.iter_custom(run));
            let name = BenchmarkId::new(format!("{bytes} bytes, CPU"), messages);
            group.bench_function(name, |bench| {
                bench.iter_custom(|rounds| {
                    let before = CpuTime::of_all_threads();
                    run(rounds);
                    before.until(&CpuTime::of_all_threads())
                });
            });
        }
    }
    group.finish();
}

/// One message in so many stays ...
const STAYS_ONE_IN: usize = 8;
/// ... until so many others that stay have come: what comes meanwhile is twice what the spool can hold.
const STAYING: usize = 800;
const BATCH: usize = 64;

/// A spool in which some mail is always waiting, and its segments are wanted.
struct Crowded {
    spool: Spool,
    waiting: RefCell<VecDeque<MessageId>>,
}

impl Crowded {
    fn new(spool: Spool) -> Self {
        Crowded {
            spool,
            waiting: RefCell::default(),
        }
    }

    /// How long so many batches took, and how many messages were moved for them.
    async fn batches(&self, mail: &Arc<Mail>, rounds: u64) -> (Duration, u64) {
        let (began, moved) = (Instant::now(), self.spool.stats().moved);
        for _ in 0..rounds {
            let receipts = append(&self.spool, mail, BATCH).await;
            for (number, receipt) in receipts.into_iter().enumerate() {
                match number % STAYS_ONE_IN {
                    0 => self.keep(mail, receipt),
                    _ => self.spool.message_finished(id_of(receipt)),
                }
            }
        }
        (began.elapsed(), self.spool.stats().moved - moved)
    }

    /// This one stays, and the one that has waited longest is finished.
    fn keep(&self, mail: &Arc<Mail>, receipt: Receipt) {
        let id = receipt.id();
        self.spool.keep(Arc::new(Kept {
            id,
            mail: mail.clone(),
            location: MessageLocation::fresh(receipt.into_place(), 1),
        }));
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(id);
        if waiting.len() > STAYING
            && let Some(oldest) = waiting.pop_front()
        {
            self.spool.message_finished(oldest);
        }
    }
}

/// What a batch costs when the spool has to be compacted for it.
fn moving(c: &mut Criterion) {
    let directory = directory();
    let crowded = open(&directory, 2 * MIB, Some(32 * MIB), Crowded::new);
    let mail = Mail::of_bytes(10_000);
    let run = |rounds: u64| {
        let mail = mail.clone();
        crowded.run(async move |crowded: &Crowded| crowded.batches(&mail, rounds).await)
    };
    crowded.run(async |crowded: &Crowded| crowded.spool.ready().await);
    // Full first. What is measured then goes on from there.
    let (mut batches, mut moved) = ((STAYING * STAYS_ONE_IN / BATCH) as u64, 0);
    moved += run(batches).1;
    let mut group = c.benchmark_group("compaction");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("64 messages of 10000 bytes, 8 of which stay", |bench| {
        bench.iter_custom(|rounds| {
            let (took, of_these) = run(rounds);
            (batches, moved) = (batches + rounds, moved + of_these);
            took
        });
    });
    group.finish();
    assert!(moved > 0, "the spool held it all");
    println!(
        "{moved} messages were moved for {} that came",
        batches * BATCH as u64
    );
}

criterion_group! {
    name = disk;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = commits, moving
}
criterion_main!(disk);
