//! Files of flags: `@FILE` on the command line stands for the flags in FILE.
//!
//! One flag per line, as on the command line: `--flag value` or `--flag=value`. The value is the
//! rest of the line, so spaces need no quotes; quotes around the whole value are taken off, so
//! that a line copied from a shell works. `#` at the start of a line or after a space begins a
//! comment. A line `@OTHER` includes another file; relative names start from the including file.

use argfile::{Argument, PREFIX};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Files may include files this deep: enough for any order, and an end to a circle.
const DEPTH_MAX: usize = 8;

/// The command line with its files of flags written out.
#[derive(Default)]
pub struct Expanded {
    pub arguments: Vec<OsString>,
    /// Which file gave a flag, by the flag's name without the dashes; the last giver counts.
    pub given_in: HashMap<String, PathBuf>,
}

/// Writes out every `@FILE`. The first argument is the program's name and stays.
pub fn expand(arguments: impl IntoIterator<Item = OsString>) -> Result<Expanded, String> {
    let mut expanded = Expanded::default();
    let mut arguments = arguments.into_iter();
    expanded.arguments.extend(arguments.next());
    for argument in arguments {
        match Argument::parse(argument, PREFIX) {
            Argument::PassThrough(argument) => expanded.take_own(argument),
            Argument::Path(path) => expanded.include(&path, DEPTH_MAX)?,
        }
    }
    Ok(expanded)
}

impl Expanded {
    fn include(&mut self, path: &Path, depth_left: usize) -> Result<(), String> {
        let shown = path.display();
        if depth_left == 0 {
            return Err(format!(
                "@{shown}: files of flags include each other more than {DEPTH_MAX} deep"
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("@{shown}: {error}"))?;
        for line in text.lines() {
            match arguments_of(line).as_slice() {
                [only] if only.starts_with(PREFIX) => {
                    let other = path.with_file_name(&only[PREFIX.len_utf8()..]);
                    self.include(&other, depth_left - 1)?;
                }
                parts => self.take(parts, path),
            }
        }
        Ok(())
    }

    fn take(&mut self, parts: &[&str], path: &Path) {
        if let Some(name) = parts.first().and_then(|part| flag_name(part)) {
            self.given_in.insert(name.to_owned(), path.to_owned());
        }
        self.arguments.extend(parts.iter().map(OsString::from));
    }

    fn take_own(&mut self, argument: OsString) {
        if let Some(name) = argument.to_str().and_then(flag_name) {
            self.given_in.remove(name);
        }
        self.arguments.push(argument);
    }
}

fn flag_name(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--")?;
    Some(flag.split_once('=').map_or(flag, |(name, _)| name))
}

/// The one or two arguments on a line; none if it is empty or a comment.
fn arguments_of(line: &str) -> Vec<&str> {
    let line = without_comment(line).trim();
    if line.is_empty() {
        return Vec::new();
    }
    let name_end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (name, value) = line.split_at(name_end);
    match value.trim() {
        "" => vec![name],
        value => vec![name, without_quotes(value)],
    }
}

fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut after_space = true;
    for (position, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if after_space => return &line[..position],
            (None, '"' | '\'') if after_space => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        after_space = c.is_whitespace();
    }
    line
}

fn without_quotes(value: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_of_a_file() {
        assert_eq!(
            arguments_of("--listen 0.0.0.0:25"),
            ["--listen", "0.0.0.0:25"]
        );
        assert_eq!(arguments_of("  --max-hops=50  "), ["--max-hops=50"]);
        assert_eq!(arguments_of("--no-pin # shared host"), ["--no-pin"]);
        assert_eq!(
            arguments_of("--route '*=[192.0.2.1]'"),
            ["--route", "*=[192.0.2.1]"]
        );
        assert_eq!(
            arguments_of("--banner \"ESMTP # 1\" # why not"),
            ["--banner", "ESMTP # 1"]
        );
        assert_eq!(
            arguments_of("--banner ESMTP at your service"),
            ["--banner", "ESMTP at your service"]
        );
        assert_eq!(arguments_of("--route a#b=c"), ["--route", "a#b=c"]);
        for nothing in ["", "   ", "# comment", "  # --no-pin"] {
            assert!(arguments_of(nothing).is_empty(), "{nothing:?}");
        }
    }

    fn expand_words(words: &[&str]) -> Result<Expanded, String> {
        expand(words.iter().map(OsString::from))
    }

    #[test]
    fn a_file_may_include_its_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("main");
        fs::write(&main, "--max-hops 50\n@more\n").unwrap();
        fs::write(dir.path().join("more"), "--no-pin\n").unwrap();
        let words = ["ringpost", "--check", &format!("@{}", main.display())];
        let expanded = expand_words(&words).unwrap();
        assert_eq!(
            expanded.arguments,
            ["ringpost", "--check", "--max-hops", "50", "--no-pin"]
        );
        assert_eq!(expanded.given_in["max-hops"], main);
        assert_eq!(expanded.given_in["no-pin"], dir.path().join("more"));
    }

    #[test]
    fn a_circle_of_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("circle");
        fs::write(&path, "@circle\n").unwrap();
        let refusal = expand_words(&["ringpost", &format!("@{}", path.display())]);
        assert!(refusal.err().unwrap().contains("include each other"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let refusal = expand_words(&["ringpost", "@/nonexistent/flags"]).err();
        assert!(refusal.unwrap().starts_with("@/nonexistent/flags: "));
    }
}
