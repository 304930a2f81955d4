//! What source, sink and ledger of a command agree on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::figures::machine::Machine;
use crate::figures::report::Report;
use crate::host::clock::{Clock, rfc5322_date};
use crate::host::random::fresh_seed;
use crate::ledger::Ledger;
use crate::ledger::book::Book;
use crate::mail::address::Addressing;
use crate::mail::message::Composer;
use crate::options::sink::SinkOptions;
use crate::options::source::SourceOptions;
use crate::sink::Sink;
use crate::sink::hosts::Hosts;
use crate::source::Source;

/// What source, sink and ledger need to agree on.
pub struct Common {
    pub clock: Clock,
    pub seed: u64,
    pub ledger: Arc<Ledger>,
    pub composer: Composer,
}

impl Common {
    pub fn new(options: &SourceOptions) -> Result<Self, Failure> {
        options.check()?;
        let clock = Clock::start();
        let seed = options.seed.unwrap_or_else(fresh_seed);
        // The seed may be repeated; the run must never be, for old spools may hold old messages.
        let run = format!("{:08x}", fresh_seed() as u32);
        let addressing = Addressing::new(&run, options)?;
        let date = rfc5322_date(clock.now_us() / 1_000_000);
        let composer = Composer::new(addressing.clone(), options.size, seed, date);
        Ok(Self {
            clock,
            seed,
            ledger: Arc::new(Ledger::new(addressing)),
            composer,
        })
    }

    pub fn start_sink(&self, options: &SinkOptions, address: SocketAddr) -> Result<Sink, Failure> {
        options.check()?;
        let book = Book::Run(self.ledger.clone());
        let hosts = match options.mx.mx_hosts {
            Some(_) => Hosts::new(&self.ledger.addressing.domain_names()?, &options.mx)?,
            None => Hosts::one(),
        };
        Ok(Sink::start(
            options, address, book, self.clock, self.seed, hosts,
        )?)
    }

    pub fn start_source(
        &self,
        options: &SourceOptions,
        address: SocketAddr,
    ) -> Result<Source, Failure> {
        let (ledger, composer) = (self.ledger.clone(), self.composer.clone());
        Ok(Source::start(
            options, address, ledger, composer, self.clock,
        )?)
    }

    /// Adds up the ledger and takes the figures as they are now.
    pub fn report(&self, source: &Source, sink: &Sink) -> Report {
        let counters = &source.shared.counters;
        let start_us = source.shared.start_us();
        let since_start = |us: u64| us.saturating_sub(start_us) as f64 / 1e6;
        Report {
            version: env!("CARGO_PKG_VERSION").to_string(),
            command: std::env::args().collect(),
            machine: Machine::here(start_us / 1_000_000),
            seed: self.seed,
            run: self.ledger.addressing.run.clone(),
            accept_seconds: since_start(counters.last_us.load(Ordering::Relaxed)),
            deliver_seconds: since_start(sink.shared.counters.last_us.load(Ordering::Relaxed)),
            ledger: self.ledger.verdict(source.shared.taken()),
            source: source.figures(),
            sink: sink.figures(),
            ..Report::default()
        }
    }
}
