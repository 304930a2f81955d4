//! One next hop: its queue, its connections, and what it wants to happen next.

use super::backlog::{Backlog, Queued};
use super::health::Health;
use super::{HopStatus, Settings};
use crate::time::Now;

pub(super) struct Hop<K, J, C> {
    pub key: K,
    pub context: C,
    pub todo: Backlog<J>,
    pub health: Health,
    pub opening: u32,
    /// At work, woken, or closing.
    pub busy: u32,
    pub idle: u32,
    /// Those of `busy` that are on their way to ask for a job.
    pub woken: u32,
    /// Those of `busy` that have been told to close.
    pub closing: u32,
    /// Has delivered since it was last found failing, and soon: may use the reserve of connections.
    pub proven: bool,
    /// Its last connection took long to open.
    pub opens_slowly: bool,
    /// When a connection was last asked for.
    pub opened_at: Now,
    /// Jobs taken since this hop last made room for another.
    pub turn_jobs: u32,
    /// Is in the ring of hops to look at.
    pub listed: bool,
    /// Is in a queue of hops that wait for the core's connection limit.
    pub starved: bool,
    /// The time it is noted under among the timers; `NEVER`: it is not.
    pub timer: Now,
    /// The time it is noted under among those with idle connections.
    pub idle_since: Option<Now>,
}

/// What a hop wants.
pub(super) enum Step {
    Open,
    Wake,
    CloseIdle,
    Postpone,
    /// Nothing before this time, unless something happens.
    Wait(Now),
    Forget,
}

impl<K, J: Queued, C> Hop<K, J, C> {
    pub fn new(key: K, context: C, settings: &Settings) -> Self {
        Hop {
            key,
            context,
            todo: Backlog::new(),
            health: Health::new(settings),
            opening: 0,
            busy: 0,
            idle: 0,
            woken: 0,
            closing: 0,
            proven: false,
            opens_slowly: false,
            opened_at: Now(0),
            turn_jobs: 0,
            listed: false,
            starved: false,
            timer: Now::NEVER,
            idle_since: None,
        }
    }

    pub fn connections(&self) -> u32 {
        self.opening + self.busy + self.idle
    }

    /// Without those that are on their way out.
    pub fn staying(&self) -> u32 {
        self.connections() - self.closing
    }

    pub fn has_work(&self) -> bool {
        !self.todo.is_empty()
    }

    pub fn status(&self, settings: &Settings) -> HopStatus {
        HopStatus {
            todo: self.todo.len(),
            opening: self.opening,
            busy: self.busy,
            idle: self.idle,
            window: self.health.window(),
            paused_until: self.health.paused_until(),
            is_dead: self.health.is_dead(settings),
        }
    }

    /// Looks at this hop alone; the core's connection limit is the caller's affair.
    pub fn step(&self, now: Now, settings: &Settings) -> Step {
        let Some(since) = self.todo.oldest() else {
            return self.step_without_work(now, settings);
        };
        let stale_at = self.stale_at(now, settings);
        if stale_at <= now {
            return Step::Postpone;
        }
        match self.step_for_work(since, now, settings) {
            Step::Wait(at) => Step::Wait(at.min(stale_at)),
            step => step,
        }
    }

    fn step_without_work(&self, now: Now, settings: &Settings) -> Step {
        if self.idle > 0 && self.staying() > self.health.room(settings) {
            return Step::CloseIdle;
        }
        if self.connections() > 0 {
            return Step::Wait(Now::NEVER);
        }
        // Its pauses are worth remembering as long as they last.
        match self.health.paused_until() {
            until if until > now => Step::Wait(until),
            _ => Step::Forget,
        }
    }

    fn step_for_work(&self, since: Now, now: Now, settings: &Settings) -> Step {
        let health = &self.health;
        if health.takes_from > now {
            return Step::Wait(health.takes_from);
        }
        if self.idle > 0 {
            return self.step_with_idle(settings);
        }
        if health.opens_from > now {
            return Step::Wait(health.opens_from);
        }
        if self.opening >= self.opening_max(settings) {
            return Step::Wait(Now::NEVER);
        }
        let at = match self.staying() < health.room(settings) {
            true => self.open_at(since, settings),
            false => self.widen_at(since, settings),
        };
        match at <= now {
            true => Step::Open,
            false => Step::Wait(at),
        }
    }

    fn step_with_idle(&self, settings: &Settings) -> Step {
        if self.staying() > self.health.room(settings) {
            Step::CloseIdle
        } else if self.todo.len() > self.woken as usize {
            Step::Wake
        } else {
            Step::Wait(Now::NEVER)
        }
    }

    /// Connections that may be opening at a time. A hop of which no connection has been greeted may greet nobody, and one that
    /// has failed may fail again: what hangs there is missing elsewhere.
    fn opening_max(&self, settings: &Settings) -> u32 {
        let is_greeted = self.busy + self.idle > 0;
        if self.health.has_failed() {
            1
        } else if is_greeted {
            u32::MAX
        } else {
            settings.window_initial
        }
    }

    /// When one more connection is worth its handshake.
    fn open_at(&self, since: Now, settings: &Settings) -> Now {
        if self.staying() == 0 {
            return since;
        }
        let enough = settings.jobs_per_new_connection as usize * (self.opening as usize + 1);
        if self.unclaimed() >= enough {
            since + settings.reuse_wait
        } else if self.opening == 0 {
            since + settings.slow_wait
        } else {
            self.join_at(since, settings)
        }
    }

    /// When one more connection than the window has is worth a try: the hop is slow, and not troubled.
    fn widen_at(&self, since: Now, settings: &Settings) -> Now {
        let may_widen = self.health.may_widen() && self.connections() < self.health.window_max();
        match may_widen {
            true => self.join_at(since, settings),
            false => Now::NEVER,
        }
    }

    /// One connection after the other while there are more jobs than connections on their way to them: those that are
    /// busy or opening may hang.
    fn join_at(&self, since: Now, settings: &Settings) -> Now {
        match self.unclaimed() > self.opening as usize {
            true => since.max(self.opened_at) + settings.join_wait,
            false => Now::NEVER,
        }
    }

    /// Jobs that no connection is about to ask for.
    fn unclaimed(&self) -> usize {
        self.todo.len().saturating_sub(self.woken as usize)
    }

    /// When the oldest job has waited long enough to be handed back. At a hop that is dead or paused that is counted from the
    /// begin of the trouble: jobs that waited before, for their turn, have lost nothing yet.
    pub fn stale_at(&self, now: Now, settings: &Settings) -> Now {
        let Some(since) = self.todo.oldest() else {
            return Now::NEVER;
        };
        let health = &self.health;
        let paused =
            health.takes_from > now || (health.opens_from > now && self.connections() == 0);
        let slow = since + settings.queue_wait_max;
        match paused || health.is_dead(settings) {
            true => slow.min(since.max(health.troubled_since) + settings.blocked_wait_max),
            false => slow,
        }
    }
}
