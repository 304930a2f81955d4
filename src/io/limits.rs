//! What the kernel lets this process have.

use std::io;

/// What whoever runs the host can do about a lack of descriptors; `None`: it is none.
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("allow this process more open files (LimitNOFILE=, ulimit -Hn)"),
        libc::ENFILE => Some("allow this host more open files (sysctl fs.file-max)"),
        _ => None,
    }
}

/// Raises the limit on open descriptors as far as it may be raised without privilege; what it is
/// now (`getrlimit(2)`, `RLIMIT_NOFILE`).
pub fn raise_descriptors() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure that we own.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads the structure that we own.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}
