//! All that is shared between cores, in one list.
//!
//! Who writes each, and what it costs on a message's path, is in ARCHITECTURE.md ("What cores share"). Nothing
//! else is shared: spool logs, schedules, DNS answers, tickets, verdicts, buffers and log lines belong to one core each.

use super::placement::CoreSpec;
use super::routed::Routed;
use super::rules::CoreRules;
use crate::config::Config;
use crate::delivery::{self, Delivery};
use crate::domain::Domain;
use crate::handoff::job::Message;
use crate::handoff::memory::{Budget, Memory};
use crate::handoff::settled::Signs;
use crate::listener::{AddressCounts, Admission, Load};
use crate::log::Log;
use crate::message::Mailbox;
use crate::metrics::{CoreMetrics, Counter};
use crate::policy::port::Listening;
use crate::policy::rates::Rates;
use crate::policy::shares::{Shares, View};
use crate::privilege::Identity;
use crate::remote::connection;
use crate::remote::resolve::{OwnNames, Resolver};
use crate::remote::route::{NextHop, RouteTable};
use crate::schedule::next_hop;
use crate::schedule::outcome::RecipientState;
use crate::session;
use crate::session::tls_memory::TlsMemory;
use crate::spool::Spool;
use crate::tls::{ClientTls, Judge, TlsError, TrustAnchors, Versions};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct Shared {
    pub config: Config,
    pub specs: Vec<CoreSpec>,
    /// Whose the process is. Asked for once: the host's list of users is out of reach later.
    pub identity: Identity,
    /// Cores that accept, and cores that deliver.
    pub ingress_cores: Vec<usize>,
    pub delivery_cores: Vec<usize>,
    pub anchors: Arc<TrustAnchors>,
    /// What was wrong with some of them.
    pub anchor_complaints: Vec<String>,
    pub listening: Vec<Listening>,
    pub loads: Arc<[Load]>,
    pub addresses: Arc<AddressCounts>,
    pub rates: Arc<Rates>,
    pub tls_memory: Arc<TlsMemory>,
    pub memory: Arc<Memory>,
    pub shares: Arc<Shares>,
    pub metrics: Vec<Arc<CoreMetrics>>,
    /// Grows as long as a core's loop turns.
    pub heartbeats: Vec<Counter>,
    /// Each core as a home.
    pub homes: Vec<Signs>,
    pub random_seed: u64,
    /// The relay has been told to stop.
    pub is_stopping: AtomicBool,
}

impl Shared {
    pub fn cores(&self) -> std::ops::Range<usize> {
        0..self.specs.len()
    }

    /// The control thread's place among the lanes.
    pub fn control(&self) -> usize {
        self.specs.len()
    }

    /// The core that delivers to this domain; `None`: the domain has a fixed next hop, which all
    /// delivery cores serve.
    fn core_for_domain(&self, routes: &RouteTable, domain: &Domain<'_>) -> Option<usize> {
        if let Some(NextHop::Address(_) | NextHop::Host { .. }) = routes.route(domain) {
            return None;
        }
        let place = domain.fixed_hash() as usize % self.delivery_cores.len();
        Some(self.delivery_cores[place])
    }

    /// A domain that cannot be looked up is nobody's: any core finds out.
    fn core_for_mailbox(&self, routes: &RouteTable, mailbox: &Mailbox) -> Option<usize> {
        match &self.delivery_cores[..] {
            [only] => Some(*only),
            _ => self.core_for_domain(routes, &mailbox.domain().ok()?),
        }
    }

    /// The core that gathers the reports of messages with this home: the home itself if it delivers.
    pub fn gathering_core(&self, home: usize) -> usize {
        match self.specs[home].delivery {
            true => home,
            false => self.delivery_cores[home % self.delivery_cores.len()],
        }
    }

    /// Recipients of a message by the core that delivers them, or that gathers what its sender is owed; `anywhere` serves
    /// fixed next hops.
    pub fn split_by_core(
        &self,
        routes: &RouteTable,
        message: &Message,
        recipients: impl Iterator<Item = (u32, RecipientState)>,
        anywhere: usize,
    ) -> Vec<(usize, Vec<(u32, RecipientState)>)> {
        let mut parts: Vec<(usize, Vec<(u32, RecipientState)>)> = Vec::new();
        for (index, state) in recipients {
            let forward_path = &message.envelope.recipients[index as usize].forward_path;
            let core = match &state {
                RecipientState::ReportOwed { .. } => self.gathering_core(message.home),
                _ => (self.core_for_mailbox(routes, forward_path)).unwrap_or(anywhere),
            };
            match parts.iter_mut().find(|(other, _)| *other == core) {
                Some((_, part)) => part.push((index, state)),
                None => parts.push((core, vec![(index, state)])),
            }
        }
        parts
    }

    pub fn admission(&self, core: usize) -> Admission {
        let own = self
            .ingress_cores
            .iter()
            .position(|other| *other == core)
            .expect("only ingress cores have a door");
        Admission {
            own,
            ingress_cores: self.ingress_cores.clone(),
            loads: self.loads.clone(),
            addresses: self.addresses.clone(),
            rates: self.rates.clone(),
            connections_max: self.config.listen.connections_max,
            reserved: self.config.listen.connections_reserved,
            per_address_max: self.config.listen.connections_per_address_max,
        }
    }

    /// What the sessions of a core share.
    pub fn session(
        &self,
        core: usize,
        rules: &CoreRules,
        spool: Spool,
        log: Rc<Log>,
        accepted: session::TakeOver,
        dead_end: session::DeadEnd,
    ) -> Rc<session::Context> {
        Rc::new(session::Context {
            terms: session::Terms {
                settings: self.config.session,
                server: Rc::new(self.config.server.clone()),
                relay: rules.relaying.clone(),
                tls: rules.tls.clone(),
            },
            state: session::State::default(),
            core,
            spool,
            memory: Budget::new(self.memory.clone(), core),
            shares: View::new(self.shares.clone(), core),
            destinations: Box::new(Routed::new(
                self.shares.clone(),
                self.config.hostname.clone(),
                rules.routes.clone(),
            )),
            tls_memory: self.tls_memory.clone(),
            rates: self.rates.clone(),
            accepted,
            dead_end,
            metrics: self.metrics[core].clone(),
            log,
        })
    }

    fn resolver(&self) -> Result<Resolver, String> {
        Resolver::new(self.config.resolver.clone(), self.own_names())
    }

    /// What leads back to this relay.
    pub fn own_names(&self) -> OwnNames {
        OwnNames {
            hostname: self.config.hostname.parse().ok(),
            listeners: self.listening.iter().map(|it| it.address).collect(),
            aliases: Vec::new(),
        }
    }

    /// The delivery side of a core.
    pub fn delivery(
        &self,
        core: usize,
        rules: &CoreRules,
        log: Rc<Log>,
        homes: Box<dyn delivery::Homes>,
        pass_on: delivery::PassOn,
    ) -> Result<Delivery, String> {
        let context = delivery::Context {
            hostname: self.config.hostname.clone(),
            settings: self.config.delivery.clone(),
            routes: rules.routes.clone(),
            resolver: self.resolver()?,
            remote: Rc::new(self.remote().map_err(|error| error.to_string())?),
            homes,
            pass_on,
            memory: self.memory.clone(),
            shares: self.shares.clone(),
            core,
            metrics: self.metrics[core].clone(),
            log,
        };
        let seed = self.random_seed ^ (core as u64) << 48;
        Ok(Delivery::new(context, self.schedule(), seed))
    }

    /// Makes what a core makes for itself at its start, and lets go of it.
    ///
    /// # Errors
    /// What would keep the core from starting.
    pub fn try_core(&self, core: usize) -> Result<(), String> {
        let spec = self.specs[core];
        if spec.delivery {
            self.resolver()?;
            self.remote().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn remote(&self) -> Result<connection::Context, TlsError> {
        Ok(connection::Context::new(
            &self.config.hostname,
            ClientTls::new(Versions::default())?,
            Judge::new(self.anchors.clone()),
            self.config.connections.clone(),
        ))
    }

    fn schedule(&self) -> next_hop::Settings {
        let settings = self.config.schedule.clone();
        settings
            .share_of(self.delivery_cores.len() as u32)
            .within(&self.config.delivery.retry)
    }
}
