//! What the defaults take from the host: its name, and where state is kept.

use super::values;
use crate::domain::Domain;
use crate::io::cpu;
use std::env;
use std::fs;
use std::path::PathBuf;

/// Where a service of its own user keeps its state, unless systemd says otherwise.
pub const SERVICE_STATE_DIR: &str = "/var/lib/ringpost";

/// Read once at start, so that everything after it is a function of plain values.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The host's name, fully qualified if the host knows it; `localhost` if it has none.
    pub host_name: String,
    /// Where ringpost keeps its state unless told otherwise. `None`: nowhere to be found.
    pub state_dir: Option<PathBuf>,
    /// True if that is somewhere in a home directory, which is no place for a service's state.
    pub state_is_at_home: bool,
    /// There is a spool in that state directory.
    pub has_own_spool: bool,
    /// A service on this host keeps, or has kept, its state where services do.
    pub has_service_state: bool,
    /// The CPUs that this process may use, and how many threads may run at a time.
    pub cpus: Vec<usize>,
    pub parallelism: usize,
    /// The most descriptors this process may open; `None` if unknown or unlimited.
    pub open_files_max: Option<u64>,
}

impl Surroundings {
    pub fn of_this_host() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let systemd = env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        let state_dir = state_dir(
            systemd.clone(),
            env::var_os("XDG_STATE_HOME").map(PathBuf::from),
            env::home_dir(),
        );
        // A start that cannot find them says so when it places its threads.
        let cpus = cpu::allowed().unwrap_or_default();
        Surroundings {
            parallelism: std::thread::available_parallelism().map_or(cpus.len(), usize::from),
            cpus,
            has_own_spool: state_dir
                .as_ref()
                .is_some_and(|dir| dir.join("spool").exists()),
            // A link into a directory that we may not enter counts.
            has_service_state: fs::symlink_metadata(SERVICE_STATE_DIR).is_ok(),
            host_name: qualified(
                read("/proc/sys/kernel/hostname").trim(),
                &read("/etc/hosts"),
            ),
            state_dir,
            state_is_at_home: systemd.is_none(),
            open_files_max: open_files_max(&read("/proc/self/limits")),
        }
    }
}

/// The kernel's name if it has a dot, else the first full name that the hosts file gives with it.
fn qualified(kernel_name: &str, hosts_file: &str) -> String {
    let Ok(name) = values::host_name(kernel_name) else {
        return "localhost".to_owned();
    };
    if name.contains('.') {
        return name;
    }
    hosts_file
        .lines()
        .filter_map(|line| full_name_beside(&name, line))
        .next()
        .unwrap_or(name)
}

fn full_name_beside(name: &str, line: &str) -> Option<String> {
    let line = line.split('#').next()?;
    let names = || line.split_whitespace().skip(1);
    let own = Domain::parse(name);
    if !names().any(|other| Domain::parse(other) == own) {
        return None;
    }
    names()
        .filter(|other| other.contains('.') && !other.starts_with("localhost."))
        .find_map(|other| values::host_name(other).ok())
}

/// systemd's directory (the first, if it gives several), the XDG one, or `~/.local/state`.
fn state_dir(
    systemd: Option<PathBuf>,
    xdg: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    systemd
        .and_then(|paths| env::split_paths(&paths).next())
        .filter(absolute)
        .or_else(|| Some(xdg.filter(absolute)?.join("ringpost")))
        .or_else(|| Some(home.filter(absolute)?.join(".local/state/ringpost")))
}

/// The hard limit, which a process may raise its own limit to.
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_comes_from_the_hosts_file() {
        let hosts = "127.0.0.1 localhost.localdomain localhost\n\
                     127.0.1.1 mx1.example.com mx1 # us\n";
        assert_eq!(qualified("mx1", hosts), "mx1.example.com");
        assert_eq!(qualified("mx2", hosts), "mx2");
        assert_eq!(qualified("mx1.other.test", hosts), "mx1.other.test");
        assert_eq!(qualified("", hosts), "localhost");
        assert_eq!(qualified("under_score", hosts), "localhost");
        assert_eq!(qualified("localhost", hosts), "localhost");
    }

    #[test]
    fn state_goes_where_the_host_keeps_state() {
        let path = |text: &str| Some(PathBuf::from(text));
        let home = || path("/home/a");
        assert_eq!(
            state_dir(path("/var/lib/ringpost:/b"), path("/x"), home()),
            path("/var/lib/ringpost")
        );
        assert_eq!(state_dir(None, path("/x"), home()), path("/x/ringpost"));
        assert_eq!(
            state_dir(None, path("relative"), home()),
            path("/home/a/.local/state/ringpost")
        );
        assert_eq!(state_dir(None, None, None), None);
    }

    #[test]
    fn the_hard_limit_of_open_files() {
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(open_files_max(limits), Some(524_288));
        assert_eq!(open_files_max(""), None);
    }
}
