//! No descriptors left: a host with a small limit, and clients that hold theirs.

use crate::load::Load;
use crate::support::client::Client;
use crate::support::link::Link;
use crate::support::next_hop::NextHop;
use crate::support::relay::{Home, PROGRAM, Relay, input_from, with_socket};
use crate::support::relay_by;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const DESCRIPTORS: &str = "--nofile=100:100";
const HOLDERS: usize = 150;
const CLIENTS: usize = 6;

/// CPU time that the relay has used.
fn cpu_time(relay: &Relay) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", relay.pid()));
    let stat = stat.expect("the relay runs");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("ticks");
    // Fields 14 and 15 of proc(5), 100 to the second.
    Duration::from_millis(10 * (ticks(12) + ticks(13)))
}

#[test]
fn without_descriptors_clients_wait_deliveries_back_off_and_nothing_is_lost() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--max-connections-per-address",
        "0",
        "--max-deliveries-per-connection",
        "1",
    ];
    let mut command = Command::new("prlimit");
    command.args([DESCRIPTORS, "--", PROGRAM]);
    let relay = relay_by(&home, command, &hop, &flags);
    let load = Load::new(relay.address(), 5_000);
    let began = Instant::now();
    let mut holders = Vec::new();
    load.during(CLIENTS, || {
        load.wait_for_accepted(20, 0);
        let connect =
            || Link::connect(relay.address()).expect("the kernel has a place in the queue");
        holders.extend(std::iter::repeat_with(connect).take(HOLDERS));
        let failed = relay.wait_for("accept-failed", |_| true);
        let advice = failed["remedy"].as_str().expect("what to do");
        assert!(advice.contains("LimitNOFILE="), "{failed}");
        relay.wait_for_count("connect-failed", 2, |_| true);
    });
    // Only time tells whether it rests.
    let before = cpu_time(&relay);
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_time(&relay) - before;
    assert!(used < Duration::from_millis(300), "{used:?} in a second");
    let lines = relay.events("accept-failed").len();
    let seconds = began.elapsed().as_secs() as usize;
    assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
    drop(holders);
    let again = Load::new(relay.address(), 5_000);
    again.during(CLIENTS, || again.wait_for_accepted(20, 0));
    load.wait_until_delivered(&hop);
    relay.stop();
}

/// Holds clients until the relay has no descriptor left; and one more, which waits in the queue.
fn exhaust(relay: &Relay) -> (Vec<Link>, Client) {
    let limited = Command::new("prlimit")
        .args(["--pid", &relay.pid().to_string(), DESCRIPTORS])
        .status();
    assert!(limited.expect("prlimit runs").success());
    let connect = || Link::connect(relay.address()).expect("the kernel has a place in the queue");
    let holders = std::iter::repeat_with(connect).take(HOLDERS).collect();
    relay.wait_for("accept-failed", |_| true);
    (holders, Client::connect_silently(relay.address()))
}

#[test]
fn a_relay_that_leaves_without_descriptors_leaves_a_shared_queue_to_the_next_one() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let start = || {
        let relay = home.spawn_with_input(with_socket("smtp"), input_from(&listener), &[]);
        relay.wait_until_ready();
        relay
    };
    let mut relay = start();
    let mut busy = Client::connect(relay.address());
    busy.expect("EHLO client.test", 250);
    busy.expect("MAIL FROM:<a@sender.test>", 250);
    let (holders, mut waiting) = exhaust(&relay);
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    drop(holders);
    // Nothing happens meanwhile, which is the point: it has descriptors again, and could accept.
    std::thread::sleep(Duration::from_millis(500));
    drop(busy);
    assert!(relay.wait().success());
    assert_eq!(relay.events("stop")[0]["how"], "drained");
    let relay = start();
    waiting.expect_reply(220);
    relay.stop();
}

#[test]
fn who_waits_for_descriptors_is_told_that_the_relay_stops() {
    let home = Home::new();
    let mut relay = home.start(&[]);
    let (holders, mut waiting) = exhaust(&relay);
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    drop(holders);
    waiting.expect_reply(421);
    drop(waiting);
    assert!(relay.wait().success());
}
