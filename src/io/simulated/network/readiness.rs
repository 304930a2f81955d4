//! Who waits for which socket, and what there is to see.

use super::{Network, Polled, State};
use crate::io::simulated::clockwork::Clockwork;
use std::any::Any;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Poll};

impl Network {
    /// As `poll(2)` would say.
    fn readiness(&self, socket: RawFd) -> u32 {
        let (input, output) = (libc::POLLIN as u32, libc::POLLOUT as u32);
        let (fault, hang_up) = (libc::POLLERR as u32, libc::POLLHUP as u32);
        if let Some(passive) = self.passives.get(&socket) {
            return match (passive.queue.is_empty(), passive.backlog) {
                (false, _) => input,
                (true, Some(_)) => 0,
                (true, None) => hang_up,
            };
        }
        let Some(end) = self.ends.get(&socket) else {
            return hang_up;
        };
        let is_gone = end.state == State::Gone;
        let reads_no_more = end.has_ended || end.reading_is_shut || is_gone;
        let has_room = end.outstanding <= self.links.window / 3 * 2;
        let mut found = 0;
        if end.state != State::Connecting {
            found |= input * u32::from(!end.unread.is_empty() || reads_no_more);
            found |= output * u32::from(end.writing_is_shut || is_gone || has_room);
        }
        found |= hang_up * u32::from(is_gone || reads_no_more && end.writing_is_shut);
        if end.error.is_some() {
            found |= fault;
        }
        found
    }

    fn polls_of(&mut self, socket: RawFd) -> Option<&mut Vec<u64>> {
        match self.ends.get_mut(&socket) {
            Some(end) => Some(&mut end.polls),
            None => self.passives.get_mut(&socket).map(|it| &mut it.polls),
        }
    }

    /// Begins to watch a descriptor; `file` keeps it open.
    pub fn watch(&mut self, descriptor: RawFd, events: u32, file: Rc<dyn Any>) -> u64 {
        let socket = self.descriptors.get(&descriptor).copied();
        let socket = socket.unwrap_or(descriptor);
        let number = self.next_poll;
        self.next_poll += 1;
        let polled = Polled {
            socket,
            events,
            file: Some(file),
            waker: None,
            is_abandoned: false,
        };
        self.polls.insert(number, polled);
        if let Some(polls) = self.polls_of(socket) {
            polls.push(number);
        }
        number
    }

    /// Whoever watches that socket and has something to see is told.
    pub(super) fn look_at(&mut self, world: &Clockwork, socket: RawFd) {
        let ready = self.readiness(socket);
        let always = (libc::POLLERR | libc::POLLHUP) as u32;
        let Some(polls) = self.polls_of(socket) else {
            return;
        };
        let mut waiting = std::mem::take(polls);
        // Of those who watch a shared queue one is told.
        let is_exclusive = |it: &Polled| it.events & libc::EPOLLEXCLUSIVE as u32 != 0;
        if waiting.len() > 1 && waiting.iter().all(|it| is_exclusive(&self.polls[it])) {
            let first = world.below(waiting.len());
            waiting.rotate_left(first);
        }
        let mut has_told = false;
        waiting.retain(|number| {
            let polled = self.polls.get_mut(number).expect("it is watched");
            let is_next = !(has_told && is_exclusive(polled) && ready & always == 0);
            if ready & (polled.events | always) == 0 || !is_next {
                return true;
            }
            has_told = true;
            self.to_drop.extend(polled.file.take());
            self.to_wake.extend(polled.waker.take());
            if polled.is_abandoned {
                self.polls.remove(number);
            }
            false
        });
        if let Some(polls) = self.polls_of(socket) {
            polls.extend(waiting);
        }
    }

    /// Ready once what was watched for is there.
    pub fn poll(&mut self, world: &Clockwork, number: u64, context: &Context<'_>) -> Poll<()> {
        // One that went with its host never ends.
        let Some(polled) = self.polls.get_mut(&number) else {
            return Poll::Pending;
        };
        let socket = polled.socket;
        if polled.file.is_none() {
            self.polls.remove(&number);
            return Poll::Ready(());
        }
        let is_first = polled.waker.replace(context.waker().clone()).is_none();
        if is_first {
            self.look_at(world, socket);
        }
        Poll::Pending
    }

    /// Nobody waits for it any more. It ends all the same, and keeps the socket open until then.
    pub fn abandon(&mut self, world: &Clockwork, number: u64) {
        let Some(polled) = self.polls.get_mut(&number) else {
            return;
        };
        let socket = polled.socket;
        if polled.file.is_none() {
            self.polls.remove(&number);
            return;
        }
        polled.waker = None;
        polled.is_abandoned = true;
        self.look_at(world, socket);
    }
}
