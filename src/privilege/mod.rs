//! What the process gives up before it serves anybody: its user, its capabilities, files that are
//! none of its business, and system calls that it never makes.
//!
//! ```text
//! harden             umask 077, no core dumps                     before anything is opened
//!   (ports, keys)                                                 as whoever started us
//! Identity::assume   user, group, supplementary groups            nothing leads back
//!   (spool, certificate)                                          they belong to that user
//! seal               capabilities, no_new_privs, Landlock,        before there is another thread:
//!                    seccomp                                      threads inherit all of it
//! ```
//!
//! Promise: what was asked for and could not be had is an error or in [`Sealed`], never silence.
//! The process has one thread while it goes through this; [`seal`] refuses to work with more.
//!
//! Not here: operations of an io_uring are not system calls, and seccomp does not see them.
//! They are judged by the user, the capabilities and Landlock as the calls would be, and there is no
//! operation that starts a program, traces a process or mounts anything. The kernel's own list
//! (`IORING_REGISTER_RESTRICTIONS`) must be made while a ring is disabled, before anybody submits to
//! it, and the ring's library enables each ring as it makes it.

mod files;
mod identity;
mod ownership;
mod process;
mod syscalls;

pub use files::{Access, Grant, LandlockOutcome, directories_of};
pub use identity::Identity;
pub use ownership::{
    Loose, check_directory, check_kept_key, check_key, check_make_directory, give_file,
    make_directory,
};
pub use process::{harden, may_bind, refuse_huge_pages};

use std::fmt;

/// What is given up, and how strictly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `None`: whoever started us.
    pub user: Option<UserName>,
    pub landlock: bool,
    /// A kernel without it is an error.
    pub require_landlock: bool,
    pub seccomp: bool,
    /// Any call that is not on the list is the end.
    pub strict_seccomp: bool,
    pub core_dumps: bool,
}

/// `NAME[:GROUP]`: who the relay becomes when root has started it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserName {
    pub user: String,
    /// `None`: the user's own first group.
    pub group: Option<String>,
}

/// What was tried, what the system or the rule said, and what to do about it.
#[derive(Debug)]
pub struct Complaint(String);

impl Complaint {
    fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Complaint(format!("{what}: {why}"))
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Complaint {}

/// What [`seal`] is to do besides dropping capabilities, which it always does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes {
    pub landlock: Landlock,
    pub seccomp: Seccomp,
    pub core_dumps: bool,
}

/// What happens with system calls that a relay does not make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seccomp {
    Off,
    /// The worst end the process, others fail.
    On,
    /// Each ends the process.
    Strict,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seccomp::Off => "off",
            Seccomp::On => "on",
            Seccomp::Strict => "strict",
        })
    }
}

/// Whether files are to be walled off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landlock {
    Off,
    /// As far as the kernel can.
    Try,
    /// A kernel that cannot is an error.
    Require,
}

/// What was achieved, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    pub landlock: LandlockOutcome,
    pub seccomp: Seccomp,
    pub core_dumps: bool,
}

/// Gives up everything that serving mail does not need, for ever and for all threads to come.
/// Files can then be reached as `grants` say.
///
/// # Errors
/// [`Complaint`] if a step fails, if there is a second thread already, or if Landlock is required
/// and the kernel does not have it.
pub fn seal(wishes: Wishes, grants: &[Grant]) -> Result<Sealed, Complaint> {
    process::check_single_thread()?;
    process::drop_capabilities()?;
    process::forbid_new_privileges()?;
    // A change of user has reset it.
    process::set_core_dumps(wishes.core_dumps)?;
    let landlock = match wishes.landlock {
        Landlock::Off => LandlockOutcome::Off,
        Landlock::Try | Landlock::Require => files::restrict(grants)?,
    };
    if wishes.landlock == Landlock::Require && !landlock.is_complete() {
        return Err(Complaint::new(
            "--require-landlock",
            format!("this kernel gives {landlock}"),
        ));
    }
    syscalls::restrict(wishes.seccomp)?;
    Ok(Sealed {
        landlock,
        seccomp: wishes.seccomp,
        core_dumps: wishes.core_dumps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::process::Command;
    use std::{fs, thread};

    /// Walls hold for the thread that raises them, and so for a test.
    fn in_a_thread(test: impl FnOnce() + Send) {
        thread::scope(|scope| scope.spawn(test).join().unwrap());
    }

    #[test]
    fn only_what_is_granted_can_be_reached() {
        let temp = tempfile::tempdir().unwrap();
        let place = |name: &str| temp.path().join(name);
        for directory in ["keep", "read", "append", "other"] {
            fs::create_dir(place(directory)).unwrap();
            fs::write(place(directory).join("file"), "text").unwrap();
        }
        let grant = |name, access| Grant {
            path: place(name),
            access,
        };
        let grants = [
            grant("keep", Access::Keep),
            grant("read", Access::Read),
            grant("append", Access::Append),
            grant("absent", Access::Keep),
        ];
        in_a_thread(|| {
            process::forbid_new_privileges().unwrap();
            if !files::restrict(&grants).unwrap().is_complete() {
                return;
            }
            let read = |name| fs::read(place(name).join("file")).map_err(|e| e.kind());
            let make = |name| fs::write(place(name).join("new"), "").map_err(|e| e.kind());
            let denied = ErrorKind::PermissionDenied;
            assert!(read("keep").is_ok() && make("keep").is_ok());
            assert!(fs::remove_file(place("keep").join("new")).is_ok());
            assert!(read("read").is_ok());
            assert_eq!(make("read").unwrap_err(), denied);
            assert_eq!(read("append").unwrap_err(), denied);
            let log = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(place("append/log"));
            log.unwrap();
            assert_eq!(read("other").unwrap_err(), denied);
            assert_eq!(make("other").unwrap_err(), denied);
            assert_eq!(fs::read("/etc/passwd").unwrap_err().kind(), denied);
        });
    }

    #[test]
    fn threads_can_be_started_and_programs_cannot() {
        in_a_thread(|| {
            process::forbid_new_privileges().unwrap();
            syscalls::restrict(Seccomp::On).unwrap();
            assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
            let program = Command::new("/bin/true").spawn();
            assert_eq!(program.unwrap_err().kind(), ErrorKind::Unsupported);
        });
    }

    #[test]
    fn a_process_with_threads_is_not_sealed() {
        let wishes = Wishes {
            landlock: Landlock::Off,
            seccomp: Seccomp::Off,
            core_dumps: true,
        };
        let complaint = in_two_threads(|| seal(wishes, &[])).unwrap_err();
        assert!(
            complaint.to_string().contains("threads already"),
            "{complaint}"
        );
    }

    fn in_two_threads<R: Send>(test: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| scope.spawn(test).join().unwrap())
    }
}
