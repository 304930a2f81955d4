//! Defaults give way to flags that were given. `--max-connections 50` alone is meant, although a client may have 100
//! connections by default: so it may have 50.
//!
//! A default is lowered, or raised, to the value that was given, and no further. What was given on the command line, in
//! a file or by a variable is never changed; two such values that exclude each other are
//! `contradictions`.

use super::flags::Flags;
use super::{CoreConfig, Surroundings};
use crate::spool;
use crate::text::units::Bytes;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::fmt::{self, Display};

/// The smallest of their flags.
const SEGMENT_BYTES_LEAST: u64 = 4 << 20;
const MESSAGE_BYTES_LEAST: u64 = 64 << 10;

/// A default that does not count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adjusted {
    /// Its flag without the dashes.
    pub flag: &'static str,
    pub default: String,
    /// What counts instead.
    pub value: String,
    /// The flag that was given, with its value.
    pub to: String,
}

impl Display for Adjusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Adjusted {
            flag,
            default,
            value,
            to,
        } = self;
        write!(
            f,
            "--{flag} is {value} instead of its default {default}: that would contradict {to}"
        )
    }
}

/// Changes the defaults among `flags` that contradict what was given, and says which.
pub fn adjust_defaults(
    flags: &mut Flags,
    matches: &ArgMatches,
    cores: &CoreConfig,
    surroundings: &Surroundings,
) -> Vec<Adjusted> {
    let mut yielding = Yielding {
        matches,
        gave_way: Vec::new(),
    };
    yielding.listeners(flags);
    yielding.limits(flags);
    yielding.delivery(flags);
    let threads = cores.threads(&surroundings.cpus, surroundings.parallelism);
    yielding.spool_size(flags, u16::try_from(threads).unwrap_or(u16::MAX));
    yielding.gave_way
}

struct Yielding<'a> {
    matches: &'a ArgMatches,
    gave_way: Vec<Adjusted>,
}

impl Yielding<'_> {
    fn is_given(&self, flag: &str) -> bool {
        let source = self.matches.value_source(&flag.replace('-', "_"));
        matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    }

    fn replace<T: Display>(&mut self, flag: &'static str, place: &mut T, value: T, to: String) {
        let default = std::mem::replace(place, value).to_string();
        self.gave_way.push(Adjusted {
            flag,
            default,
            value: place.to_string(),
            to,
        });
    }

    /// The first must be at most the second.
    fn at_most<T: PartialOrd + Copy + Display>(
        &mut self,
        (small_flag, small): (&'static str, &mut T),
        (large_flag, large): (&'static str, &mut T),
    ) {
        if *small <= *large {
            return;
        }
        match (self.is_given(small_flag), self.is_given(large_flag)) {
            (false, true) => {
                let to = format!("--{large_flag} {large}");
                self.replace(small_flag, small, *large, to);
            }
            (true, false) => {
                let to = format!("--{small_flag} {small}");
                self.replace(large_flag, large, *small, to);
            }
            // Both were given, which is a contradiction; or neither, and defaults agree.
            _ => {}
        }
    }

    /// Where TLS is expected from the first byte, the default does not listen too.
    fn listeners(&mut self, flags: &mut Flags) {
        let listening = &mut flags.listening;
        if self.is_given("listen") {
            return;
        }
        let in_tls = &listening.listen_tls;
        let taken = |address| in_tls.iter().find(|other| *other == address);
        if let Some(address) = listening.listen.iter().find_map(taken) {
            self.gave_way.push(Adjusted {
                flag: "listen",
                default: address.to_string(),
                value: "none".to_owned(),
                to: format!("--listen-tls {address}"),
            });
            listening.listen.clear();
        }
    }

    fn limits(&mut self, flags: &mut Flags) {
        let limits = &mut flags.limits;
        let total = ("max-connections", &mut limits.max_connections);
        self.at_most(
            (
                "max-connections-per-address",
                &mut limits.max_connections_per_address,
            ),
            total,
        );
        // Not for --reserved-connections, a part: all places would be reserved, and strangers get none.
        let timeouts = &mut flags.timeouts;
        if !timeouts.session_timeout.0.is_zero() {
            self.at_most(
                ("data-timeout", &mut timeouts.data_timeout),
                ("session-timeout", &mut timeouts.session_timeout),
            );
        }
    }

    fn delivery(&mut self, flags: &mut Flags) {
        let delivery = &mut flags.delivery;
        self.at_most(
            ("retry-min", &mut delivery.retry_min),
            ("retry-max", &mut delivery.retry_max),
        );
        self.at_most(
            ("delivery-connections", &mut delivery.delivery_connections),
            (
                "delivery-connections-total",
                &mut delivery.delivery_connections_total,
            ),
        );
    }

    /// A small spool has smaller segments and, if that is not enough, takes smaller messages.
    fn spool_size(&mut self, flags: &mut Flags, threads: u16) {
        let size = flags.spool.spool_size;
        let fits = |segment: u64, message: u64| {
            let settings = spool::Settings {
                segment_bytes: segment,
                message_bytes_max: message,
                ..spool::Settings::default()
            };
            settings.spool_bytes_min(threads) <= size.0
        };
        let (segment, message) = (flags.spool.segment_size.0, flags.limits.max_message_size.0);
        if size.0 == 0 || fits(segment, message) {
            return;
        }
        let chunk = flags.spool.chunk_size.0;
        let least = SEGMENT_BYTES_LEAST.max(chunk * super::contradictions::CHUNKS_PER_SEGMENT_MIN);
        let segments = self.halves("segment-size", segment, least);
        let messages = self.halves("max-message-size", message, MESSAGE_BYTES_LEAST);
        let pairs = messages
            .iter()
            .flat_map(|message| segments.iter().map(move |segment| (*segment, *message)));
        // Where nothing fits, the complaint should say what the smallest would need.
        let found = pairs
            .clone()
            .find(|&(segment, message)| fits(segment, message));
        let (new_segment, new_message) = found.or(pairs.last()).unwrap_or((segment, message));
        let to = format!("--spool-size {size}");
        if new_segment != segment {
            let place = &mut flags.spool.segment_size;
            self.replace("segment-size", place, Bytes(new_segment), to.clone());
        }
        if new_message != message {
            let place = &mut flags.limits.max_message_size;
            self.replace("max-message-size", place, Bytes(new_message), to);
        }
    }

    /// What a default may become, largest first; only itself if it was given.
    fn halves(&self, flag: &str, default: u64, least: u64) -> Vec<u64> {
        let smaller = |value: &u64| Some(value / 2).filter(|half| *half >= least);
        match self.is_given(flag) {
            true => vec![default],
            false => std::iter::successors(Some(default), smaller).collect(),
        }
    }
}
