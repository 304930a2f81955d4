//! Reads the flags and starts what they ask for.

use mimalloc::MiMalloc;
use ringpost::config::{Command, Config, Validators};
use ringpost::engine::placement::{Topology, explain, place};
use ringpost::remote::route::RouteTable;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const VALIDATORS: Validators = Validators { route: judge_route };

fn judge_route(text: &str) -> Result<(), String> {
    RouteTable::default()
        .add_entry(text, "")
        .map_err(|error| error.why)
}

fn main() -> ExitCode {
    match Config::from_args(std::env::args_os(), &VALIDATORS) {
        Ok(Command::Run(config)) => ringpost::engine::run(*config),
        Ok(Command::Check(config, report)) => check(&config, &report),
        Ok(Command::SpoolList(dir)) => ringpost::engine::spool_list(&dir),
        Ok(Command::SpoolVerify(dir)) => ringpost::engine::spool_verify(&dir),
        Err(exit) => ExitCode::from(exit.print()),
    }
}

fn check(config: &Config, report: &str) -> ExitCode {
    let cores = Topology::of_this_host()
        .map_err(|error| error.to_string())
        .and_then(|topology| place(&config.cores, &topology).map_err(|error| error.to_string()));
    let cores = match cores {
        Ok(cores) => cores,
        Err(complaint) => {
            eprintln!("error: {complaint}");
            return ExitCode::from(2);
        }
    };
    let mut text = format!("{report}\n{}\n", explain(&cores));
    for hint in &config.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // A reader that went away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
