//! ringpost: a durable SMTP relay with automatic TLS, one io_uring per thread.
//!
//! ```text
//! listener -> session -> spool -> handoff -> delivery -> remote
//!  accept     SMTP+TLS   commit   lane       schedule    SMTP+TLS to the next hop
//! ```
//!
//! A room imports only from rooms of a lower level:
//!
//! | level | rooms | what they know |
//! |---|---|---|
//! | 0 | `message` `time` `metrics` `config` `log` | plain values |
//! | 1 | `smtp` `schedule` | pure machines: events and the time in, actions out |
//! | 2 | `io` `tls` `spool` `handoff` | the ring, rustls, the disk, other threads |
//! | 3 | `listener` -> `session`, `delivery` -> `remote` | one connection, one next hop |
//! | 4 | `engine` | threads, start, drain; the list of all that cores share |
//!
//! `session` and `delivery` never import each other; they meet in `spool` and `handoff`.

pub mod config;
pub mod log;
pub mod message;
pub mod metrics;
pub mod time;

pub mod schedule;
pub mod smtp;

pub mod handoff;
pub mod io;
pub mod spool;
pub mod tls;

pub mod delivery;
pub mod listener;
pub mod remote;
pub mod session;

pub mod engine;
