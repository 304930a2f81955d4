//! Paths and mailboxes: what is taken reads back as the same, is bounded, and cannot end a command.

use ringpost::domain::Domain;
use ringpost::domain::pattern::DomainPattern;
use ringpost::message::Mailbox;
use ringpost::remote::route::RouteTable;
use ringpost::smtp::address::{self, DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX, PATH_BYTES_MAX};

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok((Some(mailbox), rest)) = address::reverse_path(text) {
        assert!(rest.is_empty() || rest.starts_with(' '));
        check(&mailbox);
    }
    if let Ok((mailbox, rest)) = address::forward_path(text) {
        assert!(rest.is_empty() || rest.starts_with(' '));
        check(&mailbox);
    }
    if let Ok(mailbox) = address::mailbox(text) {
        assert_eq!(mailbox.as_str(), text.strip_suffix('.').unwrap_or(text));
        check(&mailbox);
    }
}

/// What holds for each mailbox that came from a peer.
pub fn check(mailbox: &Mailbox) {
    let text = mailbox.as_str();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() + 2 <= PATH_BYTES_MAX);
    assert!(mailbox.local_part().len() <= LOCAL_PART_BYTES_MAX);
    assert!(mailbox.domain_as_written().len() <= DOMAIN_BYTES_MAX);
    assert!(
        !mailbox
            .domain_as_written()
            .contains([' ', '<', '>', '@', '"', ','])
    );
    let is_quoted = mailbox.local_part().starts_with('"');
    assert!(
        is_quoted
            || !mailbox
                .local_part()
                .contains([' ', '<', '>', '@', '"', ','])
    );
    let written = format!("<{text}> SIZE=1");
    let (again, rest) = address::forward_path(&written).expect("what was taken is taken again");
    assert_eq!((&again, rest), (mailbox, " SIZE=1"));
    assert_eq!(again.local_part(), mailbox.local_part());
    check_domain(mailbox.domain_as_written());
}

/// Nothing that is done with a domain later fails on one that was taken.
fn check_domain(text: &str) {
    if text.is_empty() {
        return;
    }
    let domain = Domain::parse(text).expect("what was taken has a normal form");
    assert_eq!(Domain::parse(domain.as_str()), Ok(domain.clone()));
    let next_hop = RouteTable::default().next_hop(&domain);
    let written = next_hop.to_string();
    // A name whose last label is a number, as an address has, is no next hop of a route.
    let last_label = domain.as_str().rsplit('.').next().unwrap_or_default();
    let is_number = last_label.bytes().all(|byte| byte.is_ascii_digit());
    if domain.address().is_some() || !is_number {
        assert_eq!(written.parse(), Ok(next_hop), "{written}");
    }
    let pattern: DomainPattern = "*.c.test".parse().expect("a pattern");
    assert_eq!(
        pattern.matches(&domain),
        domain.as_str().ends_with(".c.test")
    );
}
