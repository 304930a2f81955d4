//! Addresses that follow from the message number, so that nobody has to store them: the source
//! writes them, and the ledger knows them again when they arrive.

use std::io::Write;

use crate::options::SourceOptions;

/// Which recipients message `n` of a run has.
#[derive(Clone, Debug)]
pub struct Addressing {
    /// Tells the messages of this run from those of any other.
    pub run: String,
    /// Recipients of each message.
    pub recipients: u32,
    domains: u64,
    template: Vec<Part>,
    from_domain: String,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    Message,
    Recipient,
    Domain,
}

impl Addressing {
    /// `run` is made of letters and digits. Fails if two recipients of a message would be the same.
    pub fn new(run: &str, options: &SourceOptions) -> Result<Self, String> {
        let template = parse_template(&options.rcpt, run)?;
        let distinct = template.iter().any(|part| matches!(part, Part::Recipient));
        if options.recipients > 1 && !distinct {
            return Err("--rcpt needs {i} when a message has several recipients".into());
        }
        Ok(Self {
            run: run.to_string(),
            recipients: options.recipients,
            domains: options.domains,
            template,
            from_domain: options.from_domain.clone(),
        })
    }

    /// Appends the address of recipient `i` (from 0) of message `n`.
    pub fn write_recipient(&self, n: u64, i: u32, out: &mut Vec<u8>) {
        for part in &self.template {
            // Writing to a Vec cannot fail.
            let _ = match part {
                Part::Literal(text) => out.write_all(text.as_bytes()),
                Part::Message => write!(out, "{n}"),
                Part::Recipient => write!(out, "{i}"),
                Part::Domain => write!(out, "{:04}", self.domain(n, i)),
            };
        }
    }

    /// Recipients take the domains in turn, across messages.
    fn domain(&self, n: u64, i: u32) -> u64 {
        n.wrapping_mul(u64::from(self.recipients))
            .wrapping_add(u64::from(i))
            % self.domains
    }

    /// Which recipient of message `n` this is. `hint` is looked at first: recipients usually arrive
    /// in the order in which they were given.
    pub fn recipient_index(&self, n: u64, address: &str, hint: u32) -> Option<u32> {
        let mut expected = Vec::with_capacity(64);
        (0..self.recipients)
            .map(|step| (hint % self.recipients + step) % self.recipients)
            .find(|&i| {
                expected.clear();
                self.write_recipient(n, i, &mut expected);
                expected.eq_ignore_ascii_case(address.as_bytes())
            })
    }

    /// Appends the reverse-path of message `n`; a bounce to it can be told apart from all others.
    pub fn write_sender(&self, n: u64, out: &mut Vec<u8>) {
        let _ = write!(out, "l-{}-{n}@{}", self.run, self.from_domain);
    }
}

/// The run and the message number behind an address that `write_sender` made.
pub fn parse_sender(address: &str) -> Option<(&str, u64)> {
    let (local, _) = address.split_once('@')?;
    let (run, n) = local.strip_prefix("l-")?.split_once('-')?;
    Some((run, n.parse().ok()?))
}

fn parse_template(template: &str, run: &str) -> Result<Vec<Part>, String> {
    if !template.contains('@') || template.bytes().any(|b| b <= b' ' || b"<>\"".contains(&b)) {
        return Err(format!("--rcpt {template:?} does not make an address"));
    }
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((literal, tail)) = rest.split_once('{') {
        let (name, tail) = tail.split_once('}').ok_or("--rcpt has a { without }")?;
        parts.push(Part::Literal(literal.to_string()));
        parts.push(match name {
            "n" => Part::Message,
            "i" => Part::Recipient,
            "d" => Part::Domain,
            "run" => Part::Literal(run.to_string()),
            _ => return Err(format!("--rcpt does not know {{{name}}}")),
        });
        rest = tail;
    }
    parts.push(Part::Literal(rest.to_string()));
    Ok(parts)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        source: SourceOptions,
    }

    /// Source options as the command line would give them.
    pub fn source_options(flags: &str) -> SourceOptions {
        let words = std::iter::once("source").chain(flags.split_whitespace());
        Flags::try_parse_from(words).unwrap().source
    }

    #[test]
    fn an_address_is_known_again() {
        let options = source_options("--recipients 3 --domains 2");
        let addressing = Addressing::new("r1", &options).unwrap();
        let mut address = Vec::new();
        addressing.write_recipient(1, 2, &mut address);
        assert_eq!(address, b"user2@d0001.test");
        let find = |text| addressing.recipient_index(1, text, 0);
        assert_eq!(find("USER2@d0001.test"), Some(2));
        assert_eq!(find("user2@d0000.test"), None);
    }

    #[test]
    fn a_bounce_leads_back_to_its_message() {
        let addressing = Addressing::new("ab12", &source_options("")).unwrap();
        let mut sender = Vec::new();
        addressing.write_sender(77, &mut sender);
        let sender = String::from_utf8(sender).unwrap();
        assert_eq!(parse_sender(&sender), Some(("ab12", 77)));
        assert_eq!(parse_sender("somebody@else.test"), None);
    }

    #[test]
    fn templates_that_cannot_work_are_refused() {
        let new = |flags| Addressing::new("r", &source_options(flags));
        assert!(new("--rcpt nobody").is_err());
        assert!(new("--rcpt a@{x}.test").is_err());
        assert!(new("--rcpt a@{d.test").is_err());
        assert!(new("--rcpt a@d{d}.test --recipients 2").is_err());
        assert!(new("--rcpt a{n}@d{d}.test").is_ok());
    }
}
