//! What the kernel lets this process have.

use super::runtime::RING_ENTRIES;
use std::io;

/// What whoever runs the host can do about a lack of descriptors; `None`: it is none.
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("allow this process more open files (LimitNOFILE=, ulimit -Hn)"),
        libc::ENFILE => Some("allow this host more open files (sysctl fs.file-max)"),
        _ => None,
    }
}

/// What can be done where no ring can be made.
pub fn remedy_without_ring(error: &io::Error) -> String {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return "it needs Linux 6.1 or newer, and /proc/sys/kernel/io_uring_disabled to be 0"
            .to_owned();
    }
    let may_lock = match read(libc::RLIMIT_MEMLOCK) {
        Ok(limit) if limit.rlim_cur != libc::RLIM_INFINITY => {
            format!(", here {} KiB", limit.rlim_cur / 1024)
        }
        _ => String::new(),
    };
    format!(
        "newer kernels count a ring, some {} KiB a thread, as memory that its user locks{may_lock}: allow more \
         (LimitMEMLOCK=infinity in its unit, ulimit -Hl), or ask for fewer threads (--ingress-cores, --delivery-cores)",
        RING_BYTES / 1024
    )
}

/// An entry to submit takes 64 octets; there are twice as many completions of 16, and an index of 4 for each entry.
const RING_BYTES: u32 = RING_ENTRIES * (64 + 2 * 16 + 4);

/// Raises the limit on open descriptors as far as it may be raised without privilege; what it is
/// now (`getrlimit(2)`, `RLIMIT_NOFILE`).
pub fn raise_descriptors() -> io::Result<u64> {
    raise(libc::RLIMIT_NOFILE)
}

/// The same for memory that is locked. Without limit where whoever starts us may take it away; where nothing can
/// be done the rings are made or not.
pub fn raise_locked_memory() {
    let none = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    if set(libc::RLIMIT_MEMLOCK, none).is_err() {
        let _ = raise(libc::RLIMIT_MEMLOCK);
    }
}

type Resource = libc::__rlimit_resource_t;

fn raise(resource: Resource) -> io::Result<u64> {
    let mut limit = read(resource)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        set(resource, limit)?;
    }
    Ok(limit.rlim_cur)
}

fn read(resource: Resource) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure that we own.
    match unsafe { libc::getrlimit(resource, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(resource: Resource, limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: the kernel reads the structure that we own.
    match unsafe { libc::setrlimit(resource, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_more_rings_than_memory_may_be_locked_for_is_told_so() {
        let full = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = remedy_without_ring(&full);
        assert!(
            text.contains("LimitMEMLOCK") && text.contains("100 KiB a thread"),
            "{text}"
        );
        let forbidden = io::Error::from_raw_os_error(libc::EPERM);
        assert!(remedy_without_ring(&forbidden).contains("io_uring_disabled"));
    }
}
