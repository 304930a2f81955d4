//! Who is told of what arrives: the ledger of a run, or the log of a sink alone.

use std::sync::{Arc, Mutex};

use crate::ledger::Ledger;
use crate::ledger::arrivals::ArrivalLog;

/// Who is told of what arrives.
pub enum Book {
    /// The source runs in this process: every recipient is known beforehand.
    Run(Arc<Ledger>),
    /// The source is elsewhere.
    Alone(Mutex<ArrivalLog>),
}
