//! A connection: two streams of octets that arrive in pieces, and may break at any moment.

use crate::world::{World, until_or};
use ringpost::time::Now;
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// Nothing more will be written.
    ended: bool,
    /// Nobody reads any more.
    deaf: bool,
}

type Shared = Rc<RefCell<Stream>>;

/// One end of a connection. Dropped, it is closed in good order: what was sent still arrives.
pub struct End {
    world: Rc<World>,
    outward: Shared,
    inward: Shared,
}

/// Breaks a connection from outside, both ways.
pub struct Breaker {
    outward: Shared,
    inward: Shared,
}

/// The other end is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    Bytes,
    End,
    TimedOut,
}

pub fn connect(world: &Rc<World>) -> (End, End) {
    let (one, other) = (Shared::default(), Shared::default());
    let end = |outward: &Shared, inward: &Shared| End {
        world: world.clone(),
        outward: outward.clone(),
        inward: inward.clone(),
    };
    (end(&one, &other), end(&other, &one))
}

impl End {
    pub fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        let mut stream = self.outward.borrow_mut();
        if stream.deaf || stream.ended {
            return Err(Gone);
        }
        stream.bytes.extend_from_slice(bytes);
        // Whoever waits for it may have looked already, and is to look again before time passes.
        self.world.note_progress();
        Ok(())
    }

    /// Appends some of what has come, mostly all of it.
    pub async fn receive(&self, into: &mut Vec<u8>, deadline: Now) -> Received {
        let look = || {
            let mut stream = self.inward.borrow_mut();
            if !stream.bytes.is_empty() {
                let some = match self.world.one_in(4) {
                    true => 1 + self.world.below(stream.bytes.len()),
                    false => stream.bytes.len(),
                };
                into.extend(stream.bytes.drain(..some));
                return Some(Received::Bytes);
            }
            stream.ended.then_some(Received::End)
        };
        let received = until_or(&self.world, deadline, look).await;
        received.unwrap_or(Received::TimedOut)
    }

    pub fn breaker(&self) -> Breaker {
        Breaker {
            outward: self.outward.clone(),
            inward: self.inward.clone(),
        }
    }

    /// Something has come that was not received, or the other end has closed.
    pub fn has_news(&self) -> bool {
        let stream = self.inward.borrow();
        stream.ended || !stream.bytes.is_empty()
    }

    /// The other end has closed and does not read.
    pub fn is_alone(&self) -> bool {
        self.outward.borrow().deaf
    }

    /// The same, or the connection was broken from outside.
    pub fn is_over(&self) -> bool {
        let stream = self.outward.borrow();
        stream.deaf || stream.ended
    }

    /// There is no TLS here.
    pub fn offers_tls(&self) -> bool {
        false
    }

    pub fn start_tls(&self) {
        unreachable!("it was not offered");
    }

    /// Closes, and what the other end has not read by now is lost. True if that was something.
    pub fn reset(self) -> bool {
        let unread = std::mem::take(&mut self.outward.borrow_mut().bytes);
        !unread.is_empty()
    }
}

impl Breaker {
    /// What neither end has read by now is lost. True if the other end had not read everything.
    pub fn reset(&self) -> bool {
        let unread = !self.outward.borrow().bytes.is_empty();
        for stream in [&self.outward, &self.inward] {
            let mut stream = stream.borrow_mut();
            stream.bytes.clear();
            stream.ended = true;
        }
        unread
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.outward.borrow_mut().ended = true;
        self.inward.borrow_mut().deaf = true;
        self.world.note_progress();
    }
}
