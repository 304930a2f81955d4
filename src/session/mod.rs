//! One inbound connection: drives `smtp::server` over a stream and makes messages durable.
//!
//! `serve` goes through a connection, `asked` answers what the machine asks, `pace` says how long a client may take,
//! `incoming` holds the message that comes, `shares` whose room it takes, `context` is what all sessions of a core share.
//!
//! Promise: the machine says 250 only with a receipt of the spool in hand.
//! Not here: what happens to a message afterwards. It leaves through [`Context::accepted`].

mod asked;
mod context;
mod end;
mod incoming;
mod log;
mod pace;
mod serve;
mod shares;
pub mod tls_memory;

pub use context::{
    CHUNK_BYTES, COMMAND_TIMEOUT, Context, DATA_TIMEOUT, DeadEnd, Destinations, IN_MEMORY_BYTES,
    Lines, MIN_DATA_RATE, SESSION_TIMEOUT, Sessions, Settings, State, TakeOver, Terms, Timeouts,
};
pub use incoming::{Held, Room};
pub use serve::serve;
