//! The process as a whole: umask, core dumps, huge pages, capabilities, no_new_privs.

use super::Complaint;
use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use std::fs;

/// What others may do with files that we make: nothing.
const UMASK: Mode = Mode::from_bits_truncate(0o077);

/// Where the kernel does not say.
const UNPRIVILEGED_PORTS_FROM: u16 = 1024;

/// For the first moment of the program: from now on its files are its own, and its memory, with
/// keys and mail in it, does not land in a core file unless `core_dumps` says so.
///
/// # Errors
/// If the kernel refuses.
pub fn harden(core_dumps: bool) -> Result<(), Complaint> {
    umask(UMASK);
    if !core_dumps {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)
            .map_err(|error| Complaint::new("forbidding core dumps", error))?;
    }
    set_core_dumps(core_dumps)
}

/// Memory in pages of 4 KiB, whatever the allocator or the host's setting asks for: with huge ones a
/// buffer that is given back keeps 2 MiB, and a flood took half as much memory again.
///
/// # Errors
/// If the kernel refuses.
pub fn refuse_huge_pages() -> Result<(), Complaint> {
    prctl::set_thp_disable(true).map_err(|error| Complaint::new("PR_SET_THP_DISABLE", error))
}

/// True if this process may listen on `port` now (`ip_unprivileged_port_start` in `ip(7)`). Port 0
/// is the kernel's choice.
pub fn may_bind(port: u16) -> bool {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(UNPRIVILEGED_PORTS_FROM);
    port == 0
        || port >= first_free
        || caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_BIND_SERVICE).unwrap_or(true)
}

/// `PR_SET_DUMPABLE`: also keeps other processes of the same user from reading our memory, and
/// holds for a `core_pattern` that pipes, which `RLIMIT_CORE` does not.
pub(super) fn set_core_dumps(allowed: bool) -> Result<(), Complaint> {
    prctl::set_dumpable(allowed).map_err(|error| Complaint::new("PR_SET_DUMPABLE", error))
}

pub(super) fn forbid_new_privileges() -> Result<(), Complaint> {
    prctl::set_no_new_privs().map_err(|error| Complaint::new("PR_SET_NO_NEW_PRIVS", error))
}

/// Threads have their privileges one by one: what one gives up the others keep.
pub(super) fn check_single_thread() -> Result<(), Complaint> {
    let threads = fs::read_dir("/proc/self/task")
        .map_err(|error| Complaint::new("/proc/self/task", error))?
        .count();
    match threads {
        1 => Ok(()),
        more => Err(Complaint::new(
            "giving up privileges",
            format!("there are {more} threads already"),
        )),
    }
}

/// What no program started from here may ever have. Needs `CAP_SETPCAP`; without it
/// `no_new_privs` does the same, and the set stays as it is.
pub(super) fn drop_bounding_set() -> Result<(), Complaint> {
    let failed = |error| Complaint::new("dropping the capability bounding set", error);
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed)? {
        return Ok(());
    }
    let mut supported = Vec::from_iter(caps::runtime::thread_all_supported());
    supported.sort_unstable_by_key(|capability| *capability as u8);
    for capability in supported {
        caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
    }
    Ok(())
}

pub(super) fn drop_capabilities() -> Result<(), Complaint> {
    drop_bounding_set()?;
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).map_err(|error| Complaint::new("dropping capabilities", error))?;
    }
    Ok(())
}
