//! Listening sockets that a service manager opened for us (`sd_listen_fds(3)`).

use crate::io::net::Bound;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets in `LISTEN_FDS` with their names of `LISTEN_FDNAMES`; none if the variables are not
/// for this process. Only the first call gets them.
///
/// # Errors
/// If one is no listening TCP socket, or the variables are damaged.
pub fn listeners() -> io::Result<Vec<(Bound, String)>> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    sd_notify::listen_fds_with_names()?
        .map(|(descriptor, name)| {
            // SAFETY: the service manager opened it for this process and nobody else here knows
            // of it; the flag above keeps it from being owned twice.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            Ok((Bound::adopt(descriptor)?, name))
        })
        .collect()
}
