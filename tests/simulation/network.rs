//! The next hops that there are, and the way to them.

use crate::canary::Canary;
use crate::host::{self, Host, Manner};
use crate::ledger::{SiteFacts, site_of};
use crate::link::{self, End};
use crate::world::{Owner, World};
use ringpost::schedule::retry::RetryPolicy;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

pub const SITES: usize = 5;
/// Its hosts are without fault: what happens to its mail is the relay's doing.
pub const SPOTLESS_SITE: usize = 0;
/// Its hosts restart as a whole.
pub const RESTARTING_SITE: usize = 1;

pub struct Network {
    world: Rc<World>,
    hosts: Vec<Rc<Host>>,
    /// The hosts of each site, best first.
    sites: Vec<Vec<usize>>,
    pub retry: RetryPolicy,
    pub report_retry: RetryPolicy,
    /// Where most mail goes now.
    pub favourite: Cell<Option<usize>>,
}

impl Network {
    pub fn new(world: &Rc<World>) -> Rc<Network> {
        let mut hosts = Vec::new();
        let mut sites = Vec::new();
        for site in 0..SITES {
            let count = 1 + usize::from(world.one_in(3));
            let of_site: Vec<usize> = (0..count).map(|it| hosts.len() + it).collect();
            for number in &of_site {
                hosts.push(Rc::new(Host::new(world, *number, site)));
            }
            sites.push(of_site);
        }
        let facts = |hosts_of: &Vec<usize>| SiteFacts {
            refused_us: false,
            size_max: hosts_of.iter().filter_map(|it| hosts[*it].size_max).min(),
            lacks_smtputf8: hosts_of.iter().any(|it| !hosts[*it].takes_smtputf8()),
            is_spotless: hosts_of
                .iter()
                .all(|it| hosts[*it].manner == Manner::Spotless),
        };
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
        ledger.sites = sites.iter().map(facts).collect();
        ledger.lifetime = retry.lifetime;
        ledger.report_lifetime = report_retry.lifetime;
        if world.canary == Canary::NeverExpires {
            retry.lifetime = Duration::from_secs(1 << 40);
        }
        Rc::new(Network {
            world: world.clone(),
            hosts,
            sites,
            retry,
            report_retry,
            favourite: Cell::new(None),
        })
    }

    /// `None`: there is no such domain.
    pub fn site_of(&self, domain: &str) -> Option<usize> {
        site_of(domain).filter(|site| *site < SITES)
    }

    pub fn hosts_of(&self, site: usize) -> Vec<usize> {
        self.sites[site].clone()
    }

    pub fn name_of(&self, host: usize) -> String {
        format!("mx{host}.test")
    }

    /// `None`: nobody answers.
    pub fn connect(&self, host: usize) -> Option<End> {
        let host = &self.hosts[host];
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

    /// All hosts of the site that does so restart: every connection is reset, and new ones are refused for a while.
    pub fn restart(&self) {
        for host in &self.sites[RESTARTING_SITE] {
            self.hosts[*host].restart(&self.world);
        }
        self.world.seen.borrow_mut().restarts += 1;
    }

    /// Messages under way to the site that restarts, of those that some recipient was refused for.
    pub fn receiving(&self) -> usize {
        let hosts = self.sites[RESTARTING_SITE].iter();
        hosts.map(|host| self.hosts[*host].receiving()).sum()
    }

    /// A domain for a recipient or a sender.
    pub fn any_domain(&self) -> String {
        if let Some(site) = self.favourite.get()
            && !self.world.one_in(5)
        {
            return format!("d{site}.test");
        }
        match self.world.below(24) {
            0 => "gone.test".to_owned(),
            other => format!("d{}.test", other % SITES),
        }
    }
}
