//! A message that the sink takes, and how the ledger learns of it.

use crate::ledger::{Arrival, Ledger};
use crate::mail::{address, message};

/// A message that the sink takes.
pub struct Delivery<'a> {
    /// The reverse-path is null.
    pub is_bounce: bool,
    pub recipients: &'a [String],
    pub found: &'a message::Found,
    pub tls: bool,
}

impl Delivery<'_> {
    /// Tells the ledger of a run.
    pub fn enter(&self, ledger: &Ledger) {
        let found = self.found;
        if let Some(mark) = &found.mark {
            return ledger.arrived(&Arrival {
                run: &mark.run,
                n: mark.n,
                recipients: self.recipients,
                intact: found.intact,
            });
        }
        let sender = self
            .recipients
            .first()
            .and_then(|r| address::parse_sender(r));
        match sender.filter(|_| self.is_bounce) {
            Some((run, n)) => ledger.bounced(run, n, &message::failed_recipients(&found.body)),
            None => ledger.unknown_arrived(),
        }
    }
}
