//! A site restarts whenever it receives a message, again and again, while it refuses every other recipient and much mail
//! waits for it. So it is given up for a while just after it has said something of somebody, and mail grows old there.

use super::Play;
use crate::sites::RESTARTING_SITE;
use std::rc::Rc;
use std::time::Duration;

/// Longer than most mail may take, so that some is returned at the end.
const SPELL_MIN: Duration = Duration::from_secs(65);
/// Clients that come at once in the beginning.
const CLIENTS_AT_FIRST: usize = 8;

impl Play {
    pub(super) fn have_spell(&mut self) -> Result<(), String> {
        self.world.seen.borrow_mut().spells += 1;
        tell!(self.world, "[a site begins to restart again and again]");
        self.set_spell(true);
        (0..CLIENTS_AT_FIRST).for_each(|_| self.visit());
        let until = self.host.now() + SPELL_MIN + Duration::from_secs(self.host.below(30) as u64);
        while self.host.now() < until {
            if self.network.sites.receiving() > 0 {
                self.network.restart();
            }
            if Rc::strong_count(&self.clients) == 1 && self.host.one_in(60) {
                self.visit();
            }
            let pause = Duration::from_micros(self.host.below(100_000) as u64);
            self.pass(pause, || false)?;
        }
        self.set_spell(false);
        Ok(())
    }

    fn set_spell(&self, is_on: bool) {
        let sites = &self.network.sites;
        sites.favourite.set(is_on.then_some(RESTARTING_SITE));
        sites.has_spell.set(is_on);
    }
}
