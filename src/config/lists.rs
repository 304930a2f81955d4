//! Lists of an operator: flags, and files with one entry on a line that are read at the start and again on SIGHUP.

use super::flags::{Flags, Relaying};
use super::hints;
use super::values::ClientNet;
use crate::domain::pattern::DomainPattern;
use crate::message::Mailbox;
use crate::policy::relaying::{self, KnownRecipient};
use crate::remote::route::RouteTable;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The flags that lists are made from.
#[derive(Clone, Debug)]
pub struct ListFlags {
    relaying: Relaying,
    mx_port: u16,
}

impl ListFlags {
    pub(super) fn new(flags: &Flags) -> Self {
        ListFlags {
            relaying: flags.relaying.clone(),
            mx_port: u16::try_from(flags.delivery.mx_port).expect("bounded by its flag"),
        }
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
        self.all_files().filter(|list| !list.is_read_once())
    }

    /// The others.
    pub fn read_once(&self) -> impl Iterator<Item = ListFile<'_>> {
        self.all_files().filter(ListFile::is_read_once)
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
        let relaying = self.relaying(&mut complaints);
        let routes = self.routes(&mut complaints);
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
    pub fn routes(&self, complaints: &mut Vec<String>) -> RouteTable {
        let mut table = RouteTable::new(self.mx_port);
        let of_flags = self.relaying.route.iter();
        let mut routes: Vec<(String, String)> = of_flags
            .map(|text| ("--route".to_owned(), text.trim().to_owned()))
            .collect();
        if let Some(path) = &self.relaying.routes_file {
            routes.extend(lines("--routes-file", path, complaints));
        }
        for (source, text) in &routes {
            if let Err(error) = table.add_entry(text, source) {
                complaints.push(format!("{source}: '{text}': {}", error.why));
            }
        }
        table
    }

    /// Who may relay what by flags and files.
    pub fn relaying(&self, complaints: &mut Vec<String>) -> relaying::Settings {
        let flags = &self.relaying;
        let mut domains = flags.relay_domain.clone();
        if let Some(path) = &flags.relay_domains_file {
            for (source, text) in lines("--relay-domains-file", path, complaints) {
                match text.parse() {
                    Ok(domain) => domains.push(domain),
                    Err(allowed) => complaints.push(format!("{source}: '{text}': {allowed}")),
                }
            }
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
            recipients: flags
                .recipients_file
                .as_ref()
                .map(|path| recipients(path, complaints)),
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

    /// It comes through a pipe. A second look would find nothing there, and an empty list is a list.
    fn is_read_once(&self) -> bool {
        self.path.exists() && !self.path.is_file()
    }
}

impl fmt::Display for ListFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.path.display())
    }
}

fn recipients(path: &Path, complaints: &mut Vec<String>) -> Vec<KnownRecipient> {
    let mut recipients = Vec::new();
    for (source, text) in lines("--recipients-file", path, complaints) {
        match text.parse() {
            Ok(recipient) => recipients.push(recipient),
            Err(allowed) => complaints.push(format!("{source}: '{text}': {allowed}")),
        }
    }
    recipients
}

/// The lines of a file without comments and blanks, each with its place.
fn lines(flag: &str, path: &Path, complaints: &mut Vec<String>) -> Vec<(String, String)> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            complaints.push(format!("{flag} {}: {error}", path.display()));
            return Vec::new();
        }
    };
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            let place = format!("{flag} {}:{}", path.display(), index + 1);
            (place, without_comment(line).trim().to_owned())
        })
        .filter(|(_, line)| !line.is_empty())
        .collect()
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

    #[test]
    fn comments_begin_with_a_word() {
        assert_eq!(without_comment("# all"), "");
        assert_eq!(without_comment("a.test [::1] # inside"), "a.test [::1] ");
        assert_eq!(without_comment("user#tag@a.test"), "user#tag@a.test");
    }
}
