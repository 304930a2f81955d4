//! Domains with more mail hosts, and hosts with more addresses, than are used at a time.

use super::dns::{DnsServer, Failure};
use super::{own, run, settings, show};
use crate::io::clock;
use crate::remote::resolve::{Resolver, Settings};
use hickory_resolver::proto::rr::RecordType;
use std::time::Duration;

/// What becomes of `a.test`, asked for as often as the lot may fall.
fn outcomes(dns: &DnsServer, times: usize, change: impl FnOnce(&mut Settings)) -> Vec<String> {
    dns.set_ttl(0);
    let mut settings = settings(dns);
    change(&mut settings);
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let mut outcomes = Vec::new();
        for _ in 0..times {
            resolver.clear();
            outcomes.extend(show(&resolver.resolve(&"a.test".parse().unwrap()).await));
        }
        outcomes.sort();
        outcomes.dedup();
        outcomes
    })
}

/// `a.test` has so many mail hosts, one as good as the other.
fn with_equal_hosts(count: usize) -> DnsServer {
    let dns = DnsServer::start();
    for number in 0..count {
        let host = format!("mx{number}.test");
        dns.mx("a.test", 10, &host);
        dns.host(&host, "192.0.2.1");
    }
    dns
}

#[test]
fn a_domain_is_not_returned_while_some_of_its_hosts_were_not_asked() {
    let dns = DnsServer::start();
    for number in 0..20 {
        dns.mx("a.test", number, &format!("dead{number}.test"));
    }
    dns.mx("a.test", 50, "good.test");
    dns.host("good.test", "192.0.2.1");
    assert_eq!(
        outcomes(&dns, 1, |_| {}),
        ["good.test 50 192.0.2.1:25"],
        "by preference"
    );
    let dns = DnsServer::start();
    for number in 0..25 {
        dns.mx("a.test", 0, &format!("dead{number}.test"));
    }
    dns.mx("a.test", 0, "good.test");
    dns.host("good.test", "192.0.2.1");
    let few = |settings: &mut Settings| settings.hosts_max = 6;
    assert_eq!(
        outcomes(&dns, 10, few),
        ["good.test 0 192.0.2.1:25"],
        "by lot"
    );
}

#[test]
fn only_so_many_hosts_are_asked_and_that_is_no_reason_to_return_mail() {
    let dns = DnsServer::start();
    for number in 0..11 {
        dns.mx("a.test", number, &format!("dead{number}.test"));
    }
    let few = |settings: &mut Settings| settings.hosts_max = 2;
    assert_eq!(
        outcomes(&dns, 1, few),
        ["4.4.3 DNS look-up of a.test failed: none of its first 10 mail hosts has an address"]
    );
    dns.remove("a.test");
    for number in 0..10 {
        dns.mx("a.test", number, &format!("dead{number}.test"));
    }
    assert!(outcomes(&dns, 1, few)[0].starts_with("5.4.4"));
}

#[test]
fn a_host_that_could_not_be_asked_for_is_no_reason_to_leave_out_the_others() {
    let dns = DnsServer::start();
    for number in 0..3 {
        let host = format!("failing{number}.test");
        dns.mx("a.test", number, &host);
        for kind in [RecordType::A, RecordType::AAAA] {
            dns.fail(&host, kind, Failure::ServFail);
        }
    }
    dns.mx("a.test", 50, "good.test");
    dns.host("good.test", "192.0.2.1");
    let few = |settings: &mut Settings| settings.hosts_max = 2;
    assert_eq!(outcomes(&dns, 1, few), ["good.test 50 192.0.2.1:25"]);
}

#[test]
fn this_relay_is_found_among_many_equal_hosts_by_its_address() {
    let dns = with_equal_hosts(6);
    dns.mx("a.test", 10, "disguise.test");
    dns.host("disguise.test", "127.0.0.1");
    let few = |settings: &mut Settings| settings.hosts_max = 2;
    let is_loop = "5.4.6 mail for a.test:25 loops back to this relay";
    assert_eq!(outcomes(&dns, 20, few), [is_loop]);
    dns.mx("a.test", 5, "best.test");
    dns.host("best.test", "192.0.2.2");
    assert_eq!(outcomes(&dns, 20, few), ["best.test 5 192.0.2.2:25"]);
}

#[test]
fn this_relay_is_found_among_many_addresses_of_a_host() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "mx.test");
    for last in 1..=12 {
        dns.host("mx.test", &format!("192.0.2.{last}"));
    }
    dns.host("mx.test", "127.0.0.1");
    let few = |settings: &mut Settings| settings.addresses_per_host_max = 4;
    let is_loop = "5.4.6 mail for a.test:25 loops back to this relay";
    assert_eq!(outcomes(&dns, 20, few), [is_loop]);
}

/// They are asked for only because each of them may be this relay.
#[test]
fn equal_hosts_are_not_waited_for_until_it_is_too_late_for_those_that_are_known() {
    let dns = with_equal_hosts(6);
    // One answer after the other.
    dns.delay(Duration::from_millis(200));
    let slow = |settings: &mut Settings| {
        settings.hosts_max = 1;
        settings.query_timeout = Duration::from_secs(1);
        // Not enough for all.
        settings.resolve_timeout = Duration::from_secs(2);
    };
    let found = outcomes(&dns, 1, slow);
    assert!(found[0].ends_with(".test 10 192.0.2.1:25"), "{found:?}");
}

#[test]
fn equal_hosts_that_were_not_heard_of_have_their_turn_soon() {
    let dns = with_equal_hosts(2);
    // One answer after the other.
    dns.delay(Duration::from_millis(200));
    let settings = Settings {
        hosts_max: 1,
        query_timeout: Duration::from_secs(1),
        // Half of it is not enough for both.
        resolve_timeout: Duration::from_millis(1400),
        ..settings(&dns)
    };
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let next_hop = "a.test".parse().unwrap();
        let answer = resolver.resolve(&next_hop).await;
        assert_eq!(show(&answer).len(), 1, "{answer:?}");
        assert!(resolver.remembered(&next_hop).is_some());
        let later = clock::now() + Duration::from_secs(61);
        assert!(resolver.remembered_at(&next_hop, later).is_none());
    });
}

/// The time of the whole and that of its only host end at once.
#[test]
fn a_host_of_which_nothing_is_heard_in_time_is_no_reason_to_return_mail() {
    let dns = DnsServer::start();
    dns.fail_all(Failure::Silent);
    let settings = Settings {
        query_timeout: Duration::from_secs(10),
        resolve_timeout: Duration::from_millis(20),
        ..settings(&dns)
    };
    run(async {
        for _ in 0..20 {
            let resolver = Resolver::new(settings.clone(), own()).unwrap();
            let answer = resolver.resolve(&"[mx.test]:25".parse().unwrap()).await;
            let late = "4.4.3 DNS look-up of mx.test failed: no answer in time";
            assert_eq!(show(&answer), [late]);
        }
    });
}

/// Its domain's name servers answer, those of the host do not.
fn silent_host(dns: &DnsServer, host: &str) {
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.fail(host, kind, Failure::Silent);
    }
}

#[test]
fn mail_waits_when_the_name_servers_say_nothing_about_a_mail_host() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "dead.test");
    silent_host(&dns, "dead.test");
    for query_timeout in [20, 90, 100, 110, 1000].map(Duration::from_millis) {
        let long = |settings: &mut Settings| {
            settings.query_timeout = query_timeout;
            settings.resolve_timeout = Duration::from_millis(100);
        };
        for outcome in outcomes(&dns, 5, long) {
            assert!(
                outcome.starts_with("4.4.3 DNS look-up of dead.test"),
                "{outcome}"
            );
        }
    }
}

#[test]
fn a_silent_mail_host_does_not_keep_mail_from_the_one_beside_it() {
    let good = "good.test 20 192.0.2.1:25";
    for preference in [10, 20, 30] {
        let dns = DnsServer::start();
        dns.mx("a.test", preference, "dead.test");
        dns.mx("a.test", 20, "good.test");
        dns.host("good.test", "192.0.2.1");
        silent_host(&dns, "dead.test");
        let settings = Settings {
            query_timeout: Duration::from_secs(10),
            resolve_timeout: Duration::from_secs(3),
            ..settings(&dns)
        };
        run(async {
            let failure_ttl = settings.failure_ttl;
            let resolver = Resolver::new(settings, own()).unwrap();
            let next_hop = "a.test".parse().unwrap();
            let answer = resolver.resolve(&next_hop).await;
            assert_eq!(show(&answer), [good], "{preference}");
            assert!(resolver.remembered(&next_hop).is_some());
            let later = clock::now() + failure_ttl;
            assert!(resolver.remembered_at(&next_hop, later).is_none());
        });
    }
}

#[test]
fn hosts_behind_twenty_silent_ones_are_found() {
    let dns = DnsServer::start();
    for number in 0..20 {
        let host = format!("dead{number}.test");
        dns.mx("a.test", number, &host);
        silent_host(&dns, &host);
    }
    dns.mx("a.test", 50, "good.test");
    dns.host("good.test", "192.0.2.1");
    let long = |settings: &mut Settings| {
        settings.query_timeout = Duration::from_secs(10);
        settings.resolve_timeout = Duration::from_secs(5);
    };
    assert_eq!(outcomes(&dns, 1, long), ["good.test 50 192.0.2.1:25"]);
}
