//! Addresses that follow from the message number, so that nobody has to store them: the source
//! writes them, and the ledger knows them again when they arrive.

use std::io::Write;

use crate::options::source::SourceOptions;

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

impl Addressing {
    /// The recipient domains as names. Fails if they depend on more than the domain's number.
    pub fn domain_names(&self) -> Result<DomainNames, String> {
        let mut names = DomainNames {
            prefix: String::new(),
            suffix: None,
            count: self.domains,
            sender: self.from_domain.to_ascii_lowercase(),
        };
        let at = |part: &Part| matches!(part, Part::Literal(text) if text.contains('@'));
        let from = self.template.iter().rposition(at).unwrap_or(0);
        for part in &self.template[from..] {
            match (part, &mut names.suffix) {
                (Part::Literal(text), suffix) => {
                    let text = text.rsplit_once('@').map_or(&**text, |(_, domain)| domain);
                    suffix.as_mut().unwrap_or(&mut names.prefix).push_str(text);
                }
                (Part::Domain, None) => names.suffix = Some(String::new()),
                _ => return Err("behind its @, --rcpt may have one {d} and nothing else".into()),
            }
        }
        names.prefix.make_ascii_lowercase();
        names
            .suffix
            .iter_mut()
            .for_each(|s| s.make_ascii_lowercase());
        Ok(names)
    }
}

/// The names of the recipient domains, and that of the senders. Case does not matter.
#[derive(Clone, Debug)]
pub struct DomainNames {
    prefix: String,
    /// What follows the number; `None`: there is no number, all recipients are in one domain.
    suffix: Option<String>,
    count: u64,
    sender: String,
}

/// Whose domain it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// That of recipients, by its number.
    Recipient(u64),
    /// That of the reverse-paths, to which bounces go.
    Sender,
}

impl DomainNames {
    /// Recipient domains.
    pub fn count(&self) -> u64 {
        match self.suffix {
            Some(_) => self.count,
            None => 1,
        }
    }

    /// The domain of this name, which may end with a dot; `None`: there is none.
    pub fn find(&self, name: &str) -> Option<Domain> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let number = match &self.suffix {
            None => (name == self.prefix).then_some(0),
            Some(suffix) => name
                .strip_prefix(&self.prefix)
                .and_then(|rest| rest.strip_suffix(&**suffix))
                .and_then(|digits| parse_number(digits).filter(|&number| number < self.count)),
        };
        let sender = || (name == self.sender).then_some(Domain::Sender);
        number.map(Domain::Recipient).or_else(sender)
    }
}

/// The number of a domain, only in the form in which it is written.
fn parse_number(digits: &str) -> Option<u64> {
    let number = digits.parse().ok()?;
    (format!("{number:04}") == digits).then_some(number)
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
            // {n} is the older name, which a help text cannot show: it is a line break there.
            "m" | "n" => Part::Message,
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
    fn a_domain_is_known_by_its_name() {
        let names = |flags| {
            Addressing::new("r", &source_options(flags))
                .unwrap()
                .domain_names()
        };
        let many = names("--domains 20000 --rcpt u{d}@x.d{d}.Test").unwrap();
        assert_eq!(many.count(), 20_000);
        assert_eq!(many.find("X.D0007.test."), Some(Domain::Recipient(7)));
        assert_eq!(many.find("x.d12345.test"), Some(Domain::Recipient(12_345)));
        assert_eq!(many.find("Source.test"), Some(Domain::Sender));
        for strange in [
            "x.d7.test",
            "x.d+007.test",
            "x.d20000.test",
            "d0007.test",
            "",
            ".",
        ] {
            assert_eq!(many.find(strange), None, "{strange}");
        }
        let one = names("--domains 5 --rcpt u{i}.{d}@only.test").unwrap();
        assert_eq!(
            (one.count(), one.find("only.test")),
            (1, Some(Domain::Recipient(0)))
        );
        assert!(names("--rcpt u@m{n}.test").is_err());
        assert!(names("--rcpt u@{d}.{d}.test").is_err());
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
