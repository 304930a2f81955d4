pub mod log;
pub mod placement;

use crate::config::Config;
use std::path::Path;
use std::process::ExitCode;

/// Runs the relay until it is told to stop.
pub fn run(config: Config) -> ExitCode {
    absent(&format!(
        "relay at {:?} with spool {}",
        config.listen.plain,
        config.spool.dir.display()
    ))
}

/// `ringpost spool list`.
pub fn spool_list(dir: &Path) -> ExitCode {
    absent(&format!("list of {}", dir.display()))
}

/// `ringpost spool verify`.
pub fn spool_verify(dir: &Path) -> ExitCode {
    absent(&format!("check of {}", dir.display()))
}

fn absent(what: &str) -> ExitCode {
    eprintln!("error: this build cannot do that yet: {what}");
    ExitCode::FAILURE
}
