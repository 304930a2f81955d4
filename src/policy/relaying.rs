//! Who may send what to whom: a table made from the flags, asked for every recipient.
//!
//! Pure and immutable, so all cores share one. A question costs a few hash look-ups and no
//! allocation while the address is lower-case ASCII.

use crate::domain::pattern::{DomainPattern, recipient_domain};
use crate::domain::{Domain, DomainMap};
use crate::message::{Mailbox, unquoted};
use crate::policy::list_change::ListChange;
use crate::smtp::refusal::Refusal;
use crate::smtp::refusals;
use ipnet::IpNet;
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The mailbox that every host takes mail for (RFC 5321 section 4.5.1).
const POSTMASTER: &str = "postmaster";

/// Who may relay what.
#[derive(Clone, Default, Debug)]
pub struct Settings {
    /// Clients that may relay anywhere.
    pub trusted_nets: Vec<IpNet>,
    /// Domains that anybody may send to.
    pub domains: Vec<DomainPattern>,
    /// `None`: every recipient of a relay domain is taken.
    pub recipients: Option<Vec<KnownRecipient>>,
    /// Who gets mail to the bare `Postmaster` (RFC 5321 section 4.5.1).
    pub postmaster: Option<Mailbox>,
}

/// Recipients of a relay domain that are known: one, or all of a domain.
///
/// Text form `user@example.com` or `@example.com`. Local-parts are compared without regard to case
/// and quoting. That is coarser than RFC 5321 section 2.4 allows, but no host of today tells
/// `User` from `user`, and a list must not refuse what the host behind it would take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownRecipient {
    /// What the local-part means, [`folded`]; `None`: all of the domain.
    pub local_part: Option<Box<str>>,
    pub domain: Domain<'static>,
}

impl FromStr for KnownRecipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "expected an address (user@example.com), or @example.com for all of it";
        // A quoted local-part may hold an '@', a domain never does.
        let (local_part, name) = text.rsplit_once('@').ok_or(wrong)?;
        let domain = recipient_domain(name).map_err(|error| format!("{error}; {wrong}"))?;
        if let Some(character) = first_invisible(local_part) {
            let name = character.escape_unicode();
            return Err(format!("{name} in the local-part cannot be seen"));
        }
        if !is_local_part(local_part) {
            return Err(wrong.to_owned());
        }
        let local_part = match local_part {
            "" => None,
            local_part => Some(folded(&unquoted(local_part)).into()),
        };
        Ok(KnownRecipient { local_part, domain })
    }
}

/// Empty, a quoted string, or a text without what would have to be quoted.
fn is_local_part(text: &str) -> bool {
    let Some(quoted) = text.strip_prefix('"') else {
        return !text.contains(['"', '\\', '@']) && !text.contains(char::is_whitespace);
    };
    let mut escaped = false;
    let end = quoted.find(|character| {
        let is_end = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        is_end
    });
    end.is_some_and(|end| end + 1 == quoted.len())
}

/// Format characters (Unicode, category Cf) without a shape of their own, and what is drawn as nothing.
const UNSEEN: [RangeInclusive<char>; 12] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{e0000}'..='\u{e007f}',
];

/// They join or part the letters of some scripts; within a word they belong to its spelling (RFC 8264 section 9.8).
const JOINERS: RangeInclusive<char> = '\u{200c}'..='\u{200d}';

/// A character that no operator sees in the list, and no client will send: it came along with a copied address.
fn first_invisible(local_part: &str) -> Option<char> {
    let mut before = None;
    let mut characters = local_part.chars().peekable();
    while let Some(character) = characters.next() {
        let is_letter = |it: Option<char>| it.is_some_and(|it| !it.is_ascii() && !is_unseen(it));
        let joins = JOINERS.contains(&character)
            && is_letter(before)
            && is_letter(characters.peek().copied());
        if is_unseen(character) && !joins {
            return Some(character);
        }
        before = Some(character);
    }
    None
}

fn is_unseen(character: char) -> bool {
    character.is_control() || UNSEEN.iter().any(|range| range.contains(&character))
}

/// A local-part as it is compared; borrowed while it is lower-case ASCII.
pub fn folded(local_part: &str) -> Cow<'_, str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    match local_part.bytes().all(is_lower) {
        true => Cow::Borrowed(local_part),
        false => Cow::Owned(local_part.to_lowercase()),
    }
}

/// Why a recipient is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotRelayed {
    /// The client may not relay, and the domain is not a relay domain.
    Denied,
    /// A relay domain, but its recipients are known and this is none of them.
    UnknownRecipient,
    /// A local part without a domain, other than `Postmaster`.
    NoDomain,
    /// A domain without a normal form: nobody could say whose it is.
    InvalidDomain,
    /// `Postmaster` without a domain, and nobody who would get it.
    NoPostmaster,
}

impl NotRelayed {
    /// What the client is told.
    pub fn refusal(self) -> Refusal {
        match self {
            NotRelayed::Denied => refusals::RELAYING_DENIED,
            NotRelayed::UnknownRecipient => refusals::UNKNOWN_RECIPIENT,
            NotRelayed::NoPostmaster => refusals::NO_POSTMASTER,
            NotRelayed::NoDomain => refusals::RECIPIENT_WITHOUT_DOMAIN,
            NotRelayed::InvalidDomain => refusals::INVALID_RECIPIENT_DOMAIN,
        }
    }
}

/// The flags `--relay-from`, `--relay-domain` and `--recipients-file` as look-ups.
#[derive(Debug)]
pub struct RelayPolicy {
    trusted_nets: Vec<IpNet>,
    domains: DomainMap<()>,
    /// Domains below which everything is a relay domain.
    parents: DomainMap<()>,
    recipients: Option<Recipients>,
    postmaster: Postmaster,
    has_one_way: bool,
}

/// Where mail to the bare `Postmaster` goes.
#[derive(Debug)]
enum Postmaster {
    Nowhere,
    /// Where a route leads from our own name.
    Routed,
    Mailbox(Mailbox),
}

#[derive(Debug, Default)]
struct Recipients(DomainMap<Known>);

/// Who is known of a domain.
#[derive(Debug, Default)]
struct Known {
    /// Every recipient is taken.
    all: bool,
    /// What the local-parts mean, folded.
    local_parts: HashSet<Box<str>>,
}

impl RelayPolicy {
    pub fn new(settings: &Settings) -> Self {
        let mut domains = DomainMap::default();
        let mut parents = DomainMap::default();
        for pattern in &settings.domains {
            match pattern {
                DomainPattern::Exact(domain) => domains.insert(domain.clone(), ()),
                DomainPattern::Below(domain) => parents.insert(domain.clone(), ()),
            };
        }
        RelayPolicy {
            trusted_nets: settings.trusted_nets.clone(),
            domains,
            parents,
            recipients: settings.recipients.as_deref().map(Recipients::new),
            postmaster: match &settings.postmaster {
                Some(mailbox) => Postmaster::Mailbox(mailbox.clone()),
                None => Postmaster::Nowhere,
            },
            has_one_way: false,
        }
    }

    /// There is a route for our own name: the bare `Postmaster` goes there, if nobody else gets it.
    pub fn has_route_for_own_name(&mut self) {
        if matches!(self.postmaster, Postmaster::Nowhere) {
            self.postmaster = Postmaster::Routed;
        }
    }

    /// All mail goes to one next hop.
    pub fn goes_one_way(&mut self) {
        self.has_one_way = true;
    }

    /// There is no other destination that mail could be in the way of.
    pub fn has_one_way(&self) -> bool {
        self.has_one_way
    }

    /// How the relay domains differ from those of `old`.
    pub fn domains_since(&self, old: &RelayPolicy) -> ListChange {
        let names = |map: &DomainMap<()>| map.len();
        let kept = |new: &DomainMap<()>, old: &DomainMap<()>| -> Vec<bool> {
            new.iter()
                .map(|(name, ())| old.get_normal(name).is_some())
                .collect()
        };
        let exact = kept(&self.domains, &old.domains);
        let below = kept(&self.parents, &old.parents);
        ListChange::new(
            exact.into_iter().chain(below),
            names(&old.domains) + names(&old.parents),
        )
    }

    /// How the known recipients differ from those of `old`.
    pub fn recipients_since(&self, old: &RelayPolicy) -> ListChange {
        let none = Recipients::default();
        let new = self.recipients.as_ref().unwrap_or(&none);
        let old = old.recipients.as_ref().unwrap_or(&none);
        let is_in_old = |(name, local_part): (&str, Option<&str>)| {
            let known = old.0.get_normal(name);
            known.is_some_and(|known| match local_part {
                Some(local_part) => known.local_parts.contains(local_part),
                None => known.all,
            })
        };
        ListChange::new(new.entries().map(is_in_old), old.entries().count())
    }

    /// Who gets mail to the bare `Postmaster`, if not `Postmaster` where the route for our own name
    /// leads.
    pub fn postmaster(&self) -> Option<&Mailbox> {
        match &self.postmaster {
            Postmaster::Mailbox(mailbox) => Some(mailbox),
            Postmaster::Nowhere | Postmaster::Routed => None,
        }
    }

    /// True if the client may relay anywhere. An IPv4 client of an IPv6 socket is an IPv4 client.
    pub fn is_trusted(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.trusted_nets.iter().any(|net| net.contains(&client))
    }

    /// True if anybody may send to `domain`.
    pub fn is_relay_domain(&self, domain: &Domain<'_>) -> bool {
        let is_below = || domain.parents().any(|above| self.parents.contains(&above));
        self.domains.contains(domain) || !self.parents.is_empty() && is_below()
    }

    /// Whether this recipient is taken from a client that is `trusted` or not.
    ///
    /// A known recipient list binds trusted clients too: what is certain to be refused later is
    /// refused now. Postmaster is taken for every relay domain, listed or not, and without a
    /// domain from everybody (RFC 5321 section 4.5.1), if there is anybody to get it: otherwise all
    /// that comes of it is a bounce to a sender who may be forged.
    ///
    /// # Errors
    /// [`NotRelayed`] holds the reply.
    pub fn recipient(&self, trusted: bool, forward_path: &Mailbox) -> Result<(), NotRelayed> {
        let local_part = forward_path.local_part_meaning();
        let is_postmaster = local_part.eq_ignore_ascii_case(POSTMASTER);
        let domain = match forward_path.domain() {
            Ok(domain) => domain,
            Err(_) if !forward_path.domain_as_written().is_empty() => {
                return Err(NotRelayed::InvalidDomain);
            }
            Err(_) if !is_postmaster => return Err(NotRelayed::NoDomain),
            Err(_) => {
                return match &self.postmaster {
                    Postmaster::Nowhere => Err(NotRelayed::NoPostmaster),
                    Postmaster::Routed | Postmaster::Mailbox(_) => Ok(()),
                };
            }
        };
        if !self.is_relay_domain(&domain) {
            return match trusted {
                true => Ok(()),
                false => Err(NotRelayed::Denied),
            };
        }
        match &self.recipients {
            Some(known) if !is_postmaster && !known.contain(&local_part, &domain) => {
                Err(NotRelayed::UnknownRecipient)
            }
            _ => Ok(()),
        }
    }
}

impl Recipients {
    fn new(known: &[KnownRecipient]) -> Self {
        let mut recipients = Recipients::default();
        for KnownRecipient { local_part, domain } in known {
            let of_domain = recipients.0.get_or_default(domain.clone());
            match local_part {
                Some(local_part) => drop(of_domain.local_parts.insert(local_part.clone())),
                None => of_domain.all = true,
            }
        }
        recipients
    }

    /// Domain and local-part; without one, all of the domain.
    fn entries(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().flat_map(|(name, known)| {
            let all = known.all.then_some((name, None));
            let local_parts = known.local_parts.iter();
            all.into_iter()
                .chain(local_parts.map(move |local_part| (name, Some(&**local_part))))
        })
    }

    fn contain(&self, local_part: &str, domain: &Domain<'_>) -> bool {
        self.0
            .get(domain)
            .is_some_and(|known| known.all || known.local_parts.contains(&*folded(local_part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(domains: &[&str], recipients: Option<&[&str]>) -> RelayPolicy {
        RelayPolicy::new(&Settings {
            trusted_nets: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            domains: domains.iter().map(|text| text.parse().unwrap()).collect(),
            recipients: recipients
                .map(|lines| lines.iter().map(|line| line.parse().unwrap()).collect()),
            postmaster: None,
        })
    }

    fn verdict(policy: &RelayPolicy, trusted: bool, address: &str) -> Result<(), NotRelayed> {
        let (local_part, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        policy.recipient(trusted, &Mailbox::new(local_part, domain))
    }

    #[test]
    fn what_cannot_be_seen_in_a_list_is_no_part_of_a_recipient() {
        for (text, named) in [
            ("\u{feff}u@a.test", "\\u{feff}"),
            ("u\u{200b}@a.test", "\\u{200b}"),
            ("u\u{ad}v@a.test", "\\u{ad}"),
            ("\"u\u{202e}v\"@a.test", "\\u{202e}"),
            ("u\u{1}@a.test", "\\u{1}"),
            // A joiner has nothing to join here.
            ("u\u{200d}v@a.test", "\\u{200d}"),
            ("\u{645}\u{200c}@a.test", "\\u{200c}"),
        ] {
            let error = text.parse::<KnownRecipient>().unwrap_err();
            let expected = format!("{named} in the local-part cannot be seen");
            assert_eq!(error, expected, "{text:?}");
        }
        for text in [
            "u@a.test",
            "b\u{fc}cher@a.test",
            "e\u{301}@a.test",
            "\u{645}\u{6cc}\u{200c}\u{62e}@a.test",
            "@a.test",
        ] {
            assert!(text.parse::<KnownRecipient>().is_ok(), "{text:?}");
        }
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
        let is_relayed = |name| policy.is_relay_domain(&Domain::parse(name).unwrap());
        assert!(is_relayed("a.example.com"));
        assert!(is_relayed("a.b.example.com"));
        assert!(!is_relayed("example.com"));
        assert!(!is_relayed("badexample.com"));
        assert!(!is_relayed("com"));
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
    fn every_spelling_of_a_relay_domain_is_the_relay_domain() {
        let spellings = [
            "bücher.test",
            "BÜCHER.test",
            "bu\u{308}cher.test",
            "xn--bcher-kva.test",
            "XN--bcher-KVA.Test.",
        ];
        for given in spellings {
            let known = format!("User@{given}");
            let policy = policy(&[given], Some(&[&known]));
            for asked in spellings {
                let verdict = |local_part| {
                    let address = format!("{local_part}@{asked}");
                    verdict(&policy, false, &address)
                };
                assert_eq!(verdict("user"), Ok(()), "{given} {asked}");
                let unknown = Err(NotRelayed::UnknownRecipient);
                assert_eq!(verdict("nobody"), unknown, "{given} {asked}");
            }
        }
    }

    #[test]
    fn a_domain_without_a_normal_form_is_refused_to_everybody() {
        let policy = policy(&["*.test"], None);
        for trusted in [false, true] {
            for name in ["xn--a.test", "a\u{200d}b.test", "a..test"] {
                let refused = verdict(&policy, trusted, &format!("a@{name}"));
                assert_eq!(refused, Err(NotRelayed::InvalidDomain), "{name}");
            }
        }
    }

    #[test]
    fn quoted_and_unquoted_recipients_are_the_same() {
        let known = [
            "plain@b.test",
            r#""quo\ted"@b.test"#,
            r#""two words"@b.test"#,
        ];
        let policy = policy(&["b.test"], Some(&known));
        for same in [
            "plain",
            r#""plain""#,
            r#""pl\ain""#,
            "QUOTED",
            r#""quoted""#,
            r#""Two\ Words""#,
            r#""postmaster""#,
        ] {
            let address = format!("{same}@B.test");
            assert_eq!(verdict(&policy, false, &address), Ok(()), "{same}");
        }
        let other = verdict(&policy, false, r#""plain "@b.test"#);
        assert_eq!(other, Err(NotRelayed::UnknownRecipient));
    }

    #[test]
    fn postmaster_needs_no_domain() {
        let mut policy = policy(&[], None);
        policy.has_route_for_own_name();
        assert_eq!(verdict(&policy, false, "PostMaster"), Ok(()));
        assert_eq!(verdict(&policy, true, "root"), Err(NotRelayed::NoDomain));
    }

    #[test]
    fn a_postmaster_whom_nobody_gets_is_refused_to_everybody() {
        let policy = policy(&["example.com"], None);
        for trusted in [false, true] {
            let bare = verdict(&policy, trusted, "Postmaster");
            assert_eq!(bare, Err(NotRelayed::NoPostmaster));
            let with_domain = verdict(&policy, trusted, "postmaster@example.com");
            assert_eq!(with_domain, Ok(()));
        }
    }

    #[test]
    fn what_has_changed_in_a_list_is_counted() {
        let old = policy(&["a.test", ".b.test"], Some(&["x@a.test", "@b.test"]));
        let new = policy(
            &["A.test", "b.test"],
            Some(&["X@a.test", "y@a.test", "z@b.test"]),
        );
        let counted = |change: ListChange| (change.entries, change.added, change.removed);
        assert_eq!(counted(new.domains_since(&old)), (2, 1, 1));
        assert_eq!(counted(new.recipients_since(&old)), (3, 2, 1));
        assert!(new.domains_since(&new).is_none() && new.recipients_since(&new).is_none());
        let all = policy(&[], None);
        assert_eq!(counted(all.recipients_since(&old)), (0, 0, 2));
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

    #[test]
    fn known_recipients_by_what_they_mean() {
        let known = |text: &str| -> KnownRecipient { text.parse().expect(text) };
        for same in [
            "A@B.test",
            "\"a\"@b.test.",
            "\"\\a\"@b.test",
            "\"A\"@\u{ff42}.test",
        ] {
            assert_eq!(known(same), known("a@b.test"), "{same}");
        }
        assert_eq!(known("ü@BÜCHER.test"), known("Ü@xn--bcher-kva.test"));
        let local_part = |text: &str| known(text).local_part;
        assert_eq!(
            local_part("\"a@c.test\"@b.test").as_deref(),
            Some("a@c.test")
        );
        assert_eq!(local_part("\"\"@b.test").as_deref(), Some(""));
        assert_eq!(local_part("@b.test"), None);
        for wrong in [
            "",
            "a",
            "a@",
            "a@*.b.test",
            "@.b.test",
            "a b@c.test",
            "a\"b@c.test",
            "\"a@c.test",
            "\"a\\\"@c.test",
            "\"a\"b\"@c.test",
            "a@b@c.test",
            "a@xn--a.test",
        ] {
            assert!(wrong.parse::<KnownRecipient>().is_err(), "{wrong}");
        }
    }
}
