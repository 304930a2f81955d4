//! The resolver on the loop that it runs on in the relay.

use crate::support::dns;
use ringpost::remote::resolve::{OwnNames, Resolver, Settings};
use std::time::Duration;

#[test]
fn resolves_on_a_ring_and_fails_in_time() {
    let dns = dns::DnsServer::start();
    dns.mx("a.test", 10, "mx.a.test");
    dns.host("mx.a.test", "192.0.2.1");
    dns.fail("b.test", mx(), dns::Failure::Silent);
    tokio_uring::start(async {
        let settings = Settings {
            name_servers: vec![dns.address()],
            query_timeout: Duration::from_millis(100),
            query_retries: 0,
            ..Settings::default()
        };
        let resolver = Resolver::new(settings, OwnNames::default()).expect("a resolver");
        let site = resolver
            .resolve(&"a.test".parse().expect("a next hop"))
            .await;
        assert_eq!(&*site.expect("a site").hosts[0].name, "mx.a.test");
        let failed = resolver
            .resolve(&"b.test".parse().expect("a next hop"))
            .await;
        assert!(!failed.expect_err("a silent server").is_permanent());
    });
}

fn mx() -> hickory_resolver::proto::rr::RecordType {
    hickory_resolver::proto::rr::RecordType::MX
}
