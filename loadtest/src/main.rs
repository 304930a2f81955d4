//! ringpost-loadtest: SMTP load, a far side, and a ledger of every message.
//!
//! ```text
//! source --SMTP--> relay under test --SMTP--> sink
//!    \______________ ledger ________________/
//! ```
//!
//! A room uses the rooms below it:
//!
//! `commands` what each command does
//! `pages` HTML of what was found out
//! `relay` the relay under test: its process, its log
//! `sink` the receiving side, with its MX hosts and their name server; `source` the sending side
//! `figures` what was found out: data, and text
//! `ledger` who was promised what, and what came
//! `mail` what is sent: addresses and marks that are known again
//! `wire` connections and TLS
//! `options` every flag
//! `host` clock, randomness, files, threads, processes
//! `text` figures as people read them; `failure` why a command could not do its work
//!
//! Absent on purpose: any code of the relay. A shared parser would share its bugs.

#![forbid(unsafe_code)]

mod commands;
mod failure;
mod figures;
mod host;
mod ledger;
mod mail;
mod options;
mod pages;
mod relay;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::{alone, compare, hold, kill, proxy, ramp, run};
use crate::failure::Failure;
use crate::host::process;
use crate::host::signals::StopFlag;
use crate::options::{Action, Command};
use crate::pages::from_json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 0: all is well. 1: the ledger or the run is not clean. 2: it could not be run.
fn main() -> ExitCode {
    process::raise_file_limit();
    match act(Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("ringpost-loadtest: {failure}");
            ExitCode::from(2)
        }
    }
}

fn act(command: Command) -> Result<bool, Failure> {
    let stop = StopFlag::on_signals()?;
    if let Some(output) = command.action.output() {
        output.check_files()?;
    }
    match command.action {
        Action::Source(command) => alone::source(&command, &stop),
        Action::Sink(command) => alone::sink(&command, &stop),
        Action::Run(command) => run::run(&command, &stop),
        Action::KillTest(command) => kill::kill_test(&command, &stop),
        Action::Html(command) => from_json(&command),
        Action::Compare(command) => compare::compare(&command, &stop),
        Action::Ramp(command) => ramp::ramp(&command, &stop),
        Action::Proxy(command) => proxy::proxy(&command, &stop),
        Action::Hold(command) => hold::hold(&command, &stop),
        Action::Check(command) => alone::check(&command),
    }
}
