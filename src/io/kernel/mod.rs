//! The host itself: the kernel's ring, clocks, files and random numbers, and name servers.

pub mod clock;
pub mod dns;
pub mod fs;
pub mod interfaces;
pub mod operations;
pub mod random;
pub mod runtime;
pub mod sockets;

/// As the kernel numbers this process.
pub fn process_id() -> u32 {
    std::process::id()
}

/// How far past the start of a page this memory begins, as it was allocated.
pub fn page_offset(memory: &[u8]) -> usize {
    memory.as_ptr().addr() % super::PAGE_BYTES
}
