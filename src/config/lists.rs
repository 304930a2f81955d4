//! Files with one entry on a line, and others that flags name.

use super::flags::Flags;
use crate::policy::relaying::KnownRecipient;
use std::fs;
use std::path::Path;

pub fn recipients(path: &Path, complaints: &mut Vec<String>) -> Vec<KnownRecipient> {
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
pub fn lines(flag: &str, path: &Path, complaints: &mut Vec<String>) -> Vec<(String, String)> {
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
