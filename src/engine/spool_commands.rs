//! What `ringpost spool ...` does with the spool of a relay that does not run, and what it says.

use super::complain;
use crate::spool;
use crate::transfer::Summary;
use crate::transfer::export::{Export, Exported};
use crate::transfer::import::Import;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// `ringpost spool list`: the mail that waits in the spool of a stopped relay.
pub fn spool_list(dir: &Path) -> ExitCode {
    print(spool::recovery::inspect::list(dir).map(|listing| (listing.to_string(), 0)))
}

/// `ringpost spool verify`: checks every record; a failure if something is damaged.
pub fn spool_verify(dir: &Path) -> ExitCode {
    print(
        spool::recovery::inspect::verify(dir).map(|found| (found.to_string(), found.exit_status())),
    )
}

fn print(result: Result<(String, u8), spool::OpenError>) -> ExitCode {
    match result {
        Ok((text, code)) => {
            // A reader that went away has seen enough.
            let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
            ExitCode::from(code)
        }
        Err(error) => {
            let advice = match error {
                spool::OpenError::Absent(_) => {
                    "; name its directory, or the flags of its relay: @/etc/ringpost/flags"
                }
                _ => "",
            };
            complain(format_args!("{error}{advice}"));
            ExitCode::FAILURE
        }
    }
}

/// `ringpost spool export`: a failure if mail was left in the spool that should not be.
pub fn spool_export(export: &Export) -> ExitCode {
    match export.run() {
        Ok(exported) => {
            say(format_args!(
                "exported to {}: {}",
                export.to.display(),
                exported.summary
            ));
            say_what_is_left(export, &exported);
            end(&exported.summary)
        }
        Err(why) => {
            complain(why);
            ExitCode::FAILURE
        }
    }
}

fn say_what_is_left(export: &Export, exported: &Exported) {
    let spool = export.spool.display();
    match (&exported.aside, export.take) {
        (Some(aside), _) => say(format_args!(
            "the spool {spool} is empty now; what it was is in {}: remove that when the mail is imported",
            aside.display()
        )),
        (None, true) => complain(format_args!(
            "the spool {spool} is as it was, since not all of its mail could be exported; a relay that starts on it \
             delivers what was exported as well"
        )),
        (None, false) => say(format_args!(
            "the spool {spool} still has this mail: a relay that starts on it delivers it as well (see --take)"
        )),
    }
}

/// `ringpost spool import`: a failure if a file could not be taken.
pub fn spool_import(import: Import) -> ExitCode {
    let spool = import.spool.display().to_string();
    match import.run(|line| say(line)) {
        Ok(summary) => {
            say(format_args!("imported into {spool}: {summary}"));
            end(&summary)
        }
        Err(why) => {
            complain(why);
            ExitCode::FAILURE
        }
    }
}

fn end(summary: &Summary) -> ExitCode {
    for left in &summary.left {
        complain(format_args!("left where it is: {left}"));
    }
    match summary.left.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn say(line: impl fmt::Display) {
    // A reader that went away has seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}
