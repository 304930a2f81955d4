//! What may change while the relay runs: one immutable value of each kind, replaced whole.
//!
//! The control thread holds what is in force. Each core has one pointer of a kind ([`Current`]), which its sessions and
//! deliveries look through, and gets a new value over its lane.

use super::{Context as _, StartError};
use crate::config::Config;
use crate::domain::Domain;
use crate::handoff::current::Current;
use crate::policy::relaying::{self, RelayPolicy};
use crate::remote::route::RouteTable;
use crate::tls::{ServerKeys, ServerTls, TlsError, Versions};
use std::sync::Arc;

/// What is in force, or is to be from the start.
#[derive(Clone)]
pub struct Rules {
    pub relaying: Arc<RelayPolicy>,
    pub routes: Arc<RouteTable>,
    pub keys: ServerKeys,
    /// What cores may still look through. The last one to let go of a list takes time that no core has.
    retired: Vec<Retired>,
}

type Retired = (Arc<RelayPolicy>, Arc<RouteTable>);

/// The same, as one core works with it.
pub struct CoreRules {
    pub relaying: Current<RelayPolicy>,
    pub routes: Current<RouteTable>,
    pub tls: Current<ServerTls>,
}

/// One kind anew, for one core.
pub enum NewRule {
    /// Together: a relay domain that is in force without its new route would go to its MX hosts.
    Lists(Arc<RelayPolicy>, Arc<RouteTable>),
    Tls(ServerTls),
}

impl Rules {
    /// Takes the lists out of the configuration: they are not to stay in memory twice.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn new(config: &mut Config, keys: ServerKeys) -> Result<Rules, StartError> {
        core_tls(&keys).context("the certificate for clients")?;
        let routes = std::mem::take(&mut config.routes);
        let relaying = std::mem::take(&mut config.relaying);
        Ok(Rules {
            relaying: Arc::new(relay_policy(&relaying, &routes, &config.hostname)),
            routes: Arc::new(routes),
            keys,
            retired: Vec::new(),
        })
    }

    pub fn replace_lists(&mut self, relaying: RelayPolicy, routes: RouteTable) {
        let relaying = std::mem::replace(&mut self.relaying, Arc::new(relaying));
        let routes = std::mem::replace(&mut self.routes, Arc::new(routes));
        self.retired.push((relaying, routes));
    }

    /// Lets go of what no core looks through any more.
    pub fn tidy(&mut self) {
        self.retired.retain(|(relaying, routes)| {
            Arc::strong_count(relaying) > 1 || Arc::strong_count(routes) > 1
        });
    }

    /// # Errors
    /// The certificate cannot be used.
    pub fn on_core(self) -> Result<CoreRules, TlsError> {
        Ok(CoreRules {
            relaying: Current::new(self.relaying),
            routes: Current::new(self.routes),
            tls: Current::new(Arc::new(core_tls(&self.keys)?)),
        })
    }
}

impl CoreRules {
    pub fn replace(&self, new: NewRule) {
        match new {
            NewRule::Lists(relaying, routes) => {
                self.relaying.replace(relaying);
                self.routes.replace(routes);
            }
            NewRule::Tls(tls) => self.tls.replace(Arc::new(tls)),
        }
    }
}

/// One for each core: what its sessions count of it is shared by nobody else.
pub fn core_tls(keys: &ServerKeys) -> Result<ServerTls, TlsError> {
    ServerTls::new(keys, Versions::default())
}

/// A route for our own name leads the bare `Postmaster` there.
pub fn relay_policy(
    settings: &relaying::Settings,
    routes: &RouteTable,
    hostname: &str,
) -> RelayPolicy {
    let mut policy = RelayPolicy::new(settings);
    if Domain::parse(hostname).is_ok_and(|name| routes.route(&name).is_some()) {
        policy.has_route_for_own_name();
    }
    policy
}
