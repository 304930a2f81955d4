//! Files of flags: `@FILE` on the command line stands for the flags in FILE.
//!
//! One flag per line, as on the command line: `--flag value` or `--flag=value`. The value is the
//! rest of the line, so spaces need no quotes; quotes around the whole value are taken off, so
//! that a line copied from a shell works. `#` at the start of a line or after a space begins a
//! comment. A line `@OTHER` includes another file; relative names start from the including file.
//!
//! Flags of files belong to the relay: beside `spool list` they stand before it, wherever the file
//! was named.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Begins an argument that names a file of flags.
const PREFIX: &str = "@";

/// Files may include files this deep: enough for any order, and an end to a circle.
const DEPTH_MAX: usize = 8;

/// Begins a file that some editors write.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The command and what it can do: what comes behind is for it, except files.
const ACTION: (&str, [&str; 4]) = ("spool", ["list", "verify", "export", "import"]);

/// The command line with its files of flags written out.
#[derive(Default)]
pub struct Expanded {
    pub arguments: Vec<OsString>,
    /// Which file gave a flag, by the flag's name without the dashes; the last giver counts.
    pub given_in: HashMap<String, PathBuf>,
    /// Every line of a file that gave a flag, in order.
    pub lines: Vec<Line>,
    /// The action and its arguments, which stand at the end.
    action: Vec<OsString>,
}

/// A line of a file of flags.
#[derive(Debug)]
pub struct Line {
    pub place: Place,
    /// One or two.
    pub arguments: Vec<String>,
}

impl Line {
    /// The flag's name without the dashes, if the line begins with a flag.
    pub fn flag(&self) -> Option<&str> {
        flag_name(self.arguments.first()?)
    }

    pub fn value(&self) -> Option<&str> {
        let first = self.arguments.first()?;
        let behind = first.split_once('=').map(|(_, value)| value);
        self.arguments.get(1).map(String::as_str).or(behind)
    }
}

/// Where something stands: `FILE:LINE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub path: PathBuf,
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// Writes out every `@FILE`. The first argument is the program's name and stays.
///
/// # Errors
/// Which file cannot be read, or which line not understood.
pub fn expand(arguments: impl IntoIterator<Item = OsString>) -> Result<Expanded, String> {
    let mut expanded = Expanded::default();
    let mut arguments = arguments.into_iter();
    expanded.arguments.extend(arguments.next());
    let arguments: Vec<OsString> = arguments.collect();
    let action = action_at(&arguments);
    for (at, argument) in arguments.into_iter().enumerate() {
        match file_named(&argument) {
            Some(path) => expanded.include(path, "", DEPTH_MAX)?,
            None if action == Some(at) => expanded.action.push(argument),
            None => expanded.take_own(argument),
        }
    }
    expanded.arguments.append(&mut expanded.action);
    Ok(expanded)
}

fn file_named(argument: &OsStr) -> Option<&Path> {
    let path = argument.as_bytes().strip_prefix(PREFIX.as_bytes())?;
    Some(Path::new(OsStr::from_bytes(path)))
}

/// Where the action begins: its word, with one of its own behind it, files aside.
fn action_at(arguments: &[OsString]) -> Option<usize> {
    let (word, verbs) = ACTION;
    arguments.iter().enumerate().position(|(at, argument)| {
        let mut behind = arguments[at + 1..]
            .iter()
            .filter(|other| file_named(other).is_none());
        let next = behind.next();
        argument == word && next.is_some_and(|next| verbs.iter().any(|verb| next == verb))
    })
}

impl Expanded {
    /// `from` says where the file is named, with a colon behind it; empty: on the command line.
    fn include(&mut self, path: &Path, from: &str, depth_left: usize) -> Result<(), String> {
        let shown = path.display();
        if depth_left == 0 {
            return Err(format!(
                "{from}@{shown}: files of flags include each other more than {DEPTH_MAX} deep"
            ));
        }
        let bytes = std::fs::read(path).map_err(|error| format!("{from}@{shown}: {error}"))?;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let place = Place {
                path: path.to_owned(),
                line: index + 1,
            };
            let line = std::str::from_utf8(line)
                .map_err(|_| format!("{place}: this line is no text in UTF-8"))?;
            let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
            let parts = arguments_of(line).map_err(|complaint| format!("{place}: {complaint}"))?;
            match parts.as_slice() {
                [] => {}
                [only] if only.starts_with(PREFIX) => {
                    let other = path.with_file_name(&only[PREFIX.len()..]);
                    self.include(&other, &format!("{place}: "), depth_left - 1)?;
                }
                parts => self.take(parts, place),
            }
        }
        Ok(())
    }

    fn take(&mut self, parts: &[&str], place: Place) {
        if let Some(name) = parts.first().and_then(|part| flag_name(part)) {
            self.given_in.insert(name.to_owned(), place.path.clone());
        }
        self.arguments.extend(parts.iter().map(OsString::from));
        let arguments = parts.iter().map(|part| (*part).to_owned()).collect();
        self.lines.push(Line { place, arguments });
    }

    fn take_own(&mut self, argument: OsString) {
        if let Some(name) = argument.to_str().and_then(flag_name) {
            self.given_in.remove(name);
        }
        match self.action.is_empty() {
            true => self.arguments.push(argument),
            false => self.action.push(argument),
        }
    }
}

fn flag_name(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--")?;
    Some(flag.split_once('=').map_or(flag, |(name, _)| name))
}

/// The one or two arguments on a line; none if it is empty or a comment.
fn arguments_of(line: &str) -> Result<Vec<&str>, &'static str> {
    let line = without_comment(line)?.trim();
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let name_end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (name, value) = line.split_at(name_end);
    Ok(match value.trim() {
        "" => vec![name],
        value => vec![name, without_quotes(value)],
    })
}

fn without_comment(line: &str) -> Result<&str, &'static str> {
    let mut quote = None;
    let mut after_space = true;
    for (position, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if after_space => return Ok(&line[..position]),
            (None, '"' | '\'') if after_space => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        after_space = c.is_whitespace();
    }
    match quote {
        None => Ok(line),
        Some(_) => Err("a quote is opened and not closed"),
    }
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

    fn arguments_of(line: &str) -> Vec<&str> {
        super::arguments_of(line).unwrap()
    }

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

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flags");
        let complaint = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let words = ["ringpost", &format!("@{}", path.display())];
            expand_words(&words).err().unwrap()
        };
        let third = |text: &str| text.starts_with(&format!("{}:3: ", path.display()));
        assert!(third(&complaint(b"\n# ours\n--banner \"ESMTP\n")));
        assert!(third(&complaint(b"--no-pin\r\n\r\n--banner \xe4\r\n")));
        let missing = complaint(b"\n\n@other\n");
        assert!(third(&missing), "{missing}");
        assert!(missing.contains("other: No such file"), "{missing}");
    }

    #[test]
    fn what_an_editor_writes_before_the_first_line_is_no_flag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flags");
        fs::write(&path, "\u{feff}--no-pin\r\n--max-hops 50\r\n").unwrap();
        let expanded = expand_words(&["ringpost", &format!("@{}", path.display())]).unwrap();
        let expected = ["ringpost", "--no-pin", "--max-hops", "50"];
        assert_eq!(expanded.arguments, expected);
    }

    #[test]
    fn a_file_named_behind_an_action_stands_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flags");
        fs::write(&path, "--spool /a\n").unwrap();
        let file = format!("@{}", path.display());
        let expanded = expand_words(&["ringpost", "spool", "list", &file]).unwrap();
        assert_eq!(
            expanded.arguments,
            ["ringpost", "--spool", "/a", "spool", "list"]
        );
    }
}
