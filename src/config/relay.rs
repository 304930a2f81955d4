//! Who may send what to whom: a table made from the flags, asked for every recipient.
//!
//! Pure and immutable, so all cores share one. A question costs a few hash look-ups and no
//! allocation while the address is lower-case ASCII.

use super::{DomainPattern, RelayConfig};
use crate::message::Mailbox;
use ipnet::IpNet;
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

/// The mailbox that every host takes mail for (RFC 5321 section 4.5.1).
const POSTMASTER: &str = "postmaster";

/// Why a recipient is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotRelayed {
    /// The client may not relay, and the domain is not a relay domain.
    Denied,
    /// A relay domain, but its recipients are known and this is none of them.
    UnknownRecipient,
    /// A local part without a domain, other than `Postmaster`.
    NoDomain,
}

impl NotRelayed {
    /// The reply code (RFC 5321 section 4.2).
    pub fn code(self) -> u16 {
        match self {
            NotRelayed::Denied => 554,
            NotRelayed::UnknownRecipient => 550,
            NotRelayed::NoDomain => 501,
        }
    }

    /// Class, subject and detail of the enhanced status (RFC 3463).
    pub fn status(self) -> (u8, u16, u16) {
        match self {
            NotRelayed::Denied => (5, 7, 1),
            NotRelayed::UnknownRecipient => (5, 1, 1),
            NotRelayed::NoDomain => (5, 1, 3),
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            NotRelayed::Denied => "Relaying denied",
            NotRelayed::UnknownRecipient => "No such recipient here",
            NotRelayed::NoDomain => "The recipient needs a domain",
        }
    }
}

/// The flags `--relay-from`, `--relay-domain` and `--recipients-file` as look-ups.
#[derive(Debug)]
pub struct RelayPolicy {
    trusted_nets: Vec<IpNet>,
    domains: HashSet<Box<str>>,
    /// Domains below which everything is a relay domain.
    parents: HashSet<Box<str>>,
    recipients: Option<Recipients>,
}

#[derive(Debug, Default)]
struct Recipients {
    /// `user@domain`, lower case.
    mailboxes: HashSet<Box<str>>,
    /// Domains of which every recipient is taken.
    whole_domains: HashSet<Box<str>>,
}

impl RelayPolicy {
    pub fn new(config: &RelayConfig) -> Self {
        let mut domains = HashSet::new();
        let mut parents = HashSet::new();
        for pattern in &config.domains {
            match pattern {
                DomainPattern::Exact(domain) => domains.insert(domain.clone()),
                DomainPattern::Below(domain) => parents.insert(domain.clone()),
            };
        }
        RelayPolicy {
            trusted_nets: config.trusted_nets.clone(),
            domains,
            parents,
            recipients: config.recipients.as_deref().map(Recipients::new),
        }
    }

    /// True if the client may relay anywhere. An IPv4 client of an IPv6 socket is an IPv4 client.
    pub fn is_trusted(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.trusted_nets.iter().any(|net| net.contains(&client))
    }

    /// True if anybody may send to `domain`, which may be upper case or end in a dot.
    pub fn is_relay_domain(&self, domain: &str) -> bool {
        let domain = lower_case(domain.strip_suffix('.').unwrap_or(domain));
        self.domains.contains(&*domain) || has_parent(&domain, &self.parents)
    }

    /// Whether this recipient is taken from a client that is `trusted` or not.
    ///
    /// A known recipient list binds trusted clients too: what is certain to be refused later is
    /// refused now. Postmaster is taken for every relay domain, listed or not, and without a
    /// domain from everybody (RFC 5321 section 4.5.1).
    ///
    /// # Errors
    /// [`NotRelayed`] holds the reply.
    pub fn recipient(&self, trusted: bool, forward_path: &Mailbox) -> Result<(), NotRelayed> {
        let domain = forward_path.domain();
        let is_postmaster = forward_path.local_part().eq_ignore_ascii_case(POSTMASTER);
        if domain.is_empty() {
            return if is_postmaster {
                Ok(())
            } else {
                Err(NotRelayed::NoDomain)
            };
        }
        if !self.is_relay_domain(domain) {
            return if trusted {
                Ok(())
            } else {
                Err(NotRelayed::Denied)
            };
        }
        match &self.recipients {
            Some(known) if !is_postmaster && !known.contain(forward_path) => {
                Err(NotRelayed::UnknownRecipient)
            }
            _ => Ok(()),
        }
    }
}

impl Recipients {
    /// `lines` are `user@domain`, or `@domain` for a domain as a whole.
    fn new(lines: &[String]) -> Self {
        let mut recipients = Recipients::default();
        for line in lines {
            let line = lower_case(line);
            match line.strip_prefix('@') {
                Some(domain) => recipients.whole_domains.insert(domain.into()),
                None => recipients.mailboxes.insert(line.as_ref().into()),
            };
        }
        recipients
    }

    fn contain(&self, mailbox: &Mailbox) -> bool {
        let text = mailbox.as_str();
        let text = lower_case(text.strip_suffix('.').unwrap_or(text));
        let domain = &text[mailbox_domain_start(&text)..];
        self.mailboxes.contains(&*text) || self.whole_domains.contains(domain)
    }
}

/// A quoted local part may hold an `@`, a domain never does.
fn mailbox_domain_start(text: &str) -> usize {
    text.rfind('@').map_or(text.len(), |at| at + 1)
}

fn has_parent(domain: &str, parents: &HashSet<Box<str>>) -> bool {
    !parents.is_empty()
        && domain
            .match_indices('.')
            .any(|(dot, _)| parents.contains(&domain[dot + 1..]))
}

fn lower_case(text: &str) -> Cow<'_, str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if text.bytes().all(is_lower) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(domains: &[&str], recipients: Option<&[&str]>) -> RelayPolicy {
        RelayPolicy::new(&RelayConfig {
            trusted_nets: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            domains: domains.iter().map(|text| text.parse().unwrap()).collect(),
            recipients: recipients.map(|lines| lines.iter().map(|&line| line.to_owned()).collect()),
            routes: Vec::new(),
        })
    }

    fn verdict(policy: &RelayPolicy, trusted: bool, address: &str) -> Result<(), NotRelayed> {
        let (local_part, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        policy.recipient(trusted, &Mailbox::new(local_part, domain))
    }

    #[test]
    fn strangers_reach_relay_domains_only() {
        let policy = policy(&["example.com"], None);
        assert_eq!(verdict(&policy, false, "a@example.com"), Ok(()));
        assert_eq!(verdict(&policy, false, "a@Example.COM."), Ok(()));
        for denied in [
            "a@other.test",
            "a@sub.example.com",
            "a@example.com.test",
            "a@[192.0.2.1]",
        ] {
            assert_eq!(
                verdict(&policy, false, denied),
                Err(NotRelayed::Denied),
                "{denied}"
            );
            assert_eq!(verdict(&policy, true, denied), Ok(()), "{denied}");
        }
    }

    #[test]
    fn a_percent_hack_is_a_local_part() {
        let policy = policy(&["example.com"], None);
        assert_eq!(verdict(&policy, false, "a%other.test@example.com"), Ok(()));
        assert_eq!(
            verdict(&policy, false, "\"a@example.com\"@other.test"),
            Err(NotRelayed::Denied)
        );
    }

    #[test]
    fn wildcards_match_below_at_any_depth() {
        let policy = policy(&["*.example.com"], None);
        assert!(policy.is_relay_domain("a.example.com"));
        assert!(policy.is_relay_domain("a.b.example.com"));
        assert!(!policy.is_relay_domain("example.com"));
        assert!(!policy.is_relay_domain("badexample.com"));
        assert!(!policy.is_relay_domain(""));
    }

    #[test]
    fn unknown_recipients_are_refused_at_once() {
        let known = ["User@example.com", "@whole.example"];
        let policy = policy(&["example.com", "whole.example"], Some(&known));
        assert_eq!(verdict(&policy, false, "uSER@Example.com"), Ok(()));
        assert_eq!(verdict(&policy, false, "any@whole.example"), Ok(()));
        assert_eq!(verdict(&policy, false, "Postmaster@example.com"), Ok(()));
        for trusted in [false, true] {
            assert_eq!(
                verdict(&policy, trusted, "nobody@example.com"),
                Err(NotRelayed::UnknownRecipient)
            );
        }
        assert_eq!(verdict(&policy, true, "any@elsewhere.test"), Ok(()));
    }

    #[test]
    fn postmaster_needs_no_domain() {
        let policy = policy(&[], None);
        assert_eq!(verdict(&policy, false, "PostMaster"), Ok(()));
        assert_eq!(verdict(&policy, true, "root"), Err(NotRelayed::NoDomain));
    }

    #[test]
    fn trusted_clients_by_network() {
        let policy = policy(&[], None);
        for (client, trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("::1", true),
            ("127.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(
                policy.is_trusted(client.parse().unwrap()),
                trusted,
                "{client}"
            );
        }
    }
}
