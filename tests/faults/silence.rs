//! A name server that never answers.

use crate::load::Load;
use crate::support::client::{CONTENT, Client};
use crate::support::next_hop::NextHop;
use crate::support::relay::Home;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// More than are looked up at a time.
const DOMAINS: usize = 300;

#[test]
fn a_silent_name_server_holds_up_neither_routed_mail_nor_a_stop() {
    let (home, hop) = (Home::new(), NextHop::start());
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let server = server.local_addr().expect("it is bound").to_string();
    let route = hop.route("example.test");
    let flags = ["--route", &route, "--dns", &server];
    let relay = home.start(&flags);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for number in 0..DOMAINS {
        let to = format!("b@d{number}.test");
        client.accepted("a@sender.test", &[&to], CONTENT);
    }
    let load = Load::new(relay.address(), 2_000);
    load.during(4, || load.wait_for_accepted(100, 0));
    load.wait_until_delivered(&hop);
    assert!(
        relay.events("deferred").is_empty(),
        "it still waits for answers"
    );
    client.quit();
    let began = Instant::now();
    relay.stop();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let listed = home.run(&["spool", "list", &home.spool()]);
    let listed = String::from_utf8(listed.stdout).expect("text");
    let all = format!("{DOMAINS} messages with {DOMAINS} open recipients");
    assert!(listed.contains(&all), "{listed}");
}
