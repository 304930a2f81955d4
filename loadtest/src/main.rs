//! ringpost-loadtest: SMTP load, a far side, and a ledger of every message.
//!
//! ```text
//! source --SMTP--> relay under test --SMTP--> sink
//!    \______________ ledger ________________/
//! ```
//!
//! `options` every flag
//! `address` `message` what is sent: addresses and marks that are known again
//! `ledger` `arrivals` who was promised what, and what came
//! `link` `source` the sending side; `sink_session` `sink` the receiving side
//! `hosts` `dns` the domains and MX hosts that the sink plays, and their name server
//! `relay_log` what a relay says of itself
//! `wire` `tls` `workers` `process` `clock` `random` `histogram` what they stand on
//! `run` `kill` `report` a whole run, and its figures; `hold` what open connections cost
//! `timeline` `progress` what is seen of it meanwhile
//! `plot` `html` `html_run` `html_compare` `html_ramp` `html_hold` the pages that show it
//! `compare` `comparison` `ramp` `search` many runs, and what they say together; `spread` medians
//! `proxy` the floor: bytes from one TLS connection to another
//!
//! Absent on purpose: any code of the relay. A shared parser would share its bugs.

mod address;
mod alone;
mod arrivals;
mod clock;
mod compare;
mod comparison;
mod dns;
mod files;
mod histogram;
mod hold;
mod hosts;
mod html;
mod html_compare;
mod html_hold;
mod html_ramp;
mod html_run;
mod kill;
mod ledger;
mod link;
mod message;
mod options;
mod plot;
mod process;
mod progress;
mod proxy;
mod ramp;
mod random;
mod relay_log;
mod report;
mod run;
mod search;
mod sink;
mod sink_session;
mod source;
mod spread;
#[cfg(test)]
mod tests;
mod timeline;
mod tls;
mod wire;
mod workers;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{Action, Command};

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

fn act(command: Command) -> Result<bool, run::Failure> {
    let stop = run::StopFlag::on_signals()?;
    if let Some(output) = command.action.output() {
        output.check_files()?;
    }
    match command.action {
        Action::Source(command) => alone::source(&command, &stop),
        Action::Sink(command) => alone::sink(&command, &stop),
        Action::Run(command) => run::run(&command, &stop),
        Action::KillTest(command) => kill::kill_test(&command, &stop),
        Action::Html(command) => html::from_json(&command),
        Action::Compare(command) => compare::compare(&command, &stop),
        Action::Ramp(command) => ramp::ramp(&command, &stop),
        Action::Proxy(command) => proxy::proxy(&command, &stop),
        Action::Hold(command) => hold::hold(&command, &stop),
        Action::Check(command) => alone::check(&command),
    }
}
