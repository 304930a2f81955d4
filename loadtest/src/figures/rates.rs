//! Per second, and per message.

use serde::{Deserialize, Serialize};

/// Per second, and per accepted message.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    pub accepted_per_second: f64,
    pub delivered_per_second: f64,
    pub accepted_bytes_per_second: f64,
    pub delivered_bytes_per_second: f64,
    pub handshakes_in_full_per_second: f64,
    pub handshakes_in_resumed_per_second: f64,
    pub handshakes_out_full_per_second: f64,
    pub handshakes_out_resumed_per_second: f64,
    pub handshakes_in_per_message: f64,
    pub handshakes_out_per_message: f64,
    pub relay_cpu_us_per_message: Option<f64>,
    pub relay_messages_per_commit: Option<f64>,
    pub source_cpu_us_per_message: f64,
    pub sink_cpu_us_per_message: f64,
}

/// A rate over less than this is made of the clock's steps.
const RATE_SECONDS_MIN: f64 = 1e-3;

/// 0 if the time is too short to tell.
pub fn per_second(count: u64, seconds: f64) -> f64 {
    match seconds >= RATE_SECONDS_MIN {
        true => count as f64 / seconds,
        false => 0.0,
    }
}

/// 0 if there is no message.
pub fn per_message(count: u64, messages: u64) -> f64 {
    match messages {
        0 => 0.0,
        messages => count as f64 / messages as f64,
    }
}
