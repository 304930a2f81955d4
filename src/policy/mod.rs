//! What clients may do here: at which port, whom they may send to, and how often they may ask, and how
//! much of the relay's room their mail may hold.
//!
//! Promise: one immutable value that all cores share, and counters without a lock.
//!
//! Not here: the words of a refusal in SMTP (`smtp::server`), and limits on what a session is (`session`,
//! `listener`).

pub mod list_change;
pub mod origin;
pub mod port;
pub mod rates;
pub mod relaying;
pub mod shares;
