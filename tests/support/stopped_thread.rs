//! A thread of another process that stands still, as one that the kernel gives no CPU.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;

/// Stands still until this is dropped, on the same thread that made it.
pub struct StoppedThread(Pid);

impl StoppedThread {
    /// The process is a child of this one, and lets others trace it.
    pub fn new(process: u32, name: &str) -> Self {
        let thread = Pid::from_raw(thread_of(process, name));
        ptrace::seize(thread, ptrace::Options::empty()).expect("it may be traced");
        ptrace::interrupt(thread).expect("it is there");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        StoppedThread(thread)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        if ptrace::detach(self.0, None) == Err(Errno::ESRCH) {
            // Its process has ended, and is a zombie until this was seen.
            waitpid(self.0, Some(WaitPidFlag::__WALL)).expect("it has ended");
        }
    }
}

fn thread_of(process: u32, name: &str) -> i32 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let is_it = |thread: &fs::DirEntry| {
        let own_name = fs::read_to_string(thread.path().join("comm"));
        own_name.is_ok_and(|own_name| own_name.trim_end() == name)
    };
    let mut threads = threads.flatten();
    let thread = threads.find(is_it).expect("it has such a thread");
    let number = thread.file_name();
    number
        .to_str()
        .and_then(|it| it.parse().ok())
        .expect("a number")
}
