//! A word on standard error by a running relay, which nobody waits for.
//!
//! Its reader may be gone, or may not read: `eprintln!` would end the process or stand still with its thread.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A word before still waits for its reader.
static AT_WORK: AtomicBool = AtomicBool::new(false);

/// Says `line` from a thread of its own. While another waits for its reader, and if there can be no thread, it is left
/// out: the log has it too.
pub fn say(line: &str) {
    // Past the lock of `io::stderr`, which others would wait for.
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else {
        return;
    };
    if AT_WORK.swap(true, Ordering::Relaxed) {
        return;
    }
    let text = format!("ringpost: {line}\n");
    let write = move || {
        let _ = File::from(stderr).write_all(text.as_bytes());
        AT_WORK.store(false, Ordering::Relaxed);
    };
    let thread = thread::Builder::new().name("stderr".to_owned());
    if thread.spawn(write).is_err() {
        AT_WORK.store(false, Ordering::Relaxed);
    }
}
