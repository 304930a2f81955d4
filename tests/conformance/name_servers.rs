//! What the relay expects of a name server, asked of one on the loopback, and with the feature `simulate` of the
//! simulated ones: where the two differ a simulation proves nothing.

#[cfg(not(feature = "simulate"))]
#[path = "../support/dns.rs"]
mod dns;

use ringpost::io::clock;
use ringpost::io::dns::{Code, Denial, Kind, Question, Record, Reply, Server, Settings, servers};
use std::net::SocketAddr;
use std::time::Duration;

const QUERY_TIMEOUT: Duration = Duration::from_millis(400);
const MINUTE: Duration = Duration::from_secs(60);

/// What a server does instead of answering.
#[derive(Clone, Copy)]
enum Fault {
    ServFail,
    Refused,
    NotImp,
    FormErr,
    Referral,
    Silent,
}

/// A server on the loopback.
#[cfg(not(feature = "simulate"))]
mod side {
    use super::*;
    use dns::{DnsServer, Failure};

    pub struct Zone(DnsServer);

    pub fn on_a_host(ask: impl AsyncFnOnce(&Zone)) {
        let zone = Zone(DnsServer::start());
        ringpost::io::runtime::run(ask(&zone)).expect("a ring");
    }

    impl Zone {
        pub fn address(&self) -> SocketAddr {
            self.0.address()
        }

        pub fn mx(&self, domain: &str, preference: u16, host: &str) {
            self.0.mx(domain, preference, host);
        }

        pub fn host(&self, name: &str, address: &str) {
            self.0.host(name, address);
        }

        pub fn alias(&self, name: &str, target: &str) {
            self.0.cname(name, target);
        }

        pub fn set_ttl(&self, ttl: Duration) {
            self.0.set_ttl(ttl.as_secs() as u32);
        }

        pub fn fail(&self, name: &str, kind: Kind, fault: Fault) {
            use hickory_resolver::proto::rr::RecordType;
            let record_type = match kind {
                Kind::A => RecordType::A,
                Kind::Aaaa => RecordType::AAAA,
                Kind::Mx => RecordType::MX,
            };
            self.0.fail(name, record_type, failure(fault));
        }

        pub fn fail_edns(&self, fault: Fault) {
            self.0.fail_edns(failure(fault));
        }

        pub fn deny_without_soa(&self) {
            self.0.deny_without_soa();
        }

        pub fn answer_after(&self, wait: Duration) {
            self.0.delay(wait);
        }
    }

    fn failure(fault: Fault) -> Failure {
        match fault {
            Fault::ServFail => Failure::ServFail,
            Fault::Refused => Failure::Refused,
            Fault::NotImp => Failure::NotImp,
            Fault::FormErr => Failure::FormErr,
            Fault::Referral => Failure::Referral,
            Fault::Silent => Failure::Silent,
        }
    }
}

/// A server of a world.
#[cfg(feature = "simulate")]
mod side {
    use super::*;
    use ringpost::io::simulated::{self, Manner, Names, Order, Owner, World};
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    pub struct Zone {
        world: Rc<World>,
        manner: RefCell<Manner>,
    }

    pub fn on_a_host(ask: impl AsyncFnOnce(&Zone) + Copy + 'static) {
        for seed in 0..20 {
            let world = World::begin(seed, false);
            world.set_order(Order::Any);
            let zone = Zone {
                world: Rc::clone(&world),
                manner: RefCell::default(),
            };
            zone.serve(|_| {});
            let has_ended = Rc::new(Cell::new(false));
            let ended = has_ended.clone();
            world.spawn(Owner::Core(0), async move {
                ask(&zone).await;
                ended.set(true);
            });
            while !has_ended.get() {
                assert!(world.step(), "it waits for ever");
            }
        }
    }

    impl Zone {
        pub fn address(&self) -> SocketAddr {
            "192.0.2.53:53".parse().expect("an address")
        }

        fn serve(&self, change: impl FnOnce(&mut Manner)) {
            let mut manner = self.manner.borrow_mut();
            change(&mut manner);
            self.change(|names| names.serve(self.address(), manner.clone()));
        }

        fn change(&self, change: impl FnOnce(&mut Names)) {
            change(&mut self.world.names());
        }

        pub fn mx(&self, domain: &str, preference: u16, host: &str) {
            self.change(|names| names.mx(domain, preference, host));
        }

        pub fn host(&self, name: &str, address: &str) {
            let address = address.parse().expect("an address");
            self.change(|names| names.host(name, address));
        }

        pub fn alias(&self, name: &str, target: &str) {
            self.change(|names| names.alias(name, target));
        }

        pub fn set_ttl(&self, ttl: Duration) {
            self.change(|names| names.ttl = ttl);
        }

        pub fn fail(&self, name: &str, kind: Kind, fault: Fault) {
            self.change(|names| names.fail(name, kind, of_a_world(fault)));
        }

        pub fn fail_edns(&self, fault: Fault) {
            self.serve(|manner| manner.fault_of_edns = Some(of_a_world(fault)));
        }

        pub fn deny_without_soa(&self) {
            self.serve(|manner| manner.denies_without_soa = true);
        }

        pub fn answer_after(&self, wait: Duration) {
            self.serve(|manner| manner.takes = wait..wait);
        }
    }

    fn of_a_world(fault: Fault) -> simulated::Fault {
        match fault {
            Fault::ServFail => simulated::Fault::Code(Code::SERVFAIL),
            Fault::Refused => simulated::Fault::Code(Code::REFUSED),
            Fault::NotImp => simulated::Fault::Code(Code::NOTIMP),
            Fault::FormErr => simulated::Fault::Code(Code::FORMERR),
            Fault::Referral => simulated::Fault::Referral,
            Fault::Silent => simulated::Fault::Silent,
        }
    }
}

use side::{Zone, on_a_host};

fn server_at(address: SocketAddr) -> Server {
    let settings = Settings {
        query_timeout: QUERY_TIMEOUT,
        queries_max: 100,
    };
    let mut servers = servers(&[address], &settings).expect("good settings");
    servers.remove(0)
}

async fn ask(zone: &Zone, name: &str, kind: Kind) -> Reply {
    ask_with(zone, name, kind, true).await
}

async fn ask_with(zone: &Zone, name: &str, kind: Kind, edns: bool) -> Reply {
    let question = Question::new(name, kind).expect("a name");
    server_at(zone.address()).ask(&question, edns).await
}

/// The records, and how long they are good.
async fn records(zone: &Zone, name: &str, kind: Kind) -> (Vec<Record>, Duration) {
    match ask(zone, name, kind).await {
        Reply::Records { records, ttl } => (records, ttl),
        other => panic!("{other:?}"),
    }
}

fn mx(preference: u16, exchange: &str) -> Record {
    Record::Mx {
        preference,
        exchange: exchange.into(),
    }
}

fn address(text: &str) -> Record {
    Record::Address(text.parse().expect("an address"))
}

#[test]
fn mx_records_come_with_their_names_and_the_null_mx_as_the_root() {
    on_a_host(async |zone| {
        zone.mx("a.test", 20, "second.test");
        zone.mx("a.test", 10, "first.test");
        zone.mx("null.test", 0, ".");
        let (mut found, _) = records(zone, "A.test", Kind::Mx).await;
        found.sort_by_key(|record| format!("{record:?}"));
        assert_eq!(found, [mx(10, "first.test."), mx(20, "second.test.")]);
        let (found, _) = records(zone, "null.test", Kind::Mx).await;
        assert_eq!(found, [mx(0, ".")]);
    });
}

#[test]
fn only_records_of_the_kind_that_was_asked_for_come() {
    on_a_host(async |zone| {
        zone.host("a.test", "192.0.2.1");
        zone.host("a.test", "2001:db8::1");
        zone.mx("a.test", 10, "a.test");
        assert_eq!(
            records(zone, "a.test", Kind::A).await.0,
            [address("192.0.2.1")]
        );
        assert_eq!(
            records(zone, "a.test", Kind::Aaaa).await.0,
            [address("2001:db8::1")]
        );
    });
}

#[test]
fn an_answer_is_good_for_its_ttl() {
    on_a_host(async |zone| {
        zone.host("a.test", "192.0.2.1");
        for ttl in [MINUTE, 60 * MINUTE] {
            zone.set_ttl(ttl);
            let (_, found) = records(zone, "a.test", Kind::A).await;
            let a_moment = Duration::from_secs(2);
            assert!(found <= ttl && found + a_moment > ttl, "{found:?}");
        }
    });
}

#[test]
fn a_denial_says_whether_there_is_such_a_name_and_how_long_that_is_good() {
    on_a_host(async |zone| {
        zone.host("a.test", "192.0.2.1");
        zone.host("below.b.test", "192.0.2.1");
        zone.set_ttl(MINUTE);
        for (name, name_exists) in [("a.test", true), ("b.test", true), ("c.test", false)] {
            let expected = Denial {
                name_exists,
                ttl: Some(MINUTE),
                is_proven: true,
                is_of_alias: false,
            };
            let reply = ask(zone, name, Kind::Mx).await;
            assert_eq!(reply, Reply::Denied(expected), "{name}");
        }
    });
}

#[test]
fn a_denial_without_soa_proves_nothing() {
    on_a_host(async |zone| {
        zone.deny_without_soa();
        let reply = ask(zone, "a.test", Kind::Mx).await;
        let expected = Denial {
            name_exists: false,
            ttl: None,
            is_proven: false,
            is_of_alias: false,
        };
        assert_eq!(reply, Reply::Denied(expected));
    });
}

#[test]
fn aliases_are_followed_to_records_and_to_denials() {
    on_a_host(async |zone| {
        zone.alias("a.test", "b.test");
        zone.alias("b.test", "c.test");
        zone.host("c.test", "192.0.2.1");
        zone.alias("astray.test", "nowhere.test");
        assert_eq!(
            records(zone, "a.test", Kind::A).await.0,
            [address("192.0.2.1")]
        );
        for (name, exists) in [("a.test", true), ("astray.test", false)] {
            let reply = ask(zone, name, Kind::Mx).await;
            let Reply::Denied(denial) = reply else {
                panic!("{name}: {reply:?}")
            };
            assert_eq!(
                (denial.name_exists, denial.is_proven),
                (exists, true),
                "{name}"
            );
        }
    });
}

#[test]
fn an_alias_of_itself_is_a_denial_that_proves_nothing() {
    on_a_host(async |zone| {
        zone.alias("a.test", "b.test");
        zone.alias("b.test", "a.test");
        let reply = ask(zone, "a.test", Kind::A).await;
        match reply {
            Reply::Denied(denial) => assert!(!denial.is_proven, "{denial:?}"),
            Reply::Records { records, .. } => assert_eq!(records, []),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_error_is_told_as_what_it_is() {
    on_a_host(async |zone| {
        let table = [
            (Fault::ServFail, Reply::Code(Code::SERVFAIL)),
            (Fault::Refused, Reply::Code(Code::REFUSED)),
            (Fault::NotImp, Reply::Code(Code::NOTIMP)),
            (Fault::FormErr, Reply::Code(Code::FORMERR)),
            (Fault::Referral, Reply::Referral),
        ];
        for (fault, expected) in table {
            zone.fail("a.test", Kind::Mx, fault);
            assert_eq!(ask(zone, "a.test", Kind::Mx).await, expected);
        }
        assert_eq!(Code::SERVFAIL.to_string(), "Server Failure");
    });
}

#[test]
fn a_server_that_knows_no_edns_answers_without() {
    on_a_host(async |zone| {
        zone.host("a.test", "192.0.2.1");
        zone.fail_edns(Fault::FormErr);
        let with = ask_with(zone, "a.test", Kind::A, true).await;
        assert_eq!(with, Reply::Code(Code::FORMERR));
        let without = ask_with(zone, "a.test", Kind::A, false).await;
        assert!(matches!(without, Reply::Records { .. }), "{without:?}");
    });
}

#[test]
fn silence_takes_the_time_of_a_query_and_so_does_an_answer_that_is_too_late() {
    on_a_host(async |zone| {
        zone.host("a.test", "192.0.2.1");
        zone.fail("a.test", Kind::Mx, Fault::Silent);
        let began = clock::now();
        assert_eq!(ask(zone, "a.test", Kind::Mx).await, Reply::Silence);
        let took = clock::now().since(began);
        assert!(
            took >= QUERY_TIMEOUT && took < 3 * QUERY_TIMEOUT,
            "{took:?}"
        );
        zone.answer_after(QUERY_TIMEOUT / 4);
        let (found, _) = records(zone, "a.test", Kind::A).await;
        assert_eq!(found, [address("192.0.2.1")]);
        zone.answer_after(2 * QUERY_TIMEOUT);
        assert_eq!(ask(zone, "a.test", Kind::A).await, Reply::Silence);
    });
}

#[test]
fn an_answer_too_large_for_udp_comes_all_the_same() {
    on_a_host(async |zone| {
        for host in 0..60 {
            zone.mx(
                "a.test",
                10,
                &format!("a-host-with-a-long-name-{host}.test"),
            );
        }
        for edns in [true, false] {
            let reply = ask_with(zone, "a.test", Kind::Mx, edns).await;
            match reply {
                Reply::Records { records, .. } => assert_eq!(records.len(), 60),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn where_nobody_listens_there_is_silence() {
    on_a_host(async |_| {
        let nobody = "127.0.0.1:9".parse().expect("an address");
        let question = Question::new("a.test", Kind::A).expect("a name");
        let reply = server_at(nobody).ask(&question, true).await;
        assert_eq!(reply, Reply::Silence);
    });
}

#[test]
fn a_name_that_cannot_be_asked_for_is_no_question() {
    assert!(Question::new(&"a".repeat(64), Kind::Mx).is_none());
    assert!(Question::new("a..test", Kind::Mx).is_none());
}
