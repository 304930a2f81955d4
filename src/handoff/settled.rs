//! What was settled, on its way to the home of the message, and the word that it is durable.

use crate::handoff::job::Message;
use crate::schedule::outcome::{RecipientState, ReportKind};
use crate::schedule::settle::Recipients;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// New states of recipients, which only the home of their message writes.
pub struct Settled {
    pub message: Arc<Message>,
    pub recipients: Recipients,
    /// So many of them are finished.
    pub finished: u32,
}

impl Settled {
    /// Recipients whose host gets the mail again if this is lost.
    pub fn repeated(&self) -> usize {
        self.recipients.iter().filter(is_repeated).count()
    }
}

fn is_repeated((_, state): &&(u32, RecipientState)) -> bool {
    matches!(
        state,
        RecipientState::Finished
            | RecipientState::ReportOwed {
                kind: ReportKind::Relayed,
                ..
            }
    )
}

/// All of one hand-over is durable.
#[derive(Clone, Copy)]
pub struct Recorded {
    pub home: usize,
    /// So many of [`Settled`].
    pub settled: usize,
    pub recipients: usize,
    /// See [`Settled::repeated`].
    pub repeated: usize,
}

impl Recorded {
    /// What the home says of these once they are durable.
    pub fn of(home: usize, settled: &[Settled]) -> Self {
        Recorded {
            home,
            settled: settled.len(),
            recipients: settled.iter().map(|it| it.recipients.len()).sum(),
            repeated: settled.iter().map(Settled::repeated).sum(),
        }
    }
}

/// What all cores see of a home.
#[derive(Default)]
pub struct Signs {
    lacks_space: AtomicBool,
    is_blamed: AtomicBool,
}

impl Signs {
    /// From the home: whether outcomes wait for room, and the disk is full.
    pub fn show(&self, lacks_space: bool) {
        if self.lacks_space() != lacks_space {
            self.lacks_space.store(lacks_space, Ordering::Relaxed);
        }
    }

    /// What the home has shown last.
    pub fn lacks_space(&self) -> bool {
        self.lacks_space.load(Ordering::Relaxed)
    }

    /// Mail is held because of it. False if somebody has said so, and it is not over.
    pub fn blame(&self) -> bool {
        !self.is_blamed.swap(true, Ordering::Relaxed)
    }

    /// It is over.
    pub fn forgive(&self) {
        self.is_blamed.store(false, Ordering::Relaxed);
    }
}
