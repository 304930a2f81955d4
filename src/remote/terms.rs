//! The terms of a host, looked up.
//!
//! Promise: an answer for every host, before a connection to it is opened.
//! Not here yet: what a domain or the DNS says of its hosts (MTA-STS, DANE); the flags decide alone, at once.

use super::resolve::Host;
use crate::tls::terms::{Demand, Terms};

/// On what terms mail with that demand goes to the host. Waits for whom it must ask.
pub async fn of_host<'a>(demand: &Demand, host: &'a Host) -> Terms<'a> {
    Terms {
        level: demand.level,
        certificate_name: &host.name,
    }
}
