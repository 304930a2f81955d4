//! Next hops: which they are, which hosts serve them, and one connection to one of them.
//!
//! Promise: an answer or an error within a bounded time, whatever name servers and hosts do.
//! Not here: which mail goes when, and what a failure means for it (`delivery`, `schedule`).

pub mod connection;
pub mod resolve;
pub mod route;
pub mod terms;
