//! seccomp: the system calls of a running relay, and what happens with others.
//!
//! | call | then |
//! |---|---|
//! | [`ALLOWED`], and those of [`conditional`] with the right arguments | made |
//! | [`DEADLY`]: nothing of ours makes them, an intruder's code would | the process is killed, and the kernel logs it |
//! | [`ABSENT`] | `ENOSYS`, as on a kernel that lacks it |
//! | any other | the same; with [`Seccomp::Strict`] the process is killed |
//!
//! Why not death for all: what a newer C library or allocator tries first it also does without,
//! when it is told that the call is not there; `EPERM` would be believed to be the final answer,
//! and death would take a mail service down for a probe. The end-to-end tests run strictly, so that a
//! call that is missing here is noticed.
//!
//! The kernel remembers calls that are allowed whatever their arguments, and does not run the filter for them.

use super::{Complaint, Seccomp};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Calls of the relay, the async runtimes, the resolver, the allocator and the C library's threads.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Rings and readiness.
    libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_ppoll, libc::SYS_eventfd2,
    // Connections. No `listen`: ports are opened before.
    libc::SYS_connect, libc::SYS_accept4, libc::SYS_bind, libc::SYS_shutdown,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    // Files. Which ones is Landlock's matter.
    libc::SYS_openat, libc::SYS_close, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev,
    libc::SYS_lseek, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_fallocate,
    libc::SYS_ftruncate, libc::SYS_flock, libc::SYS_fchmod, libc::SYS_getdents64,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getcwd,
    libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2,
    // Memory that cannot be executed: see `conditional`.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_get_mempolicy, libc::SYS_membarrier,
    // Threads, signals, time.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address,
    libc::SYS_gettid, libc::SYS_getpid, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
    libc::SYS_getcpu, libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall, libc::SYS_tgkill,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep,
    // Who and where we are.
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_getgroups, libc::SYS_getrandom, libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older names of calls above.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[c_long] = &[
    libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_open, libc::SYS_stat, libc::SYS_lstat,
    libc::SYS_access, libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_time, libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[c_long] = &[];

/// Its flags are in memory, where a filter cannot see them: told that it is not there, the C library
/// takes `clone`.
const ABSENT: &[c_long] = &[libc::SYS_clone3];

/// Programs, other processes, the kernel itself, and ways back to privileges.
#[rustfmt::skip]
const DEADLY: &[c_long] = &[
    libc::SYS_execve, libc::SYS_execveat,
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd, libc::SYS_process_madvise, libc::SYS_kcmp,
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd,
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
    libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
    libc::SYS_move_mount, libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsmount,
    libc::SYS_setns, libc::SYS_unshare, libc::SYS_personality,
    libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
    libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at,
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex,
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid,
    libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_capset,
];

/// Address families: clients, next hops, name servers, and the service manager.
const FAMILIES: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];

/// Non-blocking, close-on-exec, and what the C library asks a terminal on standard error.
#[allow(clippy::unnecessary_cast, reason = "some C libraries have them as int")]
const TERMINAL_CALLS: [u64; 4] = [
    libc::FIONBIO as u64,
    libc::FIOCLEX as u64,
    libc::TCGETS as u64,
    libc::TIOCGWINSZ as u64,
];

/// Names of threads and of memory.
const PROCESS_CALLS: [i32; 3] = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];

const NOT_THERE: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);

/// From now on, for this thread and those that it starts.
pub(super) fn restrict(seccomp: Seccomp) -> Result<(), Complaint> {
    let others = match seccomp {
        Seccomp::Off => return Ok(()),
        Seccomp::On => NOT_THERE,
        Seccomp::Strict => SeccompAction::KillProcess,
    };
    // All are asked, and the strictest answer counts.
    for filter in [
        all_but(DEADLY, SeccompAction::KillProcess),
        all_but(ABSENT, NOT_THERE),
        allowed(others),
    ] {
        let program: BpfProgram = filter
            .and_then(SeccompFilter::try_into)
            .map_err(|error| Complaint::new("seccomp", error))?;
        seccompiler::apply_filter(&program).map_err(|error| Complaint::new("seccomp", error))?;
    }
    Ok(())
}

fn target() -> Result<TargetArch, seccompiler::BackendError> {
    TargetArch::try_from(std::env::consts::ARCH)
}

fn all_but(
    calls: &[c_long],
    action: SeccompAction,
) -> Result<SeccompFilter, seccompiler::BackendError> {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::Allow, action, target()?)
}

fn allowed(others: SeccompAction) -> Result<SeccompFilter, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = conditional()?;
    let always = ALLOWED.iter().chain(ALLOWED_OLD).chain(ABSENT);
    rules.extend(always.map(|call| (*call, Vec::new())));
    SeccompFilter::new(rules, others, SeccompAction::Allow, target()?)
}

/// Calls that are allowed with some arguments only.
fn conditional() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, seccompiler::BackendError> {
    let equals = |argument, value: u64| one(argument, SeccompCmpOp::Eq, value);
    let no_bits = |argument, bits: i32| one(argument, SeccompCmpOp::MaskedEq(bits as u64), 0);
    let thread = libc::CLONE_THREAD as u64;
    let families: Result<_, _> = FAMILIES.iter().map(|f| equals(0, *f as u64)).collect();
    let terminal: Result<_, _> = TERMINAL_CALLS.iter().map(|c| equals(1, *c)).collect();
    let process: Result<_, _> = PROCESS_CALLS.iter().map(|c| equals(0, *c as u64)).collect();
    Ok(BTreeMap::from([
        (libc::SYS_socket, families?),
        (libc::SYS_ioctl, terminal?),
        (libc::SYS_prctl, process?),
        (
            libc::SYS_clone,
            vec![one(0, SeccompCmpOp::MaskedEq(thread), thread)?],
        ),
        (libc::SYS_mmap, vec![no_bits(2, libc::PROT_EXEC)?]),
        (libc::SYS_mprotect, vec![no_bits(2, libc::PROT_EXEC)?]),
    ]))
}

fn one(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_deadly() {
        let conditional = conditional().unwrap();
        for call in DEADLY {
            assert!(
                !ALLOWED.contains(call) && !ALLOWED_OLD.contains(call),
                "{call}"
            );
            assert!(!conditional.contains_key(call), "{call}");
        }
        for call in ALLOWED.iter().chain(ALLOWED_OLD) {
            assert!(!conditional.contains_key(call), "{call}");
        }
    }

    #[test]
    fn the_filters_compile() {
        for filter in [
            all_but(DEADLY, SeccompAction::KillProcess),
            allowed(NOT_THERE),
        ] {
            let program: BpfProgram = filter.unwrap().try_into().unwrap();
            assert!(program.len() < 4096);
        }
    }
}
