pub mod buffer;
pub mod clock;
pub mod cpu;
pub mod file;
pub mod limits;
pub mod net;
pub mod pool;
pub mod runtime;
