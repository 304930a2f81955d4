//! Where mail for a recipient counts: the next hop that the routes say, else its site once that is known, else its domain.

use crate::domain::Domain;
use crate::handoff::current::Current;
use crate::message::Mailbox;
use crate::policy::shares::{Shares, Way};
use crate::remote::route::RouteTable;
use crate::session::Destinations;
use std::sync::Arc;

/// The destinations of mail by the routes in force on a core.
pub struct Routed {
    shares: Arc<Shares>,
    hostname: String,
    routes: Current<RouteTable>,
}

impl Routed {
    pub fn new(shares: Arc<Shares>, hostname: String, routes: Current<RouteTable>) -> Self {
        Routed {
            shares,
            hostname,
            routes,
        }
    }
}

impl Destinations for Routed {
    fn way(&self, recipient: &Mailbox) -> Way {
        way(&self.shares, &self.hostname, &self.routes.get(), recipient)
    }

    fn name(&self, recipient: &Mailbox) -> String {
        match domain_of(&self.hostname, recipient) {
            Some(domain) => self.routes.get().next_hop(&domain).to_string(),
            None => recipient.domain_as_written().to_owned(),
        }
    }
}

/// The bare Postmaster is ours. `None`: nobody can look it up.
fn domain_of<'a>(hostname: &'a str, recipient: &'a Mailbox) -> Option<Domain<'a>> {
    let domain = match recipient.domain_as_written() {
        "" => hostname,
        domain => domain,
    };
    Domain::parse(domain).ok()
}

/// Where mail for a recipient counts, by these routes.
pub fn way(shares: &Shares, hostname: &str, routes: &RouteTable, recipient: &Mailbox) -> Way {
    let Some(domain) = domain_of(hostname, recipient) else {
        return shares.party(recipient.domain_as_written()).into();
    };
    match routes.route(&domain) {
        Some(next_hop) => shares.party(next_hop).into(),
        None => shares.way_of_domain(domain.as_str()),
    }
}
