//! Which hosts are this relay itself: a next hop that leads back here is a loop.

use crate::domain::Domain;
use crate::io::interfaces;
use std::net::{IpAddr, SocketAddr};

/// The relay's own names and addresses.
#[derive(Clone, Debug, Default)]
pub struct OwnNames {
    /// What the relay calls itself. Counts as an MX host whatever the port: a redirected port is
    /// common. `None`: nobody asks for names.
    pub hostname: Option<Domain<'static>>,
    /// Where it listens. An unspecified address stands for all interfaces and the loopback.
    pub listeners: Vec<SocketAddr>,
    /// Further addresses that lead here on any port, such as the outside of a NAT or a balancer.
    pub aliases: Vec<IpAddr>,
}

impl OwnNames {
    /// `name` is as the DNS holds it.
    pub fn is_own_name(&self, name: &str) -> bool {
        let own = self.hostname.as_ref();
        own.is_some_and(|own| Domain::from_dns(name).is_ok_and(|name| name == *own))
    }

    /// True if a connection to this address would come back to one of our listeners. Also true
    /// for 0.0.0.0 and loopback addresses that a stranger's DNS hands out.
    pub fn is_own_address(&self, address: SocketAddr) -> bool {
        let is_port = |listener: &&SocketAddr| listener.port() == address.port();
        self.leads_here(address.ip(), self.listeners.iter().filter(is_port))
    }

    /// The same of any port.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.leads_here(ip, self.listeners.iter())
    }

    fn leads_here<'a>(
        &self,
        ip: IpAddr,
        mut listeners: impl Iterator<Item = &'a SocketAddr>,
    ) -> bool {
        let ip = ip.to_canonical();
        let mut aliases = self.aliases.iter();
        listeners.any(|listener| reaches(ip, listener.ip().to_canonical()))
            || aliases.any(|alias| alias.to_canonical() == ip)
    }
}

/// True if a connection to `ip` arrives at a listener on `listener`. Both canonical.
fn reaches(ip: IpAddr, listener: IpAddr) -> bool {
    if ip == listener {
        return true;
    }
    if ip.is_unspecified() {
        // Linux connects to the loopback instead.
        return listener.is_loopback() && listener.is_ipv4() == ip.is_ipv4();
    }
    let same_family = listener.is_ipv6() || ip.is_ipv4();
    listener.is_unspecified() && same_family && (ip.is_loopback() || interfaces::has(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listeners: &[&str]) -> OwnNames {
        OwnNames {
            hostname: "Mx.Own.Test.".parse().ok(),
            listeners: listeners.iter().map(|text| text.parse().unwrap()).collect(),
            aliases: vec!["203.0.113.9".parse().unwrap()],
        }
    }

    #[test]
    fn own_addresses() {
        // listener, address, own?
        let table = [
            ("192.0.2.1:25", "192.0.2.1:25", true),
            ("192.0.2.1:25", "192.0.2.1:26", false),
            ("192.0.2.1:25", "192.0.2.2:25", false),
            ("192.0.2.1:25", "[::ffff:192.0.2.1]:25", true),
            ("127.0.0.1:25", "127.0.0.1:25", true),
            ("127.0.0.1:25", "127.0.0.2:25", false),
            ("127.0.0.1:25", "0.0.0.0:25", true),
            ("0.0.0.0:25", "127.0.0.1:25", true),
            ("0.0.0.0:25", "127.1.2.3:25", true),
            ("0.0.0.0:25", "0.0.0.0:25", true),
            ("0.0.0.0:25", "[::1]:25", false),
            ("[::]:25", "127.0.0.1:25", true),
            ("[::]:25", "[::1]:25", true),
            ("[::]:25", "127.0.0.1:2525", false),
            ("0.0.0.0:25", "192.0.2.77:25", false),
            ("127.0.0.1:2525", "203.0.113.9:25", true),
        ];
        for (listener, address, is_own) in table {
            let own = own(&[listener]);
            let address = address.parse().unwrap();
            assert_eq!(own.is_own_address(address), is_own, "{listener} {address}");
        }
    }

    #[test]
    fn own_name_without_regard_to_case_or_final_dot() {
        assert!(own(&[]).is_own_name("mx.own.test"));
        assert!(!own(&[]).is_own_name("own.test"));
        assert!(!OwnNames::default().is_own_name(""));
    }
}
