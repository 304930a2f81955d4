use super::hosts::site_key;
use super::*;
use all::all;
use dns::{DnsServer, Failure};
use hickory_resolver::proto::rr::rdata::MX;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use std::collections::HashSet;
use std::time::Instant;

mod all;
#[path = "../../../tests/support/dns.rs"]
mod dns;
mod many_hosts;

/// Waits are short: the server is on this host, and silence is part of the tests.
fn settings(dns: &DnsServer) -> Settings {
    Settings {
        name_servers: vec![dns.address()],
        query_timeout: Duration::from_millis(200),
        query_retries: 1,
        resolve_timeout: Duration::from_secs(5),
        ..Settings::default()
    }
}

fn own() -> OwnNames {
    OwnNames {
        hostname: "own.test".parse().ok(),
        listeners: vec!["127.0.0.1:25".parse().unwrap()],
        aliases: Vec::new(),
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

fn resolver(dns: &DnsServer) -> Resolver {
    Resolver::new(settings(dns), own()).unwrap()
}

/// `name preference address...` of each host, or the error with its status.
fn show(answer: &Answer) -> Vec<String> {
    match answer {
        Ok(site) => site.hosts.iter().map(show_host).collect(),
        Err(error) => vec![format!("{} {error}", error.status())],
    }
}

fn show_host(host: &Host) -> String {
    let mut text = format!("{} {}", host.name, host.preference);
    for address in &host.addresses {
        text.push_str(&format!(" {address}"));
    }
    text
}

/// Resolves one next hop with a resolver of its own.
fn resolve(dns: &DnsServer, next_hop: &str) -> Vec<String> {
    let next_hop = next_hop.parse().unwrap();
    run(async { show(&resolver(dns).resolve(&next_hop).await) })
}

#[test]
fn mx_hosts_come_by_preference() {
    let dns = DnsServer::start();
    dns.mx("a.test", 20, "second.test");
    dns.mx("a.test", 10, "First.test");
    dns.host("second.test", "192.0.2.2");
    dns.host("first.test", "192.0.2.1");
    dns.host("first.test", "2001:db8::1");
    assert_eq!(
        resolve(&dns, "A.test"),
        [
            "first.test 10 [2001:db8::1]:25 192.0.2.1:25",
            "second.test 20 192.0.2.2:25"
        ]
    );
    assert_eq!(
        resolve(&dns, "a.test:2525")[1],
        "second.test 20 192.0.2.2:2525"
    );
}

#[test]
fn domains_with_the_same_hosts_are_one_site() {
    let dns = DnsServer::start();
    for domain in ["a.test", "b.test"] {
        dns.mx(domain, 10, "mx1.test");
        dns.mx(domain, 10, "mx2.test");
        dns.mx(domain, 20, "mx3.test");
    }
    dns.mx("c.test", 10, "mx1.test");
    dns.mx("c.test", 20, "mx2.test");
    dns.mx("c.test", 20, "mx3.test");
    for host in ["mx1.test", "mx2.test", "mx3.test"] {
        dns.host(host, "192.0.2.1");
    }
    run(async {
        let resolver = resolver(&dns);
        let key = async |domain: &str| {
            let answer = resolver.resolve(&domain.parse().unwrap()).await;
            answer.unwrap().key.to_string()
        };
        assert_eq!(key("a.test").await, "mx1.test,mx2.test;mx3.test:25");
        assert_eq!(key("b.test").await, key("a.test").await);
        assert_eq!(key("c.test").await, "mx1.test;mx2.test,mx3.test:25");
        assert_ne!(key("a.test:26").await, key("a.test").await);
    });
    assert_eq!(dns.asked("mx1.test", RecordType::A), 1);
}

#[test]
fn null_mx_takes_no_mail() {
    let dns = DnsServer::start();
    dns.mx("a.test", 0, ".");
    dns.host("a.test", "192.0.2.1");
    assert_eq!(
        resolve(&dns, "a.test"),
        ["5.1.10 a.test takes no mail (null MX)"]
    );
    dns.mx("a.test", 10, "mx.test");
    dns.host("mx.test", "192.0.2.2");
    assert_eq!(resolve(&dns, "a.test"), ["mx.test 10 192.0.2.2:25"]);
}

#[test]
fn name_that_no_host_can_have_is_left_out() {
    let dns = DnsServer::start();
    let odd = Name::from_labels([b"b@ d\r\n".as_slice(), b"test"]).unwrap();
    dns.add("a.test", RData::MX(MX::new(10, odd)));
    dns.host("a.test", "192.0.2.1");
    assert_eq!(
        resolve(&dns, "a.test"),
        ["5.4.4 no address found for a.test"]
    );
}

#[test]
fn unknown_domain_is_permanent() {
    let dns = DnsServer::start();
    assert_eq!(resolve(&dns, "a.test"), ["5.1.2 domain a.test not found"]);
    assert_eq!(
        resolve(&dns, "[a.test]"),
        ["5.4.4 no address found for a.test"]
    );
}

#[test]
fn failing_server_is_temporary_and_never_the_implicit_mx() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    for failure in [Failure::ServFail, Failure::Refused, Failure::Silent] {
        dns.fail("a.test", RecordType::MX, failure);
        let answer = resolve(&dns, "a.test");
        assert!(
            answer[0].starts_with("4.4.3 DNS look-up of a.test failed: "),
            "{failure:?}: {answer:?}"
        );
    }
}

#[test]
fn silent_server_costs_a_bounded_time() {
    let dns = DnsServer::start();
    dns.fail("a.test", RecordType::MX, Failure::Silent);
    let started = Instant::now();
    let settings = Settings {
        resolve_timeout: Duration::from_millis(300),
        query_timeout: Duration::from_secs(60),
        ..settings(&dns)
    };
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
        let expected = ["4.4.3 DNS look-up of a.test failed: no answer in time"];
        assert_eq!(show(&answer), expected);
    });
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn without_mx_the_domain_is_its_own_host() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    assert_eq!(resolve(&dns, "a.test"), ["a.test 0 192.0.2.1:25"]);
    dns.host("sub.b.test", "192.0.2.1");
    assert_eq!(
        resolve(&dns, "b.test"),
        ["5.4.4 no address found for b.test"]
    );
}

#[test]
fn bracketed_host_is_not_looked_up_as_mx() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "mx.test");
    dns.host("a.test", "192.0.2.1");
    assert_eq!(resolve(&dns, "[a.test]:26"), ["a.test 0 192.0.2.1:26"]);
    assert_eq!(dns.asked("a.test", RecordType::MX), 0);
    assert_eq!(resolve(&dns, "[192.0.2.7]"), ["[192.0.2.7] 0 192.0.2.7:25"]);
}

#[test]
fn aliases_of_domain_and_host_are_followed() {
    let dns = DnsServer::start();
    dns.cname("a.test", "real.test");
    dns.mx("real.test", 10, "mx.test");
    dns.cname("mx.test", "host.test");
    dns.host("host.test", "192.0.2.1");
    assert_eq!(resolve(&dns, "a.test"), ["mx.test 10 192.0.2.1:25"]);
}

#[test]
fn alias_of_itself_ends() {
    let dns = DnsServer::start();
    dns.cname("a.test", "b.test");
    dns.cname("b.test", "a.test");
    let answer = resolve(&dns, "a.test");
    assert_eq!(answer.len(), 1, "{answer:?}");
    assert!(answer[0].starts_with("4.4.3") || answer[0].starts_with("5."));
}

#[test]
fn host_without_address_is_skipped() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "gone.test");
    dns.mx("a.test", 20, "mx.test");
    dns.host("mx.test", "192.0.2.1");
    assert_eq!(resolve(&dns, "a.test"), ["mx.test 20 192.0.2.1:25"]);
    dns.remove("mx.test");
    assert_eq!(
        resolve(&dns, "a.test"),
        ["5.4.4 no address found for gone.test, nor for the other mail hosts of a.test"]
    );
    dns.fail("gone.test", RecordType::AAAA, Failure::ServFail);
    let answer = resolve(&dns, "a.test");
    assert!(
        answer[0].starts_with("4.4.3 DNS look-up of gone.test"),
        "{answer:?}"
    );
}

#[test]
fn one_family_is_enough() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    dns.fail("a.test", RecordType::AAAA, Failure::ServFail);
    assert_eq!(resolve(&dns, "[a.test]"), ["a.test 0 192.0.2.1:25"]);
}

/// Name servers exist that answer no question for AAAA.
#[test]
fn a_host_is_found_where_one_of_the_two_questions_is_never_answered() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    dns.fail("a.test", RecordType::AAAA, Failure::Silent);
    let settings = Settings {
        query_timeout: Duration::from_secs(20),
        resolve_timeout: Duration::from_secs(60),
        ..settings(&dns)
    };
    let started = Instant::now();
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let answer = resolver.resolve(&"[a.test]".parse().unwrap()).await;
        assert_eq!(show(&answer), ["a.test 0 192.0.2.1:25"]);
    });
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn only_the_wanted_family_is_asked() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    dns.host("a.test", "2001:db8::1");
    let settings = Settings {
        families: Families::Ipv4Only,
        ..settings(&dns)
    };
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let answer = resolver.resolve(&"[a.test]".parse().unwrap()).await;
        assert_eq!(show(&answer), ["a.test 0 192.0.2.1:25"]);
    });
    assert_eq!(dns.asked("a.test", RecordType::AAAA), 0);
}

#[test]
fn own_host_and_worse_ones_are_dropped() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "best.test");
    dns.mx("a.test", 20, "equal.test");
    dns.mx("a.test", 20, "OWN.test");
    dns.mx("a.test", 30, "worse.test");
    for host in ["best.test", "equal.test", "worse.test"] {
        dns.host(host, "192.0.2.1");
    }
    assert_eq!(resolve(&dns, "a.test"), ["best.test 10 192.0.2.1:25"]);
    dns.mx("b.test", 10, "own.test");
    assert_eq!(
        resolve(&dns, "b.test"),
        ["5.4.6 mail for b.test:25 loops back to this relay"]
    );
}

#[test]
fn own_address_in_disguise_is_a_loop() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "best.test");
    dns.mx("a.test", 20, "disguise.test");
    dns.host("best.test", "192.0.2.1");
    dns.host("disguise.test", "127.0.0.1");
    assert_eq!(resolve(&dns, "a.test"), ["best.test 10 192.0.2.1:25"]);

    let message = |hop: &str| vec![format!("5.4.6 mail for {hop} loops back to this relay")];
    dns.mx("b.test", 10, "disguise.test");
    dns.mx("b.test", 20, "best.test");
    assert_eq!(resolve(&dns, "b.test"), message("b.test:25"));
    assert_eq!(resolve(&dns, "disguise.test"), message("disguise.test:25"));
    assert_eq!(
        resolve(&dns, "[disguise.test]"),
        message("[disguise.test]:25")
    );
    assert_eq!(resolve(&dns, "[127.0.0.1]"), message("[127.0.0.1]:25"));
    dns.host("zero.test", "0.0.0.0");
    assert_eq!(resolve(&dns, "zero.test"), message("zero.test:25"));
    assert_eq!(resolve(&dns, "[127.0.0.1]:26").len(), 1, "another port");
}

#[test]
fn better_host_that_could_not_be_asked_for_is_no_loop() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "best.test");
    dns.mx("a.test", 20, "disguise.test");
    dns.host("disguise.test", "127.0.0.1");
    dns.fail("best.test", RecordType::A, Failure::ServFail);
    assert!(resolve(&dns, "a.test")[0].starts_with("4.4.3"));
}

#[test]
fn hosts_and_addresses_are_bounded() {
    let dns = DnsServer::start();
    for number in 1..=15 {
        dns.mx("a.test", number, &format!("mx{number}.test"));
        for last in 1..=12 {
            dns.host(&format!("mx{number}.test"), &format!("192.0.2.{last}"));
        }
    }
    let settings = Settings {
        hosts_max: 10,
        addresses_per_host_max: 8,
        ..settings(&dns)
    };
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let hosts = show(&resolver.resolve(&"a.test".parse().unwrap()).await);
        assert_eq!(hosts.len(), 10);
        assert_eq!(hosts[0].matches("192.0.2.").count(), 4);
        assert!(hosts[9].starts_with("mx10.test 10 "), "the best: {hosts:?}");
    });
}

/// Asked again and again, as after each TTL: the hosts of every look-up, and the site's keys.
fn look_ups(dns: &DnsServer, settings: Settings) -> (HashSet<String>, HashSet<String>) {
    dns.set_ttl(0);
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let (mut drawn, mut keys) = (HashSet::new(), HashSet::new());
        for _ in 0..40 {
            resolver.clear();
            let site = resolver.resolve(&"a.test".parse().unwrap()).await.unwrap();
            keys.insert(site.key.to_string());
            for host in &site.hosts {
                drawn.insert(host.name.to_string());
                drawn.extend(host.addresses.iter().map(SocketAddr::to_string));
            }
        }
        (drawn, keys)
    })
}

#[test]
fn every_equal_host_has_its_turn_and_the_site_stays_the_same() {
    let dns = DnsServer::start();
    dns.mx("a.test", 5, "best.test");
    dns.host("best.test", "192.0.2.99");
    for number in 0..14 {
        dns.mx("a.test", 10, &format!("mx{number:02}.test"));
        dns.host(&format!("mx{number:02}.test"), "192.0.2.1");
    }
    let settings = Settings {
        hosts_max: 4,
        ..settings(&dns)
    };
    let (drawn, keys) = look_ups(&dns, settings);
    assert_eq!(keys.len(), 1, "{keys:?}");
    for number in 0..14 {
        assert!(drawn.contains(&format!("mx{number:02}.test")), "{drawn:?}");
    }
    assert!(drawn.contains("best.test"));
}

#[test]
fn every_address_of_a_host_has_its_turn() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "mx.test");
    for last in 1..=12 {
        dns.host("mx.test", &format!("192.0.2.{last}"));
    }
    let settings = Settings {
        addresses_per_host_max: 4,
        ..settings(&dns)
    };
    let (drawn, _) = look_ups(&dns, settings);
    assert_eq!(drawn.len(), 13, "{drawn:?}");
}

#[test]
fn sites_that_differ_behind_their_hundredth_host_are_two() {
    let hosts = |count: u16, last: &str| -> Vec<(u16, Box<str>)> {
        let host = |number| (10, format!("mx{number:03}.test").into());
        (0..count).map(host).chain([(20, last.into())]).collect()
    };
    let key = |count, last| site_key(&hosts(count, last), 25);
    assert_ne!(key(99, "one.test"), key(100, "one.test"));
    assert_ne!(key(120, "one.test"), key(120, "other.test"));
    assert_eq!(key(120, "one.test"), key(120, "one.test"));
    assert!(key(100, "one.test").as_str().contains("mx099.test+1:"));
}

// ---- several name servers ----

fn with_servers(servers: &[&DnsServer]) -> Settings {
    Settings {
        name_servers: servers.iter().map(|dns| dns.address()).collect(),
        query_timeout: Duration::from_secs(1),
        ..settings(servers[0])
    }
}

#[test]
fn a_quick_failing_name_server_does_not_spoil_the_answer_of_a_slower_good_one() {
    let good = DnsServer::start();
    good.mx("a.test", 10, "mx.test");
    good.host("mx.test", "192.0.2.1");
    good.delay(Duration::from_millis(20));
    for failure in Failure::ALL {
        let failing = DnsServer::start();
        failing.fail_all(failure);
        for servers in [[&failing, &good], [&good, &failing]] {
            run(async {
                let resolver = Resolver::new(with_servers(&servers), own()).unwrap();
                let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
                let expected = ["mx.test 10 192.0.2.1:25"];
                assert_eq!(show(&answer), expected, "{failure:?}");
                let unknown = resolver.resolve(&"unknown.test".parse().unwrap()).await;
                assert_eq!(show(&unknown), ["5.1.2 domain unknown.test not found"]);
            });
        }
    }
}

#[test]
fn a_name_server_given_up_for_another_is_told_once() {
    let (failing, good) = (DnsServer::start(), DnsServer::start());
    failing.fail_all(Failure::Refused);
    for number in 0..20 {
        good.host(&format!("d{number}.test"), "192.0.2.1");
    }
    run(async {
        let resolver = Resolver::new(with_servers(&[&failing, &good]), own()).unwrap();
        for number in 0..20 {
            let next_hop = format!("d{number}.test").parse().unwrap();
            assert!(resolver.resolve(&next_hop).await.is_ok());
        }
        let notices = resolver.take_notices();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert_eq!(notices[0].server, failing.address());
        assert_eq!(notices[0].other, good.address());
        assert_eq!(&*notices[0].why, "Query Refused");
        assert!(resolver.take_notices().is_empty());
    });
    assert!(failing.asked_in_all() < 10, "it is left alone for a while");
}

#[test]
fn when_all_name_servers_fail_the_failure_names_each() {
    let (first, second) = (DnsServer::start(), DnsServer::start());
    first.fail_all(Failure::ServFail);
    second.fail_all(Failure::Silent);
    run(async {
        let settings = Settings {
            query_timeout: Duration::from_millis(100),
            query_retries: 0,
            ..with_servers(&[&first, &second])
        };
        let resolver = Resolver::new(settings, own()).unwrap();
        let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
        let (first, second) = (first.address(), second.address());
        let expected = format!(
            "4.4.3 DNS look-up of a.test failed: {first}: Server Failure; {second}: no answer in time"
        );
        assert_eq!(show(&answer), [expected]);
        assert!(resolver.take_notices().is_empty(), "there was no other");
    });
}

#[test]
fn a_name_server_that_knows_no_edns_is_asked_without_and_that_is_remembered() {
    for edns in [
        Failure::FormErr,
        Failure::NotImp,
        Failure::ServFail,
        Failure::Silent,
    ] {
        let dns = DnsServer::start();
        dns.fail_edns(edns);
        for number in 0..5 {
            dns.mx(&format!("d{number}.test"), 10, "mx.test");
        }
        dns.host("mx.test", "192.0.2.1");
        run(async {
            let settings = Settings {
                query_retries: 0,
                ..settings(&dns)
            };
            let resolver = Resolver::new(settings, own()).unwrap();
            for number in 0..5 {
                let next_hop = format!("d{number}.test").parse().unwrap();
                let answer = resolver.resolve(&next_hop).await;
                assert_eq!(show(&answer), ["mx.test 10 192.0.2.1:25"], "{edns:?}");
            }
        });
        // A query that is not answered is sent again after a while.
        let most = if edns == Failure::Silent { 4 } else { 1 };
        assert!(dns.asked_with_edns() <= most, "{}", dns.asked_with_edns());
    }
}

#[test]
fn an_answer_too_large_for_udp_comes_by_tcp() {
    let dns = DnsServer::start();
    for number in 0..60 {
        let host = format!("a-rather-long-name-of-a-host-{number:02}.test");
        dns.mx("a.test", 10, &host);
        dns.host(&host, "192.0.2.1");
    }
    for edns in [None, Some(Failure::FormErr)] {
        edns.into_iter().for_each(|failure| dns.fail_edns(failure));
        let settings = Settings {
            hosts_max: 100,
            query_timeout: Duration::from_secs(2),
            ..settings(&dns)
        };
        run(async {
            let resolver = Resolver::new(settings, own()).unwrap();
            let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
            assert_eq!(show(&answer).len(), 60);
        });
    }
}

/// As small forwarders say that a host has no IPv6 address, or a domain no MX.
#[test]
fn a_denial_without_soa_is_believed_when_nobody_says_better() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    dns.deny_without_soa();
    assert_eq!(resolve(&dns, "a.test"), ["a.test 0 192.0.2.1:25"]);
    let better = DnsServer::start();
    better.mx("a.test", 10, "mx.test");
    better.host("mx.test", "192.0.2.2");
    run(async {
        let resolver = Resolver::new(with_servers(&[&dns, &better]), own()).unwrap();
        let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
        assert_eq!(show(&answer), ["mx.test 10 192.0.2.2:25"]);
    });
}

/// A box that has lost its way says so of every name, and mail that is returned for that does not come back.
#[test]
fn a_denial_without_soa_is_not_believed_while_the_other_servers_are_silent_or_fail() {
    for failure in [Failure::Silent, Failure::ServFail] {
        let (lost, other) = (DnsServer::start(), DnsServer::start());
        lost.deny_without_soa();
        other.fail_all(failure);
        run(async {
            let resolver = Resolver::new(with_servers(&[&lost, &other]), own()).unwrap();
            let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
            let answer = &show(&answer)[0];
            assert!(answer.starts_with("4.4.3"), "{answer}");
            assert!(answer.contains("denies it without an SOA"), "{answer}");
        });
    }
    // Where nobody else can be asked, or another says the same, it counts.
    let (first, second) = (DnsServer::start(), DnsServer::start());
    first.deny_without_soa();
    second.deny_without_soa();
    assert!(resolve(&first, "a.test")[0].starts_with("5.1.2"));
    run(async {
        let resolver = Resolver::new(with_servers(&[&first, &second]), own()).unwrap();
        let answer = resolver.resolve(&"a.test".parse().unwrap()).await;
        assert!(show(&answer)[0].starts_with("5.1.2"), "{:?}", show(&answer));
    });
}

#[test]
fn a_referral_is_no_answer() {
    let dns = DnsServer::start();
    dns.host("a.test", "192.0.2.1");
    dns.fail("a.test", RecordType::MX, Failure::Referral);
    let answer = resolve(&dns, "a.test");
    assert!(
        answer[0].starts_with("4.4.3") && answer[0].ends_with("refers to other name servers"),
        "{answer:?}"
    );
}

#[test]
fn a_dead_name_server_does_not_delay_every_question() {
    let (dead, good) = (DnsServer::start(), DnsServer::start());
    dead.fail_all(Failure::Silent);
    for number in 0..30 {
        good.host(&format!("d{number}.test"), "192.0.2.1");
    }
    run(async {
        let settings = with_servers(&[&dead, &good]);
        let resolver = Resolver::new(settings, own()).unwrap();
        let started = Instant::now();
        for number in 0..30 {
            let next_hop = format!("d{number}.test").parse().unwrap();
            assert!(resolver.resolve(&next_hop).await.is_ok());
        }
        // 30 times a quarter of a second is more.
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(
            &*resolver.take_notices()[0].why,
            "others answer long before it"
        );
    });
}

#[test]
fn answer_is_remembered_for_its_ttl() {
    let dns = DnsServer::start();
    dns.set_ttl(0);
    dns.mx("a.test", 10, "mx.test");
    dns.host("mx.test", "192.0.2.1");
    let settings = Settings {
        ttl_min: Duration::from_secs(30),
        ..settings(&dns)
    };
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let next_hop = "a.test".parse().unwrap();
        for second in [1, 2, 29] {
            let answer = resolver
                .resolve_at(&next_hop, Now(second * 1_000_000))
                .await;
            assert!(answer.is_ok());
            assert_eq!(dns.asked("a.test", RecordType::MX), 1);
        }
        let answer = resolver.resolve_at(&next_hop, Now(40_000_000)).await;
        assert!(answer.is_ok());
        assert_eq!(dns.asked("a.test", RecordType::MX), 2);
        resolver.clear();
        assert!(
            resolver
                .resolve_at(&next_hop, Now(40_000_001))
                .await
                .is_ok()
        );
        assert_eq!(dns.asked("a.test", RecordType::MX), 3);
    });
}

#[test]
fn addresses_left_out_by_lot_do_not_wait_for_a_long_ttl() {
    let dns = DnsServer::start();
    dns.set_ttl(3600);
    dns.mx("a.test", 10, "mx.test");
    for last in 1..=12 {
        dns.host("mx.test", &format!("192.0.2.{last}"));
    }
    let drawn_from = |addresses_per_host_max| {
        let settings = Settings {
            addresses_per_host_max,
            ..settings(&dns)
        };
        run(async {
            let resolver = Resolver::new(settings, own()).unwrap();
            let next_hop = "a.test".parse().unwrap();
            let mut drawn = HashSet::new();
            for minute in 0..40 {
                let now = Now(minute * 61_000_000);
                let site = resolver.resolve_at(&next_hop, now).await.unwrap();
                drawn.extend(site.hosts[0].addresses.iter().copied());
            }
            drawn.len()
        })
    };
    assert_eq!(drawn_from(4), 12);
    let asked = dns.asked("a.test", RecordType::MX);
    assert_eq!(drawn_from(24), 12);
    assert_eq!(asked, 40);
    // Where none is left out the usual TTLs hold: here that of the denial of IPv6, five minutes.
    assert_eq!(dns.asked("a.test", RecordType::MX) - asked, 8);
}

#[test]
fn denial_and_failure_are_remembered_too() {
    let dns = DnsServer::start();
    dns.fail("b.test", RecordType::MX, Failure::ServFail);
    run(async {
        let resolver = resolver(&dns);
        for domain in ["a.test", "b.test"] {
            let next_hop = domain.parse().unwrap();
            assert!(resolver.resolve(&next_hop).await.is_err());
            let asked = dns.asked_in_all();
            assert!(resolver.resolve(&next_hop).await.is_err());
            assert_eq!(dns.asked_in_all(), asked);
        }
    });
}

#[test]
fn equal_questions_at_the_same_time_are_asked_once() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "mx.test");
    dns.host("mx.test", "192.0.2.1");
    run(async {
        let resolver = resolver(&dns);
        let next_hop = "a.test".parse().unwrap();
        let questions = (0..50).map(|_| resolver.resolve(&next_hop)).collect();
        let answers = all(questions).await;
        assert!(answers.iter().all(Result::is_ok));
        assert!(resolver.in_flight.borrow().is_empty());
    });
    assert_eq!(dns.asked("a.test", RecordType::MX), 1);
}

#[test]
fn question_given_up_is_taken_over_by_the_next() {
    let dns = DnsServer::start();
    dns.fail("a.test", RecordType::MX, Failure::Silent);
    run(async {
        let resolver = resolver(&dns);
        let next_hop = "a.test".parse().unwrap();
        let first = tokio::time::timeout(Duration::from_millis(20), resolver.resolve(&next_hop));
        let second = resolver.resolve(&next_hop);
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err(), "given up");
        assert!(second.is_err(), "no answer");
        let third = tokio::time::timeout(Duration::ZERO, resolver.resolve(&next_hop));
        assert!(third.await.is_ok(), "remembered");
        assert!(resolver.in_flight.borrow().is_empty());
    });
}

#[test]
fn many_domains_at_once_all_get_an_answer() {
    let dns = DnsServer::start();
    for number in 0..500 {
        dns.mx(&format!("d{number}.test"), 10, "mx.test");
    }
    dns.host("mx.test", "192.0.2.1");
    run(async {
        let settings = Settings {
            query_timeout: Duration::from_secs(2),
            lookups_max: 50,
            ..settings(&dns)
        };
        let resolver = Resolver::new(settings, own()).unwrap();
        let next_hops: Vec<NextHop> = (0..500)
            .map(|number| format!("d{number}.test").parse().unwrap())
            .collect();
        let answers = all(next_hops.iter().map(|hop| resolver.resolve(hop)).collect()).await;
        let failed: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed[0]
        );
    });
}

/// The name server needs longer for all than one look-up may take, but each is answered at once.
#[test]
fn waiting_in_line_is_no_dns_failure() {
    let dns = DnsServer::start();
    dns.delay(Duration::from_millis(20));
    let settings = Settings {
        query_timeout: Duration::from_secs(2),
        resolve_timeout: Duration::from_millis(500),
        families: Families::Ipv4Only,
        lookups_max: 1,
        ..settings(&dns)
    };
    for number in 0..30 {
        dns.mx(&format!("d{number}.test"), 10, "mx.test");
    }
    dns.host("mx.test", "192.0.2.1");
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let next_hops: Vec<NextHop> = (0..30)
            .map(|number| format!("d{number}.test").parse().unwrap())
            .collect();
        let answers = all(next_hops.iter().map(|hop| resolver.resolve(hop)).collect()).await;
        let failed: Vec<_> = answers.iter().filter_map(|it| it.as_ref().err()).collect();
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed[0]
        );
        assert_eq!(resolver.slots.waiting(), 0);
    });
}

#[test]
fn dead_name_server_does_not_hold_the_line_for_hours() {
    let dns = DnsServer::start();
    let settings = Settings {
        query_timeout: Duration::from_millis(20),
        query_retries: 0,
        silence_max: Duration::from_millis(50),
        lookups_max: 1,
        ..settings(&dns)
    };
    let names: Vec<String> = (0..1000).map(|number| format!("d{number}.test")).collect();
    for name in &names {
        dns.fail(name, RecordType::MX, Failure::Silent);
    }
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let next_hops: Vec<NextHop> = names.iter().map(|name| name.parse().unwrap()).collect();
        let answers = all(next_hops.iter().map(|hop| resolver.resolve(hop)).collect()).await;
        assert!(answers.iter().all(|answer| {
            let error = answer.as_ref().expect_err("nobody answers");
            error.status().to_string() == "4.4.3"
        }));
        assert!(show(&answers[999])[0].ends_with("no name server answers"));
    });
    assert!(dns.asked_in_all() < 100, "most were not asked in vain");
}

#[test]
fn address_needs_no_turn() {
    let dns = DnsServer::start();
    dns.fail("a.test", RecordType::MX, Failure::Silent);
    let settings = Settings {
        lookups_max: 1,
        line_max: 0,
        ..settings(&dns)
    };
    run(async {
        let resolver = Resolver::new(settings, own()).unwrap();
        let (silent, named, address) = (
            "a.test".parse().unwrap(),
            "b.test".parse().unwrap(),
            "[192.0.2.7]".parse().unwrap(),
        );
        let (_, named, address) = tokio::join!(
            resolver.resolve(&silent),
            resolver.resolve(&named),
            resolver.resolve(&address)
        );
        let full = "4.4.3 DNS look-up of b.test:25 failed: too many look-ups wait already";
        assert_eq!(show(&named), [full]);
        assert_eq!(show(&address), ["[192.0.2.7] 0 192.0.2.7:25"]);
    });
}

/// One per message in line: a hundred thousand of them are to be tens of megabytes, not hundreds.
#[test]
fn question_in_line_is_small() {
    let dns = DnsServer::start();
    run(async {
        let resolver = resolver(&dns);
        let next_hop = "a.test".parse().unwrap();
        let bytes = size_of_val(&resolver.resolve(&next_hop));
        assert!(bytes <= 512, "{bytes}");
    });
}

#[test]
fn aliases_without_an_end_are_no_sign_that_there_is_no_address() {
    let dns = DnsServer::start();
    dns.mx("a.test", 10, "h0.a.test");
    for link in 0..200 {
        dns.cname(&format!("h{link}.a.test"), &format!("h{}.a.test", link + 1));
    }
    let answer = resolve(&dns, "a.test");
    assert!(answer[0].starts_with("4.4.3 "), "{answer:?}");
    // One that ends, at a name without an address.
    dns.mx("b.test", 10, "h.b.test");
    dns.cname("h.b.test", "none.b.test");
    dns.mx("none.b.test", 10, "h.b.test");
    let answer = resolve(&dns, "b.test");
    assert!(answer[0].starts_with("5.4.4 "), "{answer:?}");
}
