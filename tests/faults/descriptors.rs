//! No descriptors left: a host with a small limit, and clients that hold theirs.

use crate::load::Load;
use crate::support::link::Link;
use crate::support::next_hop::NextHop;
use crate::support::relay::{Home, PROGRAM, Relay};
use crate::support::relay_by;
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
