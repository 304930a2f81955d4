//! The signals that an operator sends, and what each asks for.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub enum Wish {
    Stop,
    Report,
    Reload,
}

pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    report: Signal,
    reload: Signal,
}

impl Signals {
    /// Takes over their handling; what comes before [`Signals::next`] is kept.
    pub fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            report: signal(SignalKind::user_defined1())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.report.recv() => Wish::Report,
            _ = self.reload.recv() => Wish::Reload,
        }
    }
}
