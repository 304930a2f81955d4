//! Who gave the flags that a complaint is about: lines of files, and variables.

use super::argument_file::Line;
use super::flags;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Who has given flags, apart from the command line.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<[Giver]>);

/// A line or a variable that has given a flag.
#[derive(Clone, Debug)]
struct Giver {
    /// As people know it.
    place: String,
    /// Without the dashes.
    flag: String,
    value: Option<String>,
}

impl Places {
    /// Of these `lines` and the variables that count. `given_in`: the files that flags have their last value from.
    pub fn new(
        lines: Vec<Line>,
        given_in: &HashMap<String, PathBuf>,
        matches: &ArgMatches,
    ) -> Self {
        let command = flags::command();
        let repeats = |flag: &str| {
            let named = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(flag));
            named.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append))
        };
        let mut givers: Vec<Giver> = Vec::new();
        for line in lines {
            let Some(flag) = line.flag() else {
                continue;
            };
            if !repeats(flag) {
                // The last one counts.
                givers.retain(|before| before.flag != flag);
                if !given_in.contains_key(flag) {
                    continue;
                }
            }
            givers.push(Giver {
                place: line.place.to_string(),
                flag: flag.to_owned(),
                value: line.value().map(str::to_owned),
            });
        }
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            let (Some(flag), Some(ValueSource::EnvVariable)) =
                (arg.get_long(), matches.value_source(id))
            else {
                continue;
            };
            let values = matches.get_raw(id).into_iter().flatten();
            givers.extend(values.map(|value| Giver {
                place: flags::variable_of(flag),
                flag: flag.to_owned(),
                value:
                    (arg.get_action().takes_values()).then(|| value.to_string_lossy().into_owned()),
            }));
        }
        Places(givers.into())
    }

    /// A complaint with the places behind it that it is about: who gave the flags that it names, each with
    /// the value that is complained of if it is named; where it names no flag, who gave a value in it.
    pub fn with_places(&self, complaint: String) -> String {
        let has_value = |giver: &Giver| {
            let value = giver.value.as_deref();
            value.is_some_and(|value| holds(&complaint, value))
        };
        let named = |giver: &Giver| names(&complaint, &giver.flag);
        let names_any = self.0.iter().any(named);
        let is_meant = |giver: &&Giver| match names_any {
            true => {
                let mut of_flag = self.0.iter().filter(|other| other.flag == giver.flag);
                named(giver) && (has_value(giver) || !of_flag.any(has_value))
            }
            false => has_value(giver),
        };
        let mut places: Vec<&str> = (self.0.iter())
            .filter(is_meant)
            .map(|giver| giver.place.as_str())
            .collect();
        places.dedup();
        match places.is_empty() {
            true => complaint,
            false => format!("{complaint} ({})", places.join(", ")),
        }
    }
}

/// True if the value stands in the text as a word of its own.
fn holds(text: &str, value: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !value.is_empty()
        && text.match_indices(value).any(|(at, _)| {
            let (before, behind) = (&text[..at], &text[at + value.len()..]);
            !is_part(before.chars().next_back()) && !is_part(behind.chars().next())
        })
}

/// True if the flag stands in the text, and not as the beginning of another one.
fn names(text: &str, flag: &str) -> bool {
    let flag = format!("--{flag}");
    text.match_indices(&flag).any(|(at, _)| {
        let next = text[at + flag.len()..].chars().next();
        next.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-')
    })
}

#[cfg(test)]
mod tests {
    use super::super::argument_file;
    use super::*;
    use std::ffi::OsString;
    use std::fs;

    #[test]
    fn a_complaint_is_followed_by_the_lines_that_gave_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flags");
        let text = "--route a.test=b\n--route c.test=d\n--retry-min 1h\n--retry-min 2h\n--no-pin\n";
        fs::write(&path, text).unwrap();
        let words = ["ringpost".to_owned(), format!("@{}", path.display())];
        let expanded = argument_file::expand(words.map(OsString::from)).unwrap();
        let matches = flags::command().get_matches_from(&expanded.arguments);
        let places = Places::new(expanded.lines, &expanded.given_in, &matches);
        let placed = |complaint: &str| places.with_places(complaint.to_owned());
        let of = |lines: &[u32]| {
            let places = lines
                .iter()
                .map(|line| format!("{}:{line}", path.display()));
            format!(" ({})", places.collect::<Vec<_>>().join(", "))
        };
        assert!(placed("--route: 'c.test=d': no").ends_with(&of(&[2])));
        assert!(placed("--route: no").ends_with(&of(&[1, 2])));
        assert!(placed("--retry-min 2h is more than --retry-max 1h").ends_with(&of(&[4])));
        assert!(placed("--retry-min 120m and --no-pin").ends_with(&of(&[4, 5])));
        assert!(placed("d has no address").ends_with("d has no address"));
        assert!(placed("'c.test=d' has no address").ends_with(&of(&[2])));
        assert_eq!(placed("--max-hops: no"), "--max-hops: no");
    }
}
