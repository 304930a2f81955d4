//! What whoever looks at the relay is answered by HTTP, on a thread that no core waits for.
//!
//! ```text
//! /metrics     all that is counted, for Prometheus
//! /healthz     200: the loops of all threads turn
//! /readyz      200: new mail is taken; 503 while the relay stops, or memory or spool are full
//! /v1/status   the same and more, as JSON
//! ```
//!
//! Promise: nothing can be changed here, and no address of a person is said.

use super::report::snapshot_of;
use super::shared::Shared;
use super::{StartError, ports};
use crate::config::HttpConfig;
use crate::handoff::memory::MemoryLevel;
use crate::io::clock;
use crate::io::web::{self, Answer};
use crate::metrics::{Counter, Value, exposition};
use crate::time::{Now, WallTime};
use serde_json::{Map, json};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A thread whose loop has not turned for so long is stuck. It says ten times a second that it turns.
const STUCK_AFTER: Duration = Duration::from_secs(5);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The listener, if there is to be one, or why there is none although nobody has said so.
#[derive(Default)]
pub struct Bound {
    pub listener: Option<TcpListener>,
    pub hint: Option<String>,
}

/// Binds the address. One that nobody asked for may be another process's.
///
/// # Errors
/// It cannot be had.
pub fn bind(config: HttpConfig) -> Result<Bound, StartError> {
    let Some(address) = config.address else {
        return Ok(Bound::default());
    };
    match TcpListener::bind(address) {
        Ok(listener) => Ok(Bound {
            listener: Some(listener),
            hint: None,
        }),
        Err(error) if config.is_default => Ok(Bound {
            listener: None,
            hint: Some(format!(
                "nobody can look at this relay by HTTP: {address}: {error}; name another address with --http, or none"
            )),
        }),
        Err(error) => Err(StartError(format!(
            "--http {}",
            ports::unusable(address, &error).0
        ))),
    }
}

/// Fails as [`bind`] would, but binds nothing: a port that another process has is not noticed.
///
/// # Errors
/// It could not be had.
pub fn check(config: HttpConfig) -> Result<(), StartError> {
    let Some(address) = config.address.filter(|_| !config.is_default) else {
        return Ok(());
    };
    ports::check_address(address)
        .and_then(|()| ports::check_port(address.port()))
        .map_err(|error| StartError(format!("--http {}", ports::unusable(address, &error).0)))
}

/// Answers from now on, as long as the process lives.
///
/// # Errors
/// There can be no more threads.
pub fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let page = Page {
        shared,
        started: (clock::wall_time(), clock::now()),
        heartbeats: Mutex::default(),
    };
    web::serve(listener, move |path| page.answer(path))
}

struct Page {
    shared: Arc<Shared>,
    started: (WallTime, Now),
    heartbeats: Mutex<Heartbeats>,
}

impl Page {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => Answer {
                status: 200,
                content_type: exposition::CONTENT_TYPE,
                body: self.metrics(),
            },
            "/healthz" => match &self.stuck()[..] {
                [] => Answer::line(200, "ok"),
                stuck => Answer::line(503, &format!("the loops of threads {stuck:?} do not turn")),
            },
            "/readyz" => match self.why_not_ready() {
                None => Answer::line(200, "ready"),
                Some(why) => Answer::line(503, why),
            },
            "/v1/status" => Answer {
                status: 200,
                content_type: "application/json",
                body: self.status(),
            },
            "/" => Answer::line(200, "/metrics\n/healthz\n/readyz\n/v1/status"),
            _ => Answer::line(404, "there is /metrics, /healthz, /readyz and /v1/status"),
        }
    }

    fn metrics(&self) -> String {
        let started_s = self.started.0.0 as f64 / 1000.0;
        exposition::text(&snapshot_of(&self.shared), VERSION, started_s)
    }

    fn stuck(&self) -> Vec<usize> {
        let mut heartbeats = (self.heartbeats.lock()).unwrap_or_else(PoisonError::into_inner);
        heartbeats.stuck(&self.shared.heartbeats, clock::now())
    }

    fn why_not_ready(&self) -> Option<&'static str> {
        let shared = &self.shared;
        if shared.is_stopping.load(Ordering::Relaxed) {
            return Some("the relay stops");
        }
        if shared.memory.level() >= MemoryLevel::Full {
            return Some("memory is full (--memory-max)");
        }
        let refusing = |core: &usize| shared.metrics[*core].spool_refusing.get() > 0;
        let is_full = shared.ingress_cores.iter().any(refusing);
        is_full.then_some("the spool is full, or its disk fails; the log says more")
    }

    fn status(&self) -> String {
        let shared = &self.shared;
        let mut counts = Map::new();
        for item in snapshot_of(shared).items() {
            match item.value {
                Value::Counter(number) | Value::Gauge(number) => {
                    counts.insert(item.name.to_owned(), number.into());
                }
                Value::Histogram {
                    values,
                    count_name,
                    sum_name,
                } => {
                    counts.insert(count_name.to_owned(), values.count().into());
                    counts.insert(sum_name.to_owned(), values.sum.into());
                }
            }
        }
        let stuck = self.stuck();
        json!({
            "version": VERSION,
            "hostname": shared.config.hostname,
            "uptime_s": clock::now().since(self.started.1).as_secs(),
            "threads": shared.specs.len(),
            "stuck_threads": stuck,
            "ready": self.why_not_ready().is_none(),
            "not_ready": self.why_not_ready(),
            "memory_max_bytes": shared.config.spool.memory_bytes_max,
            "counts": counts,
        })
        .to_string()
    }
}

/// When each loop was last seen to have turned. How often somebody asks is not known.
#[derive(Default)]
struct Heartbeats(Vec<(u64, Now)>);

impl Heartbeats {
    fn stuck(&mut self, counts: &[Counter], now: Now) -> Vec<usize> {
        self.0.resize(counts.len(), (u64::MAX, now));
        let threads = self.0.iter_mut().zip(counts).enumerate();
        let stuck = threads.filter_map(|(thread, ((seen, since), count))| {
            if *seen != count.get() {
                (*seen, *since) = (count.get(), now);
            }
            (now.since(*since) >= STUCK_AFTER).then_some(thread)
        });
        stuck.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_turn_is_stuck_after_a_while_however_often_somebody_asks() {
        let counts = [Counter::default(), Counter::default()];
        let at = |seconds: u64| Now(seconds * 1_000_000);
        let mut heartbeats = Heartbeats::default();
        assert!(heartbeats.stuck(&counts, at(100)).is_empty());
        assert!(heartbeats.stuck(&counts, at(100)).is_empty());
        counts[0].increment();
        assert!(heartbeats.stuck(&counts, at(104)).is_empty());
        assert_eq!(heartbeats.stuck(&counts, at(106)), [1]);
        counts[1].increment();
        assert!(heartbeats.stuck(&counts, at(107)).is_empty());
    }
}
