//! Who may be sent mail now: the queues and connection windows of one delivery core.
//!
//! Promise: every job that is pushed comes back exactly once, from [`Schedule::take`] or in an
//! [`Action`]; a hop that answers slowly, or not at all, holds up nobody else's mail.
//! Not here: connections, DNS, the spool, the clock. The driver asks [`Schedule::poll`] what to
//! do until it has nothing to say, then sleeps until [`Schedule::deadline`] or the next event.
//!
//! ```text
//!             defer                        push
//!  judge ---------------> due queue      -------> todo of the hop --- take --> connection
//!                            | Retry (route again)        | Postpone (route again, or expired)
//! ```
//!
//! A connection is always in one of these states; the driver reports each change:
//!
//! ```text
//!  Open --> opening -- connected --> busy -- take: Job --> busy
//!              | connect_failed       |  ^-- Wake ------------.
//!              v                      |-- take: Wait ------> idle -- idle_closed --> gone
//!             gone                    |-- take: Close \        | Close
//!                                     v                v       v
//!                                  closed / broke     busy, to be closed
//! ```
//!
//! A deferred job is handed back to be *routed again*, not to its old hop: hours later its domain
//! may have other MX hosts.
//!
//! **A hop that cannot be reached.** A connection that could not be opened, on any host of the hop, is followed by a
//! pause (`failure_wait_min`, doubling). After `failures_until_dead` failures in a row the hop is dead:
//! no connection until a longer pause (doubling from `probe_wait_min` to `probe_wait_max`) is over, then one
//! at a time until a transaction succeeds. Connections that were there together and fail together are one failure, and after
//! the first that breaks another is opened at once: a host that was restarted has all its mail again as soon as it listens. Jobs
//! stay where they are, so that everything flows at
//! once when a short outage ends; a failure costs the same whether one job waits or a million. A job that has
//! waited for `blocked_wait_max` of the trouble is handed back as [`Action::Postpone`], one at a time: the driver routes it again or, past its lifetime,
//! reports it expired with what the hop last said.
//!
//! **A hop that is slow** is not failing. While more jobs wait than connections are opening, a further one is opened every
//! `join_wait`, also beyond the window, which grows with it to `window_max`: mail for one recipient who takes
//! half a minute does not hold up the mail for the others. After a failure or a refusal the window grows by successes only.
//! A job that was taken ahead behind a message that takes long comes back ([`Schedule::give_back`]), and is the next.
//!
//! **A hop that is mute** accepts connections and greets none. As long as no connection of a hop has been greeted, at most
//! `window_initial` are opening, and after a failure one: more of them would wait for the same, and be missing elsewhere.
//!
//! **Slow hops beside quick ones.** A core has a limit of connections. A hop that answers within
//! `proven_wait_max` is *proven*; one that fails, takes longer, or has shown nothing yet is not. What is
//! shared between them is room under that limit, so the unproven leave an eighth of it alone, and both kinds
//! take turns: however many hops hang, a quick one waits at most for others that are quick. Who is
//! proven is remembered for an hour or two after the hop's last success, in some ten bytes, so that a good hop
//! with one mail now and then does not begin again among the slow. A hop that merely
//! takes its time is not refused anything: it shares seven eighths. While a hop that has not failed waits for room for
//! its first connection, one that has been opening for `crowded_wait_max` is given up, so that hosts that accept
//! connections and say nothing do not keep out those who have shown nothing yet. The driver does the same with
//! one that waits for a reply for as long ([`Schedule::is_crowded`]).

mod backlog;
mod due;
mod health;
mod hop;
mod lanes;
mod limits;
mod proven;
mod settings;
mod slots;
mod turns;

use crate::time::Now;
pub use backlog::{Origin, Queued, Rank};
pub use settings::{
    CONNECTIONS_MAX, CONNECTIONS_PER_HOP_MAX, CROWDED_WAIT_MAX, IDLE_WAIT, Settings,
};
pub use slots::HopId;

use due::DueQueue;
use health::ConnectionFailure;
use proven::Proven;
use slots::{Slot, expect_hop};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Range;
use std::time::Duration;

/// Tables that have room for more than this, and for four times what they hold, give memory back.
const SPARE_HOPS_MAX: usize = 1024;

/// What the driver is to do.
#[derive(PartialEq, Eq, Debug)]
pub enum Action<J> {
    /// Connect to the hop; then [`Schedule::connected`] or [`Schedule::connect_failed`].
    Open { hop: HopId },
    /// One idle connection of the hop is busy from now on, and calls [`Schedule::take`].
    Wake { hop: HopId },
    /// One idle connection of the hop is to be closed; then [`Schedule::closed`].
    Close { hop: HopId },
    /// The job has waited at this hop for too long.
    Postpone { hop: HopId, job: J },
    /// The job is due: find its next hop and push it.
    Retry { job: J },
}

/// The answer to a connection that asks for work.
#[derive(PartialEq, Eq, Debug)]
pub enum Take<J> {
    Job(J),
    /// The connection is idle now, until woken or told to close; past `until` it closes itself and
    /// reports [`Schedule::idle_closed`].
    Wait {
        until: Now,
    },
    /// The connection is to be closed: too many for this hop, or another hop needs the room.
    Close,
}

/// What a hop refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// To go on with a session, for no reason that is known (421 in mid-session). It may be for the mail, so nothing waits:
    /// there are fewer connections until jobs wait for more.
    Session,
    /// One more connection (421 in place of a greeting): those that are open go on.
    Connection,
    /// Mail at this rate (451 4.7.x and the like): no connection gets a job for a while.
    Mail,
}

/// A hop as metrics and the admin see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopStatus {
    pub todo: usize,
    pub opening: u32,
    pub busy: u32,
    pub idle: u32,
    pub window: u32,
    /// No new connection before this; may be past.
    pub paused_until: Now,
    pub is_dead: bool,
}

/// The scheduler. `K` names a hop, `J` is a job, `C` is what the driver keeps with a hop for as
/// long as the hop is known (its last diagnosis, handles of its idle connections).
///
/// Every call costs O(log n) at most in the number of jobs and hops.
pub struct Schedule<K, J, C = ()> {
    settings: Settings,
    slots: Vec<Slot<K, J, C>>,
    /// Slots without a hop. Invariant: the last slot is not among them.
    free: BTreeSet<u32>,
    /// Names each hop once.
    generations: u32,
    proven: Proven,
    by_key: HashMap<K, HopId>,
    /// Hops to look at, in turn. None is in it twice.
    ring: VecDeque<HopId>,
    /// Hops with work, no connection, and no room under the core's limit: `[unproven, proven]`.
    starved: [VecDeque<HopId>; 2],
    /// Those of them that have not failed since they last succeeded.
    starved_unfailed: u32,
    /// Whose turn it is among the starved.
    proven_first: bool,
    /// One entry for each hop that waits for the clock.
    timers: BTreeSet<(Now, u32)>,
    /// Hops with idle connections, longest idle first.
    idle: BTreeSet<(Now, u32)>,
    deferred: DueQueue<J>,
    queued: usize,
    /// Invariant: connections <= connections_max, and the sum over all hops.
    connections: u32,
    /// Those of hops that are not proven.
    unproven_connections: u32,
    /// Connections that have been told to close.
    closing: u32,
    connected_hops: u32,
    is_held: bool,
}

impl<K: Clone + Hash + Eq, J: Queued, C: Default> Schedule<K, J, C> {
    /// Panics if the settings contradict each other.
    pub fn new(settings: Settings) -> Self {
        settings.assert_sound();
        Schedule {
            settings,
            slots: Vec::new(),
            free: BTreeSet::new(),
            generations: 0,
            proven: Proven::default(),
            by_key: HashMap::new(),
            ring: VecDeque::new(),
            starved: [VecDeque::new(), VecDeque::new()],
            starved_unfailed: 0,
            proven_first: true,
            timers: BTreeSet::new(),
            idle: BTreeSet::new(),
            deferred: DueQueue::new(),
            queued: 0,
            connections: 0,
            unproven_connections: 0,
            closing: 0,
            connected_hops: 0,
            is_held: false,
        }
    }

    /// Queues a job for its hop, behind those of its kind and origin that wait already. Memory is bounded by admission.
    pub fn push(&mut self, key: &K, job: J, now: Now) -> HopId {
        let id = match self.by_key.get(key) {
            Some(id) => *id,
            None => self.add_hop(key),
        };
        self.queued += 1;
        self.hop_mut(id).todo.push(job, now);
        self.list(id);
        id
    }

    /// Keeps a job until `due`, then hands it back as [`Action::Retry`].
    pub fn defer(&mut self, job: J, due: Now) {
        self.deferred.push(due, job);
    }

    /// The next thing to do now; `None`: nothing until [`Schedule::deadline`] or another call.
    pub fn poll(&mut self, now: Now) -> Option<Action<J>> {
        if self.is_held {
            return None;
        }
        self.fire_timers(now);
        self.poll_starved(now)
            .or_else(|| self.poll_ring(now))
            .or_else(|| self.poll_room())
            .or_else(|| self.deferred.pop(now).map(|job| Action::Retry { job }))
    }

    /// When to poll again if nothing else happens. Never late; may be early, so that most events
    /// need not touch a timer.
    pub fn deadline(&self) -> Option<Now> {
        if self.is_held {
            return None;
        }
        if !self.ring.is_empty() {
            return Some(Now(0));
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        match (timer, self.deferred.deadline()) {
            (Some(timer), Some(due)) => Some(timer.min(due)),
            (timer, due) => timer.or(due),
        }
    }

    /// Until [`Schedule::go_on`] no job is handed out, and nothing is asked of the driver: connections that ask for work
    /// become idle.
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// See [`Schedule::hold`]. The driver is to poll.
    pub fn go_on(&mut self) {
        self.is_held = false;
    }

    /// A busy connection asks for its next job.
    pub fn take(&mut self, id: HopId, now: Now) -> Take<J> {
        let yields = self.must_yield(id);
        let settings = &self.settings;
        let hop = expect_hop(&mut self.slots, id);
        assert!(hop.busy > hop.closing);
        hop.woken = hop.woken.saturating_sub(1);
        let too_many = hop.staying() > hop.health.room(settings);
        if yields || too_many || hop.health.takes_from > now {
            hop.turn_jobs = 0;
            hop.closing += 1;
            self.closing += 1;
            self.list(id);
            return Take::Close;
        }
        if self.is_held {
            // It is woken when mail goes on.
            self.list(id);
            return self.rest(id, now);
        }
        let Some(job) = hop.todo.pop() else {
            return self.rest(id, now);
        };
        hop.turn_jobs = hop.turn_jobs.saturating_add(1);
        let more = hop.has_work();
        self.queued -= 1;
        if more {
            self.list(id);
        }
        Take::Job(job)
    }

    /// A busy connection could send the commands of a further job along with the content of this one.
    /// `None`: it has to finish first and then call [`Schedule::take`]; nothing has changed. Only a hop whose last
    /// transaction was quick gets one: elsewhere the job might wait behind this one, where another connection could
    /// take it.
    pub fn take_ahead(&mut self, id: HopId, now: Now) -> Option<J> {
        let yields = self.must_yield(id);
        let settings = &self.settings;
        let hop = expect_hop(&mut self.slots, id);
        let too_many = hop.staying() > hop.health.room(settings);
        if self.is_held || yields || too_many || !hop.proven || hop.health.takes_from > now {
            return None;
        }
        let job = hop.todo.pop()?;
        hop.turn_jobs = hop.turn_jobs.saturating_add(1);
        self.queued -= 1;
        Some(job)
    }

    /// A job that was taken ahead at `taken`, and still waits behind another: any other connection may take it, before those
    /// that wait. The hop is not quick just now, so nothing is taken ahead there until a transaction is again.
    pub fn give_back(&mut self, id: HopId, job: J, taken: Now) {
        self.hop_mut(id).todo.push_front(job, taken);
        self.queued += 1;
        self.set_proven(id, false);
        self.list(id);
    }

    /// The connection stands (greeting and EHLO done) after `took`, and is about to call
    /// [`Schedule::take`].
    pub fn connected(&mut self, id: HopId, took: Duration) {
        let is_slow = took > self.settings.proven_wait_max;
        let hop = self.hop_mut(id);
        assert!(hop.opening > 0);
        hop.opening -= 1;
        hop.busy += 1;
        hop.woken += 1;
        hop.opens_slowly = is_slow;
        if is_slow {
            self.set_proven(id, false);
        }
    }

    /// Whether a connection that has been opening since `since` is to be given up, and reported as failed:
    /// it takes long, and a hop that has none and has not failed could have one in its place.
    pub fn is_crowded_out(&self, id: HopId, since: Now, now: Now) -> bool {
        let is_proven = self.known(id).proven;
        now.since(since) >= self.settings.crowded_wait_max
            && !self.has_room(is_proven)
            && self.wanted_connections(is_proven) > self.closing
            && self.starved_unfailed > 0
    }

    /// Whether a hop that has no connection, and has not failed, waits for another to give one up.
    pub fn is_crowded(&self) -> bool {
        !self.is_held && self.starved_unfailed > 0 && self.wanted_connections(false) > self.closing
    }

    /// No host of the hop could be reached, or none wanted to talk, since the connection began to open at `began`. A handshake that
    /// failed and was followed by plaintext is not a failure.
    pub fn connect_failed(&mut self, id: HopId, began: Now, now: Now) {
        let hop = self.hop_mut(id);
        assert!(hop.opening > 0);
        hop.opening -= 1;
        self.connection_gone(id);
        self.failed(id, ConnectionFailure::NotOpened, began, now);
    }

    /// A busy connection, or one that was told to close, has ended without anybody's fault.
    pub fn closed(&mut self, id: HopId) {
        let hop = expect_hop(&mut self.slots, id);
        assert!(hop.busy > 0);
        hop.busy -= 1;
        if hop.closing > 0 {
            hop.closing -= 1;
            self.closing -= 1;
        }
        hop.woken = hop.woken.min(hop.busy - hop.closing);
        self.connection_gone(id);
    }

    /// A busy connection that began to open at `began` was lost in mid-session. Counts as a failure of the hop.
    pub fn broke(&mut self, id: HopId, began: Now, now: Now) {
        self.closed(id);
        self.failed(id, ConnectionFailure::Broke, began, now);
    }

    /// An idle connection has ended: its time was up, or the peer closed it.
    pub fn idle_closed(&mut self, id: HopId) {
        self.leave_idle(id);
        self.connection_gone(id);
    }

    /// The hop took part in a transaction to its end, in so much time, whatever it said about the
    /// recipients.
    pub fn delivered(&mut self, id: HopId, took: Duration) {
        let hop = expect_hop(&mut self.slots, id);
        hop.health.succeeded();
        let is_quick = !hop.opens_slowly && took <= self.settings.proven_wait_max;
        self.set_proven(id, is_quick);
        self.list(id);
    }

    /// The hop asked for less. What becomes of the job and of the connection is reported apart.
    pub fn refused(&mut self, id: HopId, refusal: Refusal, now: Now) {
        let hop = expect_hop(&mut self.slots, id);
        hop.health.refused(now, refusal, &self.settings);
        self.list(id);
    }

    /// Most connections to this hop from now on: its share of `window_max`, when several cores serve it.
    pub fn set_window_max(&mut self, id: HopId, window_max: u32) {
        self.hop_mut(id).health.set_window_max(window_max);
        self.list(id);
    }

    /// Gives back the memory of hops that are gone. To be called now and then.
    pub fn tidy(&mut self, now: Now) {
        self.proven.tidy(now);
        let hops = self.by_key.len();
        if self.by_key.capacity() > SPARE_HOPS_MAX.max(4 * hops) {
            self.by_key.shrink_to(2 * hops);
            self.slots.shrink_to(2 * hops);
            self.ring.shrink_to(2 * hops);
            for starved in &mut self.starved {
                starved.shrink_to(2 * hops);
            }
        }
    }

    /// Whether the hop may want something that nobody is about to ask for: after a connection has taken or ended a job, and unless it is
    /// looked at soon in any case. Then the driver is to poll.
    pub fn needs_poll(&self, id: HopId, now: Now) -> bool {
        let hop = self.known(id);
        let may_open = hop.has_work() && hop.staying() < hop.health.window_max();
        hop.listed && may_open && hop.timer > now + self.settings.join_wait
    }

    /// Jobs in the schedule: queued and deferred, without those that were taken.
    pub fn len(&self) -> usize {
        self.queued + self.deferred.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Jobs that wait for their time.
    pub fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// Hops that are known now.
    pub fn hops(&self) -> usize {
        self.by_key.len()
    }

    /// Connections of all hops, in whatever state.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// `None`: the hop is not known (any more).
    pub fn hop(&self, key: &K) -> Option<HopId> {
        self.by_key.get(key).copied()
    }

    /// The hop must be known: it has a connection, or an action has just named it.
    pub fn key(&self, id: HopId) -> &K {
        &self.known(id).key
    }

    /// The hop must be known.
    pub fn context(&mut self, id: HopId) -> &mut C {
        &mut self.hop_mut(id).context
    }

    /// Places for hops, some of them empty.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// The hops in these places, which may reach beyond the last. A hop keeps its place as long as it is known.
    pub fn hops_in(&self, places: Range<usize>) -> impl Iterator<Item = (&K, &C, HopStatus)> {
        let end = places.end.min(self.slots.len());
        let slots = self.slots.get(places.start..end).unwrap_or_default();
        let hops = slots.iter().filter_map(|slot| slot.hop.as_deref());
        hops.map(|hop| (&hop.key, &hop.context, hop.status(&self.settings)))
    }

    /// `None`: the hop is not known (any more).
    pub fn status(&self, id: HopId) -> Option<HopStatus> {
        let slot = self.slots.get(id.slot as usize)?;
        let hop = slot.hop.as_deref()?;
        (slot.generation == id.generation).then(|| hop.status(&self.settings))
    }
}

#[cfg(test)]
mod tests;
