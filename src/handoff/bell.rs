//! Who sleeps, and who must wake it: a flag between two fences.
//!
//! Promise: of an item that was put into a lane before [`Sleeper::must_be_woken`], and a core that looks into its lanes
//! in [`Sleeper::may_sleep`], one sees the other. No wake is lost, and one that nobody needs is not paid for.
//! Not here: lanes, and how a core is woken. `tests/interleavings.rs` tries all orders of both sides.

use super::sync::{AtomicBool, Ordering, fence};

/// Whether a core sleeps.
pub struct Sleeper(AtomicBool);

impl Sleeper {
    pub fn awake() -> Self {
        Sleeper(AtomicBool::new(false))
    }

    /// Asked by a sender once its item is in the lane. True: it must wake the core, and nobody else does.
    pub fn must_be_woken(&self) -> bool {
        // Pairs with the fence in `may_sleep`: either the sleeper sees our item when it looks
        // once more, or we see that it sleeps.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }

    /// Asked by the core. False: its lanes are not empty. True: it sleeps, and is woken.
    pub fn may_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let is_empty = is_empty();
        if !is_empty {
            self.0.store(false, Ordering::Relaxed);
        }
        is_empty
    }
}
