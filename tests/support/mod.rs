//! What the end-to-end tests stand on: the relay as a process, a client, a scripted next hop, and
//! a name server. Everything waits for events, and no longer than [`PATIENCE`].
#![allow(dead_code, reason = "every test uses its own part")]

pub mod client;
pub mod dns;
pub mod link;
pub mod mx_hosts;
pub mod next_hop;
pub mod relay;
pub mod stopped_thread;

use client::Client;
use next_hop::NextHop;
use relay::{Home, PROGRAM, Relay};
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The longest wait for anything that should happen at once; machines under load are slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A value that threads change and the test waits for.
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Watched {
            value: Mutex::new(value),
            changed: Condvar::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// What `found` makes of the value, as soon as it makes something; `None` after `patience`.
    pub fn wait<R>(&self, patience: Duration, mut found: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + patience;
        let mut value = self.lock();
        loop {
            if let Some(result) = found(&value) {
                return Some(result);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            value = match self.changed.wait_timeout(value, left) {
                Ok((value, _)) => value,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// A relay that sends everything to this hop, and tries again after a second.
pub fn relay_to(home: &Home, hop: &NextHop, flags: &[&str]) -> Relay {
    relay_by(home, Command::new(PROGRAM), hop, flags)
}

/// The same by a command that ends in the program.
pub fn relay_by(home: &Home, command: Command, hop: &NextHop, flags: &[&str]) -> Relay {
    let route = hop.route("*");
    let mut all = vec!["--route", &route, "--retry-min", "1s", "--retry-max", "1s"];
    all.extend(flags);
    let relay = home.spawn_by(command, &all);
    relay.wait_until_ready();
    relay
}

/// A new self-signed certificate for `relay.test`, and the paths of its files: DER, chain, key.
pub fn certificate_files(home: &Home) -> (Vec<u8>, String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
    let certificate = home.file("cert.pem", &made.cert.pem());
    let key = home.file("key.pem", &made.signing_key.serialize_pem());
    (made.cert.der().to_vec(), certificate, key)
}

/// The certificate, as DER, that whoever connects now is shown after STARTTLS.
pub fn certificate_shown_by(relay: &Relay) -> Vec<u8> {
    let client = Client::connect_with_starttls(relay.address());
    client.link.peer_certificate()
}
