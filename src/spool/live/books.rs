//! What a core knows of its segments and of the mail in them.

use crate::message::MessageId;
use crate::spool::format::Generation;
use crate::spool::live::liveness::{MessageLiveness, OutcomeLiveness};
use crate::spool::location::message_location::Movable;
use crate::spool::location::place::SegmentRef;
use crate::spool::recovery::recover::{LiveMessage, OldSegment};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub(super) struct Books {
    pub messages: MessageLiveness,
    pub outcomes: OutcomeLiveness,
    /// Segments of this core that are in use. The only reference that outlives a message.
    pub files: BTreeMap<Generation, SegmentRef>,
    /// Set aside when they are retired.
    pub bad: BTreeSet<Generation>,
    /// Unfinished messages of this home that can be moved.
    pub kept: HashMap<MessageId, Arc<dyn Movable>>,
    /// Others that outcomes name: nobody here knows how they stand.
    pub unshown: HashSet<MessageId>,
}

impl Books {
    /// What earlier runs left to this core.
    pub fn of(
        live: Vec<LiveMessage>,
        old_messages: Vec<OldSegment>,
        old_outcomes: Vec<(OldSegment, BTreeSet<Generation>)>,
    ) -> Self {
        let mut books = Books {
            messages: MessageLiveness::default(),
            outcomes: OutcomeLiveness::default(),
            files: BTreeMap::new(),
            bad: BTreeSet::new(),
            kept: HashMap::new(),
            unshown: HashSet::new(),
        };
        // Oldest first: that is the order in which the book learns of them.
        for old in &old_messages {
            books.messages.opened(old.file.generation);
            for holder in &old.held_by {
                books.messages.held(old.file.generation, *holder);
            }
        }
        for live in live {
            (books.messages).stored(live.id, &live.parts, live.recipients);
        }
        for old in old_messages {
            books.messages.sealed(old.file.generation);
            books.adopt(old.file, old.is_damaged);
        }
        for (old, refers_to) in old_outcomes {
            let refers_to: Vec<Generation> = refers_to.into_iter().collect();
            // Whatever they say is known to the messages from the start.
            books.outcomes.refers(old.file.generation, &refers_to, true);
            books.outcomes.sealed(old.file.generation);
            books.adopt(old.file, old.is_damaged);
        }
        books
    }

    /// A segment of this run's outcomes that has some of earlier ones.
    pub fn go_on(&mut self, file: SegmentRef, refers_to: BTreeSet<Generation>) {
        let refers_to: Vec<Generation> = refers_to.into_iter().collect();
        self.outcomes.refers(file.generation, &refers_to, true);
        self.files.insert(file.generation, file);
    }

    /// An outcome names the message.
    pub fn named(&mut self, id: MessageId) {
        if !self.kept.contains_key(&id) && self.messages.is_live(id) {
            self.unshown.insert(id);
        }
    }

    fn adopt(&mut self, file: SegmentRef, is_damaged: bool) {
        if is_damaged {
            self.bad.insert(file.generation);
        }
        self.files.insert(file.generation, file);
    }
}
