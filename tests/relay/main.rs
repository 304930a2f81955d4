//! The relay as a process, and its rooms against the real world: loopback, files, OpenSSL. One program, because each links
//! the whole relay.
//!
//! Tests run beside each other here. What sets something of its own process, needs most of its descriptors or of the CPU, or
//! writes a program and runs it, is a program of its own: `limits`, `faults`, `installation`.

mod check;
mod config;
mod damaged_content;
mod end_to_end;
mod exported_mail;
mod hostile_peers;
mod log_lines;
mod looked_at;
mod neighbours;
mod privileges;
mod reload;
mod resolve;
mod shares;
mod signals;
#[path = "../support/mod.rs"]
mod support;
mod tls_interop;
mod ways;
mod what_goes_back;
