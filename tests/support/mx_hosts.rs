//! The hosts of example.test: scripted next hops, and the name server that knows them.

use super::dns::DnsServer;
use super::next_hop::{Answer, KEYWORDS, NextHop, Occasion, StartTls};
use super::relay::{Home, Relay};
use std::net::Ipv4Addr;

pub type Script = fn(Occasion<'_>) -> Answer;

pub struct MxHosts {
    pub dns: DnsServer,
    pub hops: Vec<NextHop>,
}

impl MxHosts {
    /// Best first, on 127.0.0.1, 127.0.0.2 and so on with one port, named mx1.example.test, mx2 and so on.
    pub fn start(hosts: &[(StartTls, Script)]) -> Self {
        let dns = DnsServer::start();
        let mut hops: Vec<NextHop> = Vec::new();
        for (number, (starttls, script)) in (1..).zip(hosts) {
            let ip = Ipv4Addr::new(127, 0, 0, number);
            let port = hops.first().map_or(0, |hop| hop.address().port());
            hops.push(NextHop::on((ip, port).into(), *starttls, KEYWORDS, *script));
            let name = format!("mx{number}.example.test");
            dns.mx("example.test", u16::from(number) * 10, &format!("{name}."));
            dns.host(&name, &ip.to_string());
        }
        MxHosts { dns, hops }
    }

    /// A relay that sends to them, and tries again after a second unless told otherwise.
    pub fn relay(&self, home: &Home, flags: &[&str]) -> Relay {
        let server = self.dns.address().to_string();
        let port = self.hops[0].address().port().to_string();
        let mut all = vec!["--dns", &server, "--mx-port", &port];
        if !flags.contains(&"--retry-min") {
            all.extend(["--retry-min", "1s", "--retry-max", "1s"]);
        }
        all.extend(flags);
        home.start(&all)
    }
}
