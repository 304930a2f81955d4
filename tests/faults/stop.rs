//! Stops in the middle of a load with TLS on both sides.

use crate::load::{Load, Told};
use crate::support::next_hop::NextHop;
use crate::support::relay::{Home, PROGRAM, Relay};
use crate::support::relay_by;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const CLIENTS: usize = 12;
const DRAIN: Duration = Duration::from_secs(5);

fn start(home: &Home, hop: &NextHop) -> Relay {
    let flags = ["--drain-timeout", "5s"];
    relay_by(home, Command::new(PROGRAM), hop, &flags)
}

/// Signals the relay under load; gives how long its end took.
fn stop_under_load(relay: &mut Relay, load: &Load, signals: usize) -> Duration {
    load.during(CLIENTS, || {
        load.wait_for_accepted(200, 0);
        let began = Instant::now();
        for _ in 0..signals {
            relay.signal("TERM");
            relay.wait_for("stopping", |_| true);
        }
        relay.wait();
        began.elapsed()
    })
}

/// The kernel takes the ring of a relay that was killed apart after its end, and the port is taken until
/// then.
#[test]
fn a_port_that_a_killed_predecessor_still_has_is_waited_for() {
    let home = Home::new();
    let predecessor = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = predecessor.local_addr().expect("it is bound").to_string();
    let relay = home.spawn(&["--listen", &address]);
    // Nothing tells that it has found the port taken.
    std::thread::sleep(Duration::from_millis(500));
    drop(predecessor);
    relay.wait_until_ready();
    relay.stop();
}

#[test]
fn a_stop_under_load_answers_everybody_and_loses_nothing() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = start(&home, &hop);
    let load = Load::new(relay.address(), 5_000).with_tls();
    let took = stop_under_load(&mut relay, &load, 1);
    assert!(took < DRAIN, "{took:?}");
    assert_eq!(relay.events("stop")[0]["how"], "drained");
    let told = load.told(0);
    let known = [Told::Reply(250), Told::Reply(421)];
    assert!(told.iter().all(|told| known.contains(told)), "{told:?}");
    let relay = start(&home, &hop);
    assert_eq!(load.wait_until_delivered(&hop), 0);
    relay.stop();
}

#[test]
fn a_second_signal_under_load_ends_at_once_and_loses_nothing() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = start(&home, &hop);
    let load = Load::new(relay.address(), 5_000).with_tls();
    let took = stop_under_load(&mut relay, &load, 2);
    assert!(took < DRAIN, "{took:?}");
    let relay = start(&home, &hop);
    load.wait_until_delivered(&hop);
    relay.stop();
}
