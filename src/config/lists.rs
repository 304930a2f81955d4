//! Lists of an operator: flags, and files with one entry on a line that are read at the start and again on SIGHUP.

use super::flags::{Flags, Relaying};
use super::hints;
use super::values::ClientNet;
use crate::domain::pattern::DomainPattern;
use crate::io::whole::{self, Kinds};
use crate::message::Mailbox;
use crate::policy::relaying::{self, KnownRecipient};
use crate::remote::route::RouteTable;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The largest file: some tens of millions of entries.
const LIST_BYTES_MAX: u64 = 1 << 30;
/// The longest line: a path and a domain with room for a remark.
const LINE_BYTES_MAX: u64 = 4096;
/// What is wrong with a file is said so often; then it is not read on.
const COMPLAINTS_MAX: usize = 100;

/// The flags that lists are made from.
#[derive(Clone, Debug)]
pub struct ListFlags {
    relaying: Relaying,
    mx_port: u16,
    /// Flags of files that were no regular ones at the start: they come through a pipe. A second look would find
    /// nothing there, and an empty list is a list.
    read_once: Vec<&'static str>,
}

impl ListFlags {
    pub(super) fn new(flags: &Flags) -> Self {
        let mut lists = ListFlags {
            relaying: flags.relaying.clone(),
            mx_port: u16::try_from(flags.delivery.mx_port).expect("bounded by its flag"),
            read_once: Vec::new(),
        };
        let is_no_file = |list: &ListFile<'_>| list.path.exists() && !list.path.is_file();
        let read_once = lists.all_files().filter(is_no_file).map(|list| list.flag);
        lists.read_once = read_once.collect();
        lists
    }

    pub fn relay_domains_file(&self) -> Option<ListFile<'_>> {
        ListFile::of("--relay-domains-file", &self.relaying.relay_domains_file)
    }

    pub fn recipients_file(&self) -> Option<ListFile<'_>> {
        ListFile::of("--recipients-file", &self.relaying.recipients_file)
    }

    pub fn routes_file(&self) -> Option<ListFile<'_>> {
        ListFile::of("--routes-file", &self.relaying.routes_file)
    }

    /// Those that are read again, or should be: one that is gone is to be complained of.
    pub fn files(&self) -> impl Iterator<Item = ListFile<'_>> {
        self.all_files()
            .filter(|list| !self.read_once.contains(&list.flag))
    }

    /// The others.
    pub fn read_once(&self) -> impl Iterator<Item = ListFile<'_>> {
        self.all_files()
            .filter(|list| self.read_once.contains(&list.flag))
    }

    fn all_files(&self) -> impl Iterator<Item = ListFile<'_>> {
        let all = [
            self.relay_domains_file(),
            self.recipients_file(),
            self.routes_file(),
        ];
        all.into_iter().flatten()
    }

    /// All lists again, in the running relay: all of them or none, since a relay domain may need its route.
    ///
    /// # Errors
    /// Whatever is wrong with any of them.
    pub fn read_again(&self) -> Result<(relaying::Settings, RouteTable), Vec<String>> {
        let mut complaints: Vec<String> = (self.read_once())
            .map(|list| format!("{list}: no regular file: it is read once"))
            .collect();
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let relaying = self.relaying(Kinds::RegularFile, &mut complaints);
        let routes = self.routes(Kinds::RegularFile, &mut complaints);
        match complaints.is_empty() {
            true => Ok((relaying, routes)),
            false => Err(complaints),
        }
    }

    /// What works but is probably not meant. `listens_outside`: other hosts can connect.
    pub fn hints(
        relaying: &relaying::Settings,
        routes: &RouteTable,
        listens_outside: bool,
    ) -> Vec<String> {
        hints::of_relaying(relaying, routes, listens_outside)
    }

    /// The routes of flags and file, each complaint with its place.
    pub fn routes(&self, kinds: Kinds, complaints: &mut Vec<String>) -> RouteTable {
        let mut table = RouteTable::new(self.mx_port);
        for text in self.relaying.route.iter().map(|text| text.trim()) {
            if let Err(error) = table.add_entry(text, "--route") {
                complaints.push(format!("--route: '{text}': {}", error.why));
            }
        }
        if let Some(file) = self.routes_file() {
            file.each_entry(kinds, complaints, |number, text| {
                let added = table.add_entry(text, &file.place(number));
                added.map_err(|error| error.why.to_string())
            });
        }
        table
    }

    /// Who may relay what by flags and files.
    pub fn relaying(&self, kinds: Kinds, complaints: &mut Vec<String>) -> relaying::Settings {
        let flags = &self.relaying;
        let mut domains = flags.relay_domain.clone();
        if let Some(file) = self.relay_domains_file() {
            file.each_entry(kinds, complaints, |_, text| {
                domains.push(text.parse()?);
                Ok(())
            });
        }
        relaying::Settings {
            trusted_nets: flags
                .relay_from
                .iter()
                .filter_map(|net| match net {
                    ClientNet::None => None,
                    ClientNet::Net(net) => Some(*net),
                })
                .collect(),
            domains,
            recipients: self
                .recipients_file()
                .map(|file| recipients(file, kinds, complaints)),
            postmaster: flags
                .postmaster
                .as_deref()
                .and_then(|text| postmaster(text, complaints)),
        }
    }
}

/// A file that holds a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListFile<'a> {
    /// The flag that names it.
    pub flag: &'static str,
    pub path: &'a Path,
}

impl<'a> ListFile<'a> {
    fn of(flag: &'static str, path: &'a Option<PathBuf>) -> Option<Self> {
        let path = path.as_deref()?;
        Some(ListFile { flag, path })
    }

    fn place(&self, line: usize) -> String {
        format!("{self}:{line}")
    }

    /// Hands its lines to `add`, with their numbers and without comments and blanks. What is wrong comes with its place;
    /// first, why the file is not read further: of many complaints only the first may be said.
    fn each_entry(
        &self,
        kinds: Kinds,
        complaints: &mut Vec<String>,
        mut add: impl FnMut(usize, &str) -> Result<(), String>,
    ) {
        let mut complaints_left = COMPLAINTS_MAX;
        let mut one_line = |number: usize, line: &str| {
            let text = without_comment(line).trim();
            if text.is_empty() {
                return Ok(());
            }
            if let Err(why) = add(number, text) {
                complaints.push(format!("{}: '{text}': {why}", self.place(number)));
                complaints_left -= 1;
                if complaints_left == 0 {
                    let why = format!("{COMPLAINTS_MAX} entries are wrong; it is not read further");
                    return Err(io::Error::other(why));
                }
            }
            Ok(())
        };
        if let Err(error) = each_line(self.path, kinds, &mut one_line) {
            complaints.insert(0, format!("{self}: {error}"));
        }
    }
}

fn each_line(
    path: &Path,
    kinds: Kinds,
    mut take: impl FnMut(usize, &str) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = BufReader::new(whole::open_blocking(path, kinds, LIST_BYTES_MAX)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut bounded = file.by_ref().take(LINE_BYTES_MAX);
        let length = bounded.read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        // First: the bound may fall within a character.
        if length as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            let why = format!("line {number} is longer than {LINE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let text = str::from_utf8(&line).map_err(|_| {
            let why = format!("line {number} is not UTF-8");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        take(number, text)?;
    }
    Ok(())
}

impl fmt::Display for ListFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.path.display())
    }
}

fn recipients(
    file: ListFile<'_>,
    kinds: Kinds,
    complaints: &mut Vec<String>,
) -> Vec<KnownRecipient> {
    let mut recipients = Vec::new();
    file.each_entry(kinds, complaints, |_, text| {
        recipients.push(text.parse()?);
        Ok(())
    });
    recipients
}

/// A comment begins with a `#` at the start of a word: within one it may belong to a local-part.
fn without_comment(line: &str) -> &str {
    let starts_word = |at: usize| at == 0 || line[..at].ends_with(char::is_whitespace);
    let comment = line
        .match_indices('#')
        .map(|(at, _)| at)
        .find(|at| starts_word(*at));
    &line[..comment.unwrap_or(line.len())]
}

pub fn unreadable_files(flags: &Flags) -> Vec<String> {
    let tls = &flags.tls;
    let certificates = tls.tls_cert.iter().map(|path| ("--tls-cert", path));
    let keys = tls.tls_key.iter().map(|path| ("--tls-key", path));
    let roots = tls.tls_ca.iter().map(|path| ("--tls-ca", path));
    certificates
        .chain(keys)
        .chain(roots)
        .filter_map(|(flag, path)| {
            let error = fs::File::open(path).err()?;
            Some(format!("{flag} {}: {error}", path.display()))
        })
        .collect()
}

fn postmaster(text: &str, complaints: &mut Vec<String>) -> Option<Mailbox> {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    let parts = text.split_once('@').filter(|(local_part, domain)| {
        let is_name = matches!(domain.parse(), Ok(DomainPattern::Exact(_)));
        !local_part.is_empty() && local_part.bytes().all(is_plain) && is_name
    });
    if parts.is_none() {
        complaints.push(format!(
            "--postmaster '{text}': an address, such as postmaster@example.com"
        ));
    }
    parts.map(|(local_part, domain)| Mailbox::new(local_part, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a list of these octets.
    fn complaints(content: &[u8]) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let list = ListFile {
            flag: "--list",
            path: file.path(),
        };
        let mut complaints = Vec::new();
        list.each_entry(Kinds::Any, &mut complaints, |_, text| match text {
            "bad" => Err("is bad".to_owned()),
            _ => Ok(()),
        });
        let place = format!("--list {}", file.path().display());
        let strip = |it: &String| it.strip_prefix(&place).expect("its place").to_owned();
        complaints.iter().map(strip).collect()
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_is_named() {
        let long = "ä".repeat(LINE_BYTES_MAX as usize);
        // The bound falls within a letter, or between two.
        for start in ["", "a"] {
            let text = format!("first\n{start}{long}\n");
            assert_eq!(
                complaints(text.as_bytes()),
                [": line 2 is longer than 4096 bytes"]
            );
        }
        assert_eq!(
            complaints(b"first\nsecond\nb\xfccher.test\n"),
            [": line 3 is not UTF-8"]
        );
        let longest = format!("{}\nbad\n", "a".repeat(LINE_BYTES_MAX as usize - 1));
        assert_eq!(complaints(longest.as_bytes()), [":2: 'bad': is bad"]);
    }

    #[test]
    fn a_list_in_which_all_is_wrong_is_not_read_to_its_end() {
        let found = complaints("bad\n".repeat(COMPLAINTS_MAX + 1).as_bytes());
        assert_eq!(found.len(), COMPLAINTS_MAX + 1);
        assert_eq!(found[0], ": 100 entries are wrong; it is not read further");
        assert_eq!(found[COMPLAINTS_MAX], ":100: 'bad': is bad");
    }

    #[test]
    fn comments_begin_with_a_word() {
        assert_eq!(without_comment("# all"), "");
        assert_eq!(without_comment("a.test [::1] # inside"), "a.test [::1] ");
        assert_eq!(without_comment("user#tag@a.test"), "user#tag@a.test");
    }
}
