//! A word on standard error by a relay, which is waited for by nobody, or not for long.
//!
//! Its reader may be gone, or may not read: `eprintln!` would end the process or stand still with its thread.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the reader of a process's last words is waited for.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// A word before still waits for its reader.
static AT_WORK: AtomicBool = AtomicBool::new(false);

/// Says `line` from a thread of its own. While another waits for its reader, and if there can be no thread, it is left
/// out: the log has it too.
pub fn print(line: &str) {
    let Ok(stderr) = own_descriptor() else {
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

/// Past the lock of `io::stderr`, which others would wait for.
fn own_descriptor() -> io::Result<OwnedFd> {
    io::stderr().as_fd().try_clone_to_owned()
}

/// Says `text` before the process ends, whatever else is being said. Waits a second at most for its reader.
pub fn print_last(text: String) {
    let Ok(stderr) = own_descriptor() else {
        return;
    };
    let (done, is_done) = mpsc::channel();
    let write = move || {
        let _ = File::from(stderr).write_all(text.as_bytes());
        let _ = done.send(());
    };
    let thread = thread::Builder::new().name("stderr".to_owned());
    if thread.spawn(write).is_ok() {
        let _ = is_done.recv_timeout(LAST_WORDS_WITHIN);
    }
}

/// From now on a panic's message is said by [`print_last`]. By the usual hook, a process whose standard error nobody reads
/// would stand still with it, and nobody would start another one.
pub fn bound_panics() {
    panic::set_hook(Box::new(|panic| print_last(last_words(panic))));
}

/// As the usual hook has it.
fn last_words(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => format!("thread '{name}' {panic}\n{backtrace}\n"),
        _ => format!("thread '{name}' {panic}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::io::Read;
    use std::process::{self, Child, Command, Stdio};
    use std::time::Instant;

    const PANICS: &str = "RINGPOST_TEST_PANICS";
    const NAME: &str = "engine::stderr::tests::a_panic_does_not_wait_for_who_reads_standard_error";
    const PATIENCE: Duration = Duration::from_secs(30);

    fn end_of(child: &mut Child) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        panic!("it stands still");
    }

    #[test]
    fn a_panic_does_not_wait_for_who_reads_standard_error() {
        if env::var_os(PANICS).is_some() {
            bound_panics();
            let panics = thread::Builder::new().name("core".to_owned());
            let _ = panics.spawn(|| panic!("all is lost")).unwrap().join();
            process::exit(7);
        }
        for is_full in [true, false] {
            let (mut reader, mut writer) = io::pipe().unwrap();
            if is_full {
                writer.write_all(&vec![b'.'; 64 << 10]).unwrap();
            }
            let mut child = Command::new(env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(PANICS, "")
                .stdout(Stdio::null())
                .stderr(writer)
                .spawn()
                .unwrap();
            assert_eq!(end_of(&mut child), Some(7), "full: {is_full}");
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            let is_said =
                said.contains("thread 'core' panicked at") && said.contains("all is lost");
            assert_eq!(is_said, !is_full, "{said}");
        }
    }
}
