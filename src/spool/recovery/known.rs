//! What outcomes, and the states that copies took along, say of messages; and which segments it takes to know it.
//!
//! A state is *held* by the first segment that says it, of those in which nothing further is said. The others are
//! not needed for it: not older ones that it goes beyond, nor later ones that only repeat it.

use super::found::HeldOutcome;
use crate::message::MessageId;
use crate::schedule::outcome::{Outcome, RecipientState};
use crate::spool::format::{Generation, RECORD_HEAD_BYTES, States, encode_outcome};
use std::collections::{BTreeMap, HashMap};

/// The place of an outcome segment in the list of all segments.
type Index = u32;

struct KnownState {
    recipient: u32,
    state: RecipientState,
    /// Of an outcome. `None`: only a copy says it.
    holder: Option<Index>,
}

/// What is known of one message.
#[derive(Default)]
struct Known {
    /// By recipient, ascending.
    states: Vec<KnownState>,
    /// Outcome segments that name it.
    named_in: Vec<Index>,
    /// Message segments in which it can be found.
    found_in: Vec<Generation>,
}

#[derive(Default)]
pub(super) struct Knowledge(HashMap<MessageId, Known>);

impl Knowledge {
    /// `holder`: the outcome segment, older ones first. A copy is no outcome, and what it says goes when it goes.
    pub fn learn(&mut self, holder: Option<usize>, id: MessageId, recipients: States) {
        if recipients.is_empty() {
            return;
        }
        let holder = holder.map(|index| index as Index);
        let known = self.0.entry(id).or_default();
        if let Some(index) = holder
            && known.named_in.last() != Some(&index)
        {
            known.named_in.push(index);
        }
        for (recipient, state) in recipients {
            let states = &mut known.states;
            match states.binary_search_by_key(&recipient, |it| it.recipient) {
                Ok(at) => states[at].merge(state, holder),
                Err(at) => states.insert(
                    at,
                    KnownState {
                        recipient,
                        state,
                        holder,
                    },
                ),
            }
        }
    }

    pub fn is_named(&self, id: MessageId) -> bool {
        self.0.contains_key(&id)
    }

    /// The states of a message with this many recipients: the union of all that is known.
    pub fn states(&self, id: MessageId, recipients: usize) -> Vec<RecipientState> {
        let mut states = vec![RecipientState::fresh(); recipients];
        let known = self.0.get(&id).map_or(&[][..], |known| &known.states);
        for it in known {
            if let Some(slot) = states.get_mut(it.recipient as usize) {
                slot.merge(it.state.clone());
            }
        }
        states
    }

    /// The message can be found in `generation`. Which outcome segments are needed for as long as it can: those that hold a
    /// state, and of the others that name it those that may say more than could be read.
    pub fn found(
        &mut self,
        id: MessageId,
        generation: Generation,
        says_more: impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let Some(known) = self.0.get_mut(&id).filter(|it| !it.named_in.is_empty()) else {
            return Vec::new();
        };
        if !known.found_in.contains(&generation) {
            known.found_in.push(generation);
        }
        let holders = known.states.iter().filter_map(|it| it.holder);
        let mut needed: Vec<usize> = holders.map(|index| index as usize).collect();
        let named_in = known.named_in.iter().map(|index| *index as usize);
        needed.extend(named_in.filter(|index| says_more(*index)));
        needed.sort_unstable();
        needed.dedup();
        needed
    }

    /// What each outcome segment holds of messages that can be found, by its index, ordered by message.
    pub fn held(self) -> BTreeMap<usize, Held> {
        let mut held: BTreeMap<usize, Held> = BTreeMap::new();
        let mut by_id: Vec<(MessageId, Known)> = self.0.into_iter().collect();
        by_id.sort_unstable_by_key(|(id, _)| *id);
        for (id, known) in by_id {
            if known.found_in.is_empty() {
                continue;
            }
            let mut by_holder: BTreeMap<Index, States> = BTreeMap::new();
            for it in known.states {
                if let Some(holder) = it.holder {
                    let states = by_holder.entry(holder).or_default();
                    states.push((it.recipient, it.state));
                }
            }
            for (holder, recipients) in by_holder {
                let outcome = Outcome {
                    message: id,
                    recipients,
                };
                let of_holder = held.entry(holder as usize).or_default();
                let metas = encode_outcome(&outcome);
                let bytes = metas.iter().map(|meta| RECORD_HEAD_BYTES + meta.len());
                of_holder.bytes += bytes.sum::<usize>() as u64;
                of_holder.outcomes.push(HeldOutcome {
                    outcome,
                    found_in: known.found_in.clone(),
                });
            }
        }
        held
    }
}

/// What an outcome segment holds.
#[derive(Default)]
pub(super) struct Held {
    /// In records of its own.
    pub bytes: u64,
    pub outcomes: Vec<HeldOutcome>,
}

impl KnownState {
    fn merge(&mut self, state: RecipientState, holder: Option<Index>) {
        if self.state.is_behind(&state) {
            self.state = state;
            self.holder = holder.or(self.holder);
        }
    }
}
