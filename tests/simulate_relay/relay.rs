//! How the relay is set up: by its own flags, and smaller than any flag allows.

use crate::neighbours;
use crate::network::NAME_SERVER;
use crate::plan::Choice;
use crate::world::World;
use ringpost::config::{Command, Config, Surroundings};
use ringpost::io::whole::Kinds;
use ringpost::schedule::retry::RetryPolicy;
use ringpost::tls::ServerKeys;
use ringpost::tls::certificate;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

pub const HOSTNAME: &str = "relay.test";
pub const RECIPIENTS_MAX: usize = 5;
pub const SPOOL: &str = "/spool";

/// Where the relay listens: STARTTLS or none, and TLS from the first octet.
pub fn listens_at() -> [SocketAddr; 2] {
    [25, 465].map(|port| SocketAddr::from(([192, 0, 2, 1], port)))
}

/// Made once for all worlds, and others in each process. Signatures of Ed25519 have one length, whatever they sign, and a
/// serial number that is given has one too: lengths are all that a world sees of them.
pub fn keys() -> ServerKeys {
    static KEYS: OnceLock<ServerKeys> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let names = vec![HOSTNAME.to_owned()];
        let mut params = rcgen::CertificateParams::new(names).expect("a name");
        params.serial_number = Some(1.into());
        let certificate = params.self_signed(&key).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        let (chain, private) = (directory.path().join("chain"), directory.path().join("key"));
        std::fs::write(&chain, certificate.pem()).expect("it is written");
        std::fs::write(&private, key.serialize_pem()).expect("it is written");
        certificate::load(&chain, &private, Kinds::Any).expect("it is a certificate with its key")
    });
    keys.clone()
}

/// What the seed makes of a relay.
pub struct Setting {
    pub config: Config,
    flags: String,
    pub has_tls: bool,
}

impl Setting {
    pub fn draw(world: &World) -> Setting {
        let has_tls = world.may(Choice::Tls, 4);
        let min = 1 + world.below(20) as u64;
        let lifetime = *world.pick(&[60, 60, 300]);
        let of_reports = *world.pick(&[60, 300]);
        let [smtp, smtps] = listens_at();
        let tls = match has_tls {
            true => format!("--listen-tls {smtps} --tls-out may"),
            false => "--no-starttls --tls-out none".to_owned(),
        };
        let window = *world.pick(&["0s", "500ms", "1s", "2s"]);
        let held = *world.pick(&["0", "16KiB", "2MiB"]);
        let flags = format!(
            "ringpost --listen {smtp} {tls} --hostname {HOSTNAME} --spool {SPOOL} --tls-dir /tls \
             --relay-domain d0.test,d1.test,d2.test,d3.test,d4.test,gone.test,{} --relay-from none \
             --dns {NAME_SERVER} --dns-timeout 2s --retry-min {min}s --retry-max {}s \
             --queue-lifetime {lifetime}s --bounce-lifetime {of_reports}s --report-window {window} --max-message-size 64KiB \
             --chunk-size 16KiB --in-memory-size {held} --idle-timeout 2s --connect-timeout 5s \
             --greeting-timeout 10s --reply-timeout 10s --send-timeout 10s --final-reply-timeout 12s \
             --handshake-timeout 5s --crowded-timeout 5s --command-timeout 30s --data-timeout 20s",
            neighbours::domains(),
            4 * min
        );
        let mut config = read(&flags);
        config.server.max_recipients = RECIPIENTS_MAX;
        let segment_bytes = 64 * 1024 * [1, 2, 4][world.below(3)];
        config.spool.settings.segment_bytes = segment_bytes;
        config.spool.settings.keep_free_bytes = 0;
        if world.one_in(2) {
            config.delivery.unrecorded_max = 1 + world.below(6);
        }
        config.schedule.window_initial = 1 + world.below(3) as u32;
        config.schedule.jobs_per_new_connection = 1 + world.below(3) as u32;
        if world.one_in(2) {
            config.delivery.hand_over_delay = Duration::from_millis(world.below(50) as u64);
        }
        let mut ledger = world.ledger.borrow_mut();
        ledger.lifetime = lifetime_of(&config.delivery.retry);
        ledger.report_lifetime = lifetime_of(&config.delivery.report_retry);
        ledger.told.window = config.delivery.report_window;
        drop(ledger);
        Setting {
            config,
            flags,
            has_tls,
        }
    }

    /// From now on this is a relay domain, and its route leads to the hosts of another one.
    pub fn add_domain(&mut self, domain: &str, of_hosts: &str) {
        let more = format!(" --relay-domain {domain} --route {domain}={of_hosts}");
        self.flags.push_str(&more);
        let read = read(&self.flags);
        (self.config.relaying, self.config.routes) = (read.relaying, read.routes);
    }
}

fn read(flags: &str) -> Config {
    let arguments = flags.split_whitespace().map(OsString::from);
    match Config::from_args_on(arguments, &Surroundings::default()) {
        Ok(Command::Run(config)) => *config,
        Ok(other) => panic!("{other:?}"),
        Err(exit) => panic!("{exit:?}"),
    }
}

fn lifetime_of(policy: &RetryPolicy) -> Duration {
    policy.lifetime
}
