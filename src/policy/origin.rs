//! Whose mail a message is: parties take turns at a next hop, and each has a share of the room for mail.

use super::rates::prefix_of;
use crate::message::Mailbox;
use crate::schedule::next_hop::Origin;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Of mail from this client. A network is one party: an IPv4 /24, an IPv6 /48. A trusted client may be a server that
/// has all the mail of a company, or of many. So there each domain of senders is one, and in it each [sender](stem).
///
/// The same in each run. Who makes two parties fall together has them take their turns together, and gains nothing.
pub fn of(client: IpAddr, is_trusted: bool, reverse_path: Option<&Mailbox>) -> Origin {
    let network = match client.to_canonical() {
        IpAddr::V4(_) => prefix_of(client) >> 8,
        IpAddr::V6(_) => prefix_of(client) >> 16,
    };
    let mut hasher = DefaultHasher::new();
    network.hash(&mut hasher);
    let reverse_path = reverse_path.filter(|_| is_trusted);
    if let Some(path) = reverse_path {
        let domain = path.domain_as_written();
        match domain.bytes().any(|octet| octet.is_ascii_uppercase()) {
            true => domain.to_ascii_lowercase().hash(&mut hasher),
            false => domain.hash(&mut hasher),
        }
    }
    let party = hasher.finish() as u32;
    let sender = reverse_path.map_or(0, |path| {
        stem(path.local_part()).hash(&mut hasher);
        hasher.finish() as u32
    });
    Origin { party, sender }
}

/// What the reverse-paths of one sender have in common. A list may use another one for each message and recipient (VERP:
/// `bounce+user=host`, `bounces-4711`), and a server may sign those of its users (BATV: `prvs=0123456789=user`).
fn stem(local_part: &str) -> &str {
    const BATV: &str = "prvs=";
    let signed = local_part.get(..BATV.len());
    let is_signed = signed.is_some_and(|it| it.eq_ignore_ascii_case(BATV));
    let user = local_part.rsplit('=').next().filter(|_| is_signed);
    let user = user.unwrap_or(local_part);
    let is_end = |letter: char| matches!(letter, '+' | '=' | '-' | '#' | '0'..='9');
    user.split(is_end).next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(client: &str, is_trusted: bool, sender: &str) -> Origin {
        let (local_part, domain) = sender.split_once('@').unwrap_or((sender, "a.test"));
        let path = Mailbox::new(local_part, domain);
        super::of(client.parse().unwrap(), is_trusted, Some(&path))
    }

    #[test]
    fn a_network_is_one_party_and_a_domain_behind_a_trusted_client_is_another() {
        let stranger = |client| of(client, false, "x");
        assert_eq!(stranger("192.0.2.1"), of("192.0.2.200", false, "y@b.test"));
        assert_eq!(stranger("192.0.2.1"), stranger("::ffff:192.0.2.2"));
        assert_ne!(stranger("192.0.2.1"), stranger("192.0.3.1"));
        assert_eq!(stranger("2001:db8:1:2::1"), stranger("2001:db8:1:3::1"));
        assert_ne!(stranger("2001:db8:1::1"), stranger("2001:db8:2::1"));
        let trusted = |sender| of("192.0.2.1", true, sender);
        assert_eq!(trusted("x"), of("192.0.2.9", true, "x"));
        assert_eq!(trusted("x"), trusted("x@A.Test"));
        assert_eq!(trusted("x").party, trusted("y").party);
        assert_ne!(trusted("x").sender, trusted("y").sender);
        assert_ne!(trusted("x").party, trusted("x@b.test").party);
        assert_ne!(trusted("x").sender, trusted("x@b.test").sender);
    }

    #[test]
    fn a_list_with_a_reverse_path_for_each_recipient_is_one_sender() {
        for list in [
            ["bounce+a=b.test", "bounce+c=d.test"],
            ["bounces-4711-a", "bounces-4712-b"],
            ["0100018c-f", "99-e"],
            ["SRS0=ab=cd=e.test=u", "SRS0=ef=gh=i.test=v"],
            ["prvs=0123456789=user", "PRVS=9876543210=user"],
        ] {
            let [first, second] = list.map(|it| of("192.0.2.1", true, it));
            assert_eq!(first, second, "{list:?}");
        }
        let signed = |user: &str| of("192.0.2.1", true, &format!("prvs=0123456789={user}"));
        assert_ne!(signed("ann"), signed("bob"));
        assert_ne!(
            of("192.0.2.1", true, "ann.lee"),
            of("192.0.2.1", true, "bob.lee")
        );
    }
}
