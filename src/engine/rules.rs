//! What may change while the relay runs: one immutable value of each kind, replaced whole.
//!
//! The control thread holds what is in force. Each core has one pointer of a kind ([`Current`]), which its sessions and
//! deliveries look through.
//!
//! Promise: mail is routed by lists no older than those that took it, whichever core took it. New lists are published
//! before any core is told, and a core looks for them before it routes mail that another one took
//! ([`CoreRules::catch_up`]). An item of a lane alone would come too late: a core reads its lanes in turn, and may have
//! read the control thread's just before.

use super::{ErrorContext as _, StartError};
use crate::config::Config;
use crate::domain::Domain;
use crate::domain::pattern::DomainPattern;
use crate::handoff::current::{Current, Follower, Published};
use crate::policy::relaying::{self, RelayPolicy};
use crate::remote::route::RouteTable;
use crate::tls::{ServerKeys, ServerTls, TlsError, Versions};
use std::cell::RefCell;
use std::sync::Arc;
use std::thread;

/// What is in force, or is to be from the start.
#[derive(Clone)]
pub struct Rules {
    pub lists: Lists,
    pub keys: ServerKeys,
    /// The lists, for all cores.
    published: Published<Lists>,
    /// What cores may still look through. The last one to let go of a list takes time that no core has.
    retired: Vec<Lists>,
}

/// What is in force, to be looked at.
pub struct InForce {
    pub lists: Lists,
    pub keys: ServerKeys,
}

/// Together: a relay domain that is in force without its new route would go to its MX hosts.
#[derive(Clone)]
pub struct Lists {
    pub relaying: Arc<RelayPolicy>,
    pub routes: Arc<RouteTable>,
}

impl Lists {
    /// Of what flags and files say.
    pub fn new(settings: &relaying::Settings, routes: RouteTable, hostname: &str) -> Self {
        Lists {
            relaying: Arc::new(relay_policy(settings, &routes, hostname)),
            routes: Arc::new(routes),
        }
    }
}

/// The same, as one core works with it.
pub struct CoreRules {
    pub relaying: Current<RelayPolicy>,
    pub routes: Current<RouteTable>,
    pub tls: Current<ServerTls>,
    latest: RefCell<Follower<Lists>>,
}

/// One kind anew, for one core.
pub enum NewRule {
    /// There are other lists than before: see [`CoreRules::catch_up`].
    Lists,
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
        let lists = Lists::new(&relaying, routes, &config.hostname);
        Ok(Rules {
            lists: lists.clone(),
            keys,
            published: Published::new(lists),
            retired: Vec::new(),
        })
    }

    /// For another thread that compares with it.
    pub fn in_force(&self) -> InForce {
        InForce {
            lists: self.lists.clone(),
            keys: self.keys.clone(),
        }
    }

    /// In force for each core from its next look on. Each is to be told ([`NewRule::Lists`]), or one without mail would
    /// not look.
    pub fn replace_lists(&mut self, new: Lists) {
        self.retired
            .push(std::mem::replace(&mut self.lists, new.clone()));
        self.published.replace(new);
    }

    /// Lets go of what no core looks through any more, on a thread of its own: a list of millions takes seconds.
    pub fn tidy(&mut self) {
        let is_idle = |lists: &mut Lists| {
            Arc::strong_count(&lists.relaying) == 1 && Arc::strong_count(&lists.routes) == 1
        };
        let idle: Vec<Lists> = self.retired.extract_if(.., is_idle).collect();
        if !idle.is_empty() {
            // Without a thread they are let go of here.
            let thread = thread::Builder::new().name("old-lists".to_owned());
            let _ = thread.spawn(move || drop(idle));
        }
    }

    /// # Errors
    /// The certificate cannot be used.
    pub fn on_core(self) -> Result<CoreRules, TlsError> {
        let latest = self.published.follow();
        Ok(CoreRules {
            relaying: Current::new(latest.has().relaying.clone()),
            routes: Current::new(latest.has().routes.clone()),
            tls: Current::new(Arc::new(core_tls(&self.keys)?)),
            latest: RefCell::new(latest),
        })
    }
}

impl CoreRules {
    /// Takes over lists that were published since the last look. Not while anybody holds a value in force.
    pub fn catch_up(&self) {
        if let Some(lists) = self.latest.borrow_mut().news() {
            self.relaying.replace(lists.relaying.clone());
            self.routes.replace(lists.routes.clone());
        }
    }

    pub fn replace(&self, new: NewRule) {
        match new {
            NewRule::Lists => self.catch_up(),
            NewRule::Tls(tls) => self.tls.replace(Arc::new(tls)),
        }
    }
}

/// One for each core: what its sessions count of it is shared by nobody else.
pub fn core_tls(keys: &ServerKeys) -> Result<ServerTls, TlsError> {
    ServerTls::new(keys, Versions::default())
}

/// A route for our own name leads the bare `Postmaster` there.
fn relay_policy(settings: &relaying::Settings, routes: &RouteTable, hostname: &str) -> RelayPolicy {
    let mut policy = RelayPolicy::new(settings);
    if Domain::parse(hostname).is_ok_and(|name| routes.route(&name).is_some()) {
        policy.has_route_for_own_name();
    }
    if routes.leads_one_way() || has_one_domain(settings, routes) {
        policy.goes_one_way();
    }
    policy
}

/// Nobody may send anywhere but to domains with one next hop.
fn has_one_domain(settings: &relaying::Settings, routes: &RouteTable) -> bool {
    let next_hop = |pattern: &DomainPattern| match pattern {
        DomainPattern::Exact(domain) => Some(routes.next_hop(domain)),
        DomainPattern::Below(_) => None,
    };
    let mut next_hops = settings.domains.iter().map(next_hop);
    let first = next_hops.next().flatten();
    settings.trusted_nets.is_empty() && first.is_some() && next_hops.all(|it| it == first)
}
