//! The next hops that there are: a few sites, with a host or two each.

use crate::host::{Host, Manner};
use crate::ledger::SiteFacts;
use crate::plan::Choice;
use crate::world::World;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub const SITES: usize = 5;
/// Its hosts are without fault: what happens to its mail is the relay's doing.
pub const SPOTLESS_SITE: usize = 0;
/// Its hosts restart as a whole.
pub const RESTARTING_SITE: usize = 1;

/// Mostly it listens again at once, so that what it last said counts, and not that it is away.
const AWAY_IN_A_SPELL_MS: [u64; 5] = [0, 0, 0, 50, 3000];

pub struct Sites {
    pub hosts: Vec<Rc<Host>>,
    /// The hosts of each site, best first.
    pub of_site: Vec<Vec<usize>>,
    /// Where most mail goes now.
    pub favourite: Cell<Option<usize>>,
    /// The site that restarts does so again and again: see the `spell`.
    pub has_spell: Cell<bool>,
    /// Relay domains that came while the relay ran.
    pub newcomers: RefCell<Vec<String>>,
}

impl Sites {
    /// The ledger hears what they are like.
    pub fn draw(world: &World) -> Sites {
        let mut hosts = Vec::new();
        let mut of_site = Vec::new();
        for site in 0..SITES {
            let count = 1 + usize::from(world.one_in(3));
            let count = count.min(world.plan.most(Choice::Hosts));
            let numbers: Vec<usize> = (0..count).map(|it| hosts.len() + it).collect();
            for number in &numbers {
                hosts.push(Rc::new(Host::new(world, *number, site)));
            }
            of_site.push(numbers);
        }
        let facts = |hosts_of: &Vec<usize>| SiteFacts {
            refused_us: false,
            refused_report: false,
            size_max: hosts_of.iter().filter_map(|it| hosts[*it].size_max).min(),
            lacks_smtputf8: hosts_of.iter().any(|it| !hosts[*it].takes_smtputf8()),
            is_spotless: hosts_of
                .iter()
                .all(|it| hosts[*it].manner == Manner::Spotless),
        };
        world.ledger.borrow_mut().sites = of_site.iter().map(facts).collect();
        Sites {
            hosts,
            of_site,
            favourite: Cell::new(None),
            has_spell: Cell::new(false),
            newcomers: RefCell::default(),
        }
    }

    /// A domain for a recipient.
    pub fn domain_of_recipient(&self, world: &World) -> String {
        match self.newcomers.borrow().last() {
            Some(newcomer) if world.one_in(3) => newcomer.clone(),
            _ => self.any_domain(world),
        }
    }

    /// A domain for a recipient or a sender.
    pub fn any_domain(&self, world: &World) -> String {
        if let Some(site) = self.favourite.get()
            && !world.one_in(5)
        {
            return format!("d{site}.test");
        }
        match world.below(24) {
            0 => "gone.test".to_owned(),
            other => format!("d{}.test", other % SITES),
        }
    }

    /// All hosts of the site that does so restart: every connection is reset, and new ones are refused for a while.
    pub fn restart(&self, world: &World) {
        let away_ms = match self.has_spell.get() {
            true => *world.pick(&AWAY_IN_A_SPELL_MS),
            false => world.below(20_000) as u64,
        };
        for host in &self.of_site[RESTARTING_SITE] {
            self.hosts[*host].restart(world, Duration::from_millis(away_ms));
        }
        world.seen.borrow_mut().restarts += 1;
    }

    /// Messages under way to the site that restarts. In a spell all, otherwise those that some recipient was refused for.
    pub fn receiving(&self) -> usize {
        let hosts = self.of_site[RESTARTING_SITE].iter();
        let count = |host: &usize| self.hosts[*host].receiving(self.has_spell.get());
        hosts.map(count).sum()
    }
}
