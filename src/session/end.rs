//! Why a conversation ended.

use crate::tls::stream::StreamError;
use std::fmt;

/// Why a conversation ended.
pub(super) enum End {
    Closed,
    PeerGone {
        clean: bool,
    },
    Stream(StreamError),
    Handshake(StreamError),
    /// The body came more slowly than `--min-data-rate` allows.
    TooSlow,
    /// It waited longer than `--crowded-timeout` allows.
    CrowdedOut,
    /// Over a limit before the first word.
    Limited,
    Draining,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("closed"),
            End::PeerGone { clean: true } => f.write_str("closed by client"),
            End::PeerGone { clean: false } => f.write_str("closed by client without TLS close"),
            End::Stream(error) => write!(f, "{error}"),
            End::Handshake(error) => write!(f, "handshake failed: {error}"),
            End::TooSlow => f.write_str("message came slower than --min-data-rate"),
            End::CrowdedOut => f.write_str(
                "waited longer than --crowded-timeout, and connections or memory run short",
            ),
            End::Limited => f.write_str("over a limit"),
            End::Draining => f.write_str("shutting down"),
        }
    }
}
