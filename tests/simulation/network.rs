//! The next hops that there are, and the way to them.

use crate::canary::Canary;
use crate::host::{self, Manner};
use crate::ledger::site_of;
use crate::link::{self, End};
use crate::sites::{SITES, Sites};
use crate::world::{Owner, World};
use ringpost::schedule::retry::RetryPolicy;
use std::rc::Rc;
use std::time::Duration;

pub struct Network {
    world: Rc<World>,
    pub sites: Sites,
    pub retry: RetryPolicy,
    pub report_retry: RetryPolicy,
}

impl Network {
    pub fn new(world: &Rc<World>) -> Rc<Network> {
        let sites = Sites::draw(world);
        let min = Duration::from_secs(1 + world.below(20) as u64);
        let mut retry = RetryPolicy {
            min,
            max: min * 4,
            lifetime: Duration::from_secs(*world.pick(&[60, 300, 3000])),
            jitter_percent: 20,
        };
        let report_retry = RetryPolicy {
            lifetime: Duration::from_secs(*world.pick(&[60, 3000])),
            ..retry
        };
        let ledger = &mut world.ledger.borrow_mut();
        ledger.lifetime = retry.lifetime;
        ledger.report_lifetime = report_retry.lifetime;
        if world.canary == Canary::NeverExpires {
            retry.lifetime = Duration::from_secs(1 << 40);
        }
        Rc::new(Network {
            world: world.clone(),
            sites,
            retry,
            report_retry,
        })
    }

    /// `None`: there is no such domain.
    pub fn site_of(&self, domain: &str) -> Option<usize> {
        site_of(domain).filter(|site| *site < SITES)
    }

    pub fn hosts_of(&self, site: usize) -> Vec<usize> {
        self.sites.of_site[site].clone()
    }

    pub fn name_of(&self, host: usize) -> String {
        format!("mx{host}.test")
    }

    /// `None`: nobody answers.
    pub fn connect(&self, host: usize) -> Option<End> {
        let host = &self.sites.hosts[host];
        let is_down = match host.manner {
            Manner::Down => true,
            Manner::Good | Manner::Spotless => false,
            Manner::Restarting => self.world.now() < host.down_until.get(),
            _ => self.world.one_in(8),
        };
        if is_down && !self.world.is_healed.get() {
            return None;
        }
        let (ours, theirs) = link::connect(&self.world);
        let (world, host) = (self.world.clone(), host.clone());
        self.world.spawn(Owner::Outside, async move {
            host::serve(world, host, theirs).await;
        });
        Some(ours)
    }
}
