//! Which line of a file, or which variable, gave a flag that is refused.

use super::argument_file::Expanded;
use super::flags;
use clap::error::{ContextKind, ErrorKind};
use clap::{Command, Error};
use std::ffi::OsString;

/// `FILE:LINE` or the name of a variable; `None` if it was the command line.
pub fn of(error: &Error, expanded: &Expanded) -> Option<String> {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return None;
    }
    let command = flags::command_without_variables();
    let line = expanded.lines.iter().find(|line| {
        let arguments = line.arguments.iter().map(OsString::from);
        let alone = refusal(&command, arguments);
        alone.is_some_and(|alone| is_same(&alone, error))
    });
    match line {
        Some(line) => Some(line.place.to_string()),
        None => variable(&command, error, expanded),
    }
}

/// Flags are independent of each other for clap, so what is wrong with a line is wrong with it alone.
fn refusal(command: &Command, arguments: impl Iterator<Item = OsString>) -> Option<Error> {
    let program = std::iter::once(OsString::from("ringpost"));
    let matches = command
        .clone()
        .try_get_matches_from(program.chain(arguments));
    matches.err()
}

fn is_same(one: &Error, other: &Error) -> bool {
    let same = |kind| one.get(kind) == other.get(kind);
    one.kind() == other.kind() && same(ContextKind::InvalidArg) && same(ContextKind::InvalidValue)
}

/// The command line alone is good: then the flag's variable is not.
fn variable(command: &Command, error: &Error, expanded: &Expanded) -> Option<String> {
    let own = expanded.arguments.iter().skip(1).cloned();
    if refusal(command, own).is_some_and(|own| is_same(&own, error)) {
        return None;
    }
    let shown = error.get(ContextKind::InvalidArg)?.to_string();
    let long = shown.strip_prefix("--")?.split(' ').next()?;
    Some(flags::variable_of(long))
}
