//! Reads the flags and starts what they ask for.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use mimalloc::MiMalloc;
use ringpost::config::{Command, Config};
use ringpost::engine;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match Config::from_args(std::env::args_os()) {
        Ok(Command::Run(config)) => engine::run(*config),
        Ok(Command::Check(config, report)) => check(*config, &report),
        Ok(Command::SpoolList(dir)) => engine::spool_list(&dir),
        Ok(Command::SpoolVerify(dir)) => engine::spool_verify(&dir),
        Ok(Command::SpoolExport(export)) => engine::spool_export(&export),
        Ok(Command::SpoolImport(import)) => engine::spool_import(import),
        Err(exit) => ExitCode::from(exit.print()),
    }
}

fn check(config: Config, report: &str) -> ExitCode {
    let checked = match engine::check(config) {
        Ok(checked) => checked,
        Err(complaint) => {
            let _ = writeln!(std::io::stderr(), "error: {complaint}");
            return ExitCode::from(2);
        }
    };
    let mut text = format!("{report}\n{}\n", checked.threads);
    for hint in &checked.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // A reader that went away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
