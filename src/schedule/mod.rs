//! What becomes of mail that waits: whom to try and when, what an answer means, when to give up.
//!
//! `next_hop` decides over connections and turns, `judge` what a reply or a failure means and for whom, `settle` what
//! follows for each recipient, `retry` when again, `reports` when the sender is told, and `dsn` what.
//!
//! Promise: pure. Events and the time go in, decisions come out; every recipient of a transaction gets exactly one.
//! Not here: connections, name servers and the disk (`delivery`, `remote` and `spool` carry out what is decided).

pub mod ahead;
pub mod dsn;
pub mod ending;
pub mod gate;
pub mod hand_over;
pub mod judge;
pub mod limits;
pub mod next_hop;
pub mod outcome;
pub mod reports;
pub mod retry;
pub mod settle;
pub mod tries;
