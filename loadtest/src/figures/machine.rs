//! Where a test took place.

use std::fs;

use serde::{Deserialize, Serialize};

/// Where the run took place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub started_unix_s: u64,
}

impl Machine {
    pub fn here(started_unix_s: u64) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|line| line.starts_with("model name"));
        let cpu = model
            .and_then(|line| line.split_once(": "))
            .map_or("", |(_, name)| name);
        Self {
            kernel: kernel.trim().to_string(),
            cpu: cpu.to_string(),
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get()),
            started_unix_s,
        }
    }
}
