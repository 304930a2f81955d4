//! What is sent, so that it is known again: addresses that follow from the message's number, and
//! content with a mark and a checksum.
//!
//! Promise: whatever arrives is known from itself; nothing need be stored beforehand.
//! Not here: who was promised what (`ledger`), sockets.

pub mod address;
pub mod message;
