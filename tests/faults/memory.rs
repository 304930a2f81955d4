//! Little memory, and a kernel that kills who takes more.

use crate::Gate;
use crate::load::{Load, Told};
use crate::support::relay::{Home, PROGRAM};
use crate::support::relay_by;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `--memory-max 16MiB`, and what tuning.md says of a control group then: twice that and 256 MiB.
const LIMIT_BYTES: u64 = (2 * 16 + 256) << 20;
const CLIENTS: usize = 60;

/// A control group of our own with a limit on memory; gone when dropped.
struct Group {
    path: PathBuf,
    /// Holds a line `oom_kill N`.
    events: &'static str,
}

impl Group {
    fn new() -> Option<Self> {
        let name = format!("ringpost-test-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.oom_control",
            ),
        ];
        let made = versions.into_iter().find_map(|(root, limit, events)| {
            let path = Path::new(root).join(&name);
            fs::create_dir(&path).ok()?;
            let group = Group { path, events };
            // A directory of another kind has no such file, and none can be made in it.
            let file = group.path.join(limit);
            let limited = file.exists() && fs::write(file, LIMIT_BYTES.to_string()).is_ok();
            limited.then_some(group)
        });
        if made.is_none() {
            eprintln!("skipped: no control group with a limit on memory can be made here");
        }
        made
    }

    /// The program, in this group from its first byte on.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", r#"echo $$ >"$0"; exec "$@""#]);
        command.arg(self.path.join("cgroup.procs")).arg(PROGRAM);
        command
    }

    fn killed(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(self.events)).expect("the group is there");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("it is counted").parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn a_flood_into_a_queue_stays_within_the_control_group_that_the_page_advises() {
    let Some(group) = Group::new() else {
        return;
    };
    let gate = Gate::closed();
    let home = Home::new();
    let flags = ["--memory-max", "16MiB"];
    let relay = relay_by(&home, group.command(), &gate.hop, &flags);
    let load = Load::new(relay.address(), 1 << 20);
    load.during(CLIENTS, || {
        load.wait(200, 0, |told| told != Told::Open);
    });
    assert_eq!(group.killed(), 0);
    assert!(load.accepted().len() >= 50, "{:?}", load.told(0));
    gate.open();
    load.wait_until_delivered(&gate.hop);
    assert_eq!(group.killed(), 0);
    println!("{} bytes at most", relay.peak_memory_bytes());
    relay.stop();
}
