//! A calendar that jumps by years, as it does when a clock without a battery hears of the time.

use crate::Gate;
use crate::support::client::{CONTENT, send_mail};
use crate::support::relay::{Home, PROGRAM, Relay};
use crate::support::relay_by;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Instant;

const TEN_YEARS_S: i64 = 10 * 365 * 24 * 3600;

/// A relay whose calendar can be set.
struct Scene {
    home: Home,
    gate: Gate,
    offset: std::fs::File,
}

impl Scene {
    fn new() -> Self {
        let home = Home::new();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/clock.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
        compile.arg(home.path("clock.so")).arg(source).arg("-ldl");
        assert!(compile.status().expect("cc runs").success());
        let offset = std::fs::File::create(home.path("offset")).expect("a file");
        let scene = Scene {
            home,
            gate: Gate::closed(),
            offset,
        };
        scene.set_calendar(0);
        scene
    }

    fn set_calendar(&self, offset_s: i64) {
        let written = self.offset.write_all_at(&offset_s.to_ne_bytes(), 0);
        written.expect("it can be written");
    }

    fn start(&self) -> Relay {
        let mut command = Command::new(PROGRAM);
        command.env("LD_PRELOAD", self.home.path("clock.so"));
        command.env("CALENDAR_OFFSET", self.home.path("offset"));
        let flags = ["--queue-lifetime", "5d"];
        relay_by(&self.home, command, &self.gate.hop, &flags)
    }

    fn send(&self, relay: &Relay) {
        send_mail(
            relay.address(),
            "a@sender.test",
            &["b@example.test"],
            CONTENT,
        );
    }

    /// Waits until the relay has tried in vain so many times more.
    fn wait_for_tries(relay: &Relay, more: usize) {
        let before = relay.events("deferred").len();
        relay.wait_for_count("deferred", before + more, |_| true);
    }

    /// It had been tried about once a second, neither more nor less, and nothing was returned.
    fn judge(&self, relay: &Relay, since: Instant) {
        let tries = relay.events("deferred").len() as u64;
        let seconds = since.elapsed().as_secs();
        assert!(tries <= seconds + 2, "{tries} tries in {seconds} s");
        assert_eq!(relay.events("bounced").len(), 0, "{}", relay.log_text());
    }
}

#[test]
fn mail_is_neither_returned_nor_hurried_nor_forgotten_when_the_calendar_jumps() {
    let scene = Scene::new();
    let (relay, since) = (scene.start(), Instant::now());
    scene.send(&relay);
    Scene::wait_for_tries(&relay, 1);
    for offset_s in [TEN_YEARS_S, -TEN_YEARS_S, 0] {
        scene.set_calendar(offset_s);
        Scene::wait_for_tries(&relay, 2);
        scene.judge(&relay, since);
    }
    scene.gate.open();
    scene.gate.hop.wait_for_mail(1);
    relay.stop();
}

#[test]
fn mail_goes_on_after_a_restart_with_a_calendar_set_back_and_ids_stay_unique() {
    let scene = Scene::new();
    scene.set_calendar(TEN_YEARS_S);
    let relay = scene.start();
    scene.send(&relay);
    Scene::wait_for_tries(&relay, 1);
    let mut ids: BTreeSet<String> = BTreeSet::new();
    let mut note_ids = |relay: &Relay| {
        for event in relay.events("accepted") {
            let id = event["id"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id), "{event}");
        }
    };
    note_ids(&relay);
    relay.kill();
    scene.set_calendar(0);
    let (relay, since) = (scene.start(), Instant::now());
    scene.send(&relay);
    Scene::wait_for_tries(&relay, 3);
    note_ids(&relay);
    // Two messages, each once a second.
    let tries = relay.events("deferred").len() as u64;
    let seconds = since.elapsed().as_secs();
    assert!(tries <= 2 * (seconds + 2), "{tries} tries in {seconds} s");
    scene.gate.open();
    scene.gate.hop.wait_for_mail(2);
    relay.stop();
}
