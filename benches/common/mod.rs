//! What several benchmarks need: mail to work on, threads with a ring, and CPU time.
#![allow(dead_code, reason = "every benchmark uses its own part")]

use ringpost::io::runtime;
use ringpost::message::{Envelope, Mailbox, Recipient};
use std::collections::HashMap;
use std::fs;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What lines real mail has: base64 is broken at 76 octets, text earlier.
pub const LINE_BYTES: usize = 72;

const HEADER: &str = "Received: from client.test (client.test [192.0.2.7])\r\n\
    \tby mx.test with ESMTPS id 1-0-2A; Mon, 05 Jan 2026 09:00:00 +0000\r\n\
    From: Sender <sender@example.net>\r\n\
    To: Recipient <recipient@example.com>\r\n\
    Subject: A subject of ordinary length\r\n\
    Date: Mon, 05 Jan 2026 09:00:00 +0000\r\n\
    Message-ID: <20260105090000.42@example.net>\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\r\n";

/// Content of about `bytes` octets, neither stuffed nor ended: a header section, then lines of `line_bytes`
/// octets. With `dotted`, each begins with a dot.
pub fn content(bytes: usize, line_bytes: usize, dotted: bool) -> Vec<u8> {
    let mut content = HEADER.as_bytes().to_vec();
    let mut letters = (b'a'..=b'z').cycle();
    while content.len() < bytes {
        let dots = usize::from(dotted);
        content.extend_from_slice(&b"."[..dots]);
        content.extend(letters.by_ref().take(line_bytes - dots));
        content.extend_from_slice(b"\r\n");
    }
    content
}

/// From one sender to so many recipients.
pub fn envelope(recipients: usize) -> Envelope {
    let to = |number| Recipient::new(Mailbox::new(&format!("recipient{number}"), "example.com"));
    Envelope {
        reverse_path: Some(Mailbox::new("sender", "example.net")),
        recipients: (0..recipients).map(to).collect(),
        ..Envelope::default()
    }
}

type Job<S> = Box<dyn FnOnce(Rc<S>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A thread with a ring, as a core of the relay has, that keeps a value and works on it. What the value has
/// started goes on between jobs.
pub struct RingThread<S> {
    jobs: UnboundedSender<Job<S>>,
    _thread: JoinHandle<()>,
}

impl<S: 'static> RingThread<S> {
    /// `make` makes the value, on the new thread.
    pub fn start(make: impl FnOnce() -> S + Send + 'static) -> Self {
        let (jobs, mut queue) = unbounded_channel::<Job<S>>();
        let work = async move || {
            let state = Rc::new(make());
            while let Some(job) = queue.recv().await {
                job(state.clone()).await;
            }
        };
        let thread = std::thread::spawn(|| runtime::run(work()).expect("a ring"));
        RingThread {
            jobs,
            _thread: thread,
        }
    }

    /// Has it do something and waits for the result.
    pub fn run<R: Send + 'static>(&self, job: impl AsyncFnOnce(&S) -> R + Send + 'static) -> R {
        let (answer, result) = mpsc::channel();
        let job: Job<S> = Box::new(move |state| {
            Box::pin(async move {
                // Who asked waits.
                let _ = answer.send(job(&state).await);
            })
        });
        assert!(self.jobs.send(job).is_ok(), "the thread has ended");
        result.recv().expect("the thread does not panic")
    }
}

/// CPU time of this process's threads, as the scheduler counts it, to compare with a later time.
pub struct CpuTime(HashMap<String, Duration>);

impl CpuTime {
    /// Of threads whose name begins so.
    pub fn of_threads(name: &str) -> Self {
        let tasks = fs::read_dir("/proc/self/task").expect("a mounted /proc");
        let times = tasks.flatten().filter_map(|task| {
            // Threads may end meanwhile.
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let busy_ns = times.split(' ').next()?.parse().ok()?;
            comm.starts_with(name).then(|| {
                let number = task.file_name().to_string_lossy().into_owned();
                (number, Duration::from_nanos(busy_ns))
            })
        });
        CpuTime(times.collect())
    }

    pub fn of_all_threads() -> Self {
        Self::of_threads("")
    }

    /// What the threads have used since. Threads that have ended are not counted.
    pub fn until(&self, later: &CpuTime) -> Duration {
        let used = |(thread, time): (&String, &Duration)| {
            time.saturating_sub(self.0.get(thread).copied().unwrap_or_default())
        };
        later.0.iter().map(used).sum()
    }
}
