//! SMTP (RFC 5321) and its extensions, both sides, as machines without sockets.
//!
//! `server` and `client` take octets and the time and say what to send and what to do; the rest are their parts:
//! grammar, replies, content, trace fields.
//!
//! Promise: the same octets give the same actions, however they are cut into pieces; no input costs more than
//! its length, and none is kept beyond a limit with a name.
//! Not here: sockets, TLS, clocks, the spool, and who may relay (`policy`).

pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod extension;
pub mod header;
pub mod refusal;
pub mod refusals;
pub mod reply;
pub mod server;
pub mod trace;
pub mod xtext;
