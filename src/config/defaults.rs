//! Defaults that a flag and a room share. They stand here alone: the flag shows them, and the room's
//! own defaults, which tests and simulations run with, are these.

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

pub const RETRY_MIN: Duration = MINUTE.saturating_mul(5);
pub const RETRY_MAX: Duration = MINUTE.saturating_mul(60);
pub const QUEUE_LIFETIME: Duration = MINUTE.saturating_mul(5 * 24 * 60);
pub const CONNECTIONS_PER_HOP_MAX: u32 = 20;
pub const CONNECTIONS_OUT_MAX: u32 = 2000;
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
pub const CROWDED_TIMEOUT: Duration = Duration::from_secs(30);
pub const DNS_TIMEOUT: Duration = Duration::from_secs(5);
pub const SEGMENT_BYTES: u64 = 64 << 20;
pub const MESSAGE_BYTES_MAX: u64 = 50 << 20;
pub const RECIPIENTS_MAX: u32 = 1000;
pub const ERRORS_MAX: u32 = 20;
pub const HOPS_MAX: u32 = 100;
pub const BANNER: &str = "ESMTP ringpost";
