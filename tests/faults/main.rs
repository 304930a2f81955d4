//! What a host can do to a relay: a disk that fills, fails or goes away under load, a calendar that
//! jumps, no descriptors, little memory, and stops in the middle of it all. Every story runs against the
//! real program and is judged by one question: is everything that got a 250 delivered or still there?
//!
//! Some need to be root (mounts and control groups of their own); they say so and pass where they
//! cannot be told.

mod clock;
mod descriptors;
mod disk;
mod load;
mod memory;
mod silence;
mod stop;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::next_hop::{Answer, NextHop, StartTls};

/// A hop that defers everything until it is opened.
struct Gate {
    hop: NextHop,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    fn closed() -> Self {
        let is_open = Arc::new(AtomicBool::new(false));
        let hop = NextHop::scripted(StartTls::Works, {
            let is_open = is_open.clone();
            move |occasion| {
                let is_rcpt = occasion.command.starts_with("RCPT");
                match is_rcpt && !is_open.load(Ordering::SeqCst) {
                    true => Answer::Say("450 4.2.1 not now"),
                    false => Answer::Usual,
                }
            }
        });
        Gate { hop, is_open }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}
