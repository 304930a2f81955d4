//! Whose mail a message is, where the mail of several parties waits for the same next hop and takes turns.

use super::rates::prefix_of;
use crate::message::Mailbox;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Of mail from this client. A network is one party: an IPv4 /24, an IPv6 /48. A trusted client may be a server that
/// has all the mail of a company, so there each sender is one.
///
/// The same in each run. Who makes two parties fall together has them take their turns together, and gains nothing.
pub fn of(client: IpAddr, is_trusted: bool, reverse_path: Option<&Mailbox>) -> u64 {
    let network = match client.to_canonical() {
        IpAddr::V4(_) => prefix_of(client) >> 8,
        IpAddr::V6(_) => prefix_of(client) >> 16,
    };
    let mut hasher = DefaultHasher::new();
    network.hash(&mut hasher);
    let sender = reverse_path.filter(|_| is_trusted);
    sender.map(|path| path.as_str()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_one_party_and_a_trusted_sender_is_another() {
        let of = |client: &str, is_trusted, sender: &str| {
            let path = Mailbox::new(sender, "a.test");
            super::of(client.parse().unwrap(), is_trusted, Some(&path))
        };
        assert_eq!(of("192.0.2.1", false, "x"), of("192.0.2.200", false, "y"));
        assert_eq!(
            of("192.0.2.1", false, "x"),
            of("::ffff:192.0.2.2", false, "x")
        );
        assert_ne!(of("192.0.2.1", false, "x"), of("192.0.3.1", false, "x"));
        assert_eq!(
            of("2001:db8:1:2::1", false, "x"),
            of("2001:db8:1:3::1", false, "x")
        );
        assert_ne!(
            of("2001:db8:1::1", false, "x"),
            of("2001:db8:2::1", false, "x")
        );
        assert_ne!(of("192.0.2.1", true, "x"), of("192.0.2.1", true, "y"));
        assert_eq!(of("192.0.2.1", true, "x"), of("192.0.2.9", true, "x"));
    }
}
