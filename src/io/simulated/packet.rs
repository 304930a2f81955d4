//! What travels over the network.

use std::os::fd::RawFd;

/// What comes to a socket at its time.
pub enum Arrival {
    Bytes(Vec<u8>),
    End,
    Reset,
    /// The peer has read so much.
    Room(usize),
    /// Our first packet comes to the peer.
    Syn,
    /// The answer to it. 0: the connection stands.
    SynAnswer(i32),
}

/// To which socket, from which.
pub struct Packet {
    pub to: RawFd,
    pub from: RawFd,
    pub arrival: Arrival,
}
