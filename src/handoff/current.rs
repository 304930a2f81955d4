//! A value that is replaced whole while cores work with it.
//!
//! One thread publishes it, and each core follows at a time of its own choice: it has its own pointer, and looks whether
//! that is still the latest. Promise: a core that has received anything from another core, and looks then, has what the
//! other one had when it sent it, or something later. `tests/interleavings.rs` tries that in all orders.

use arc_swap::{ArcSwap, Cache};
use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Where the value is replaced, for all cores. Its clones are the same place.
pub struct Published<T>(Arc<ArcSwap<T>>);

impl<T> Published<T> {
    pub fn new(value: T) -> Self {
        Published(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// From now on this is the latest one. Each core keeps the one before until it looks.
    pub fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }

    /// For one core, which begins with what is there now.
    pub fn follow(&self) -> Follower<T> {
        Follower {
            has: self.0.load_full(),
            place: Cache::new(self.0.clone()),
        }
    }
}

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Published(self.0.clone())
    }
}

/// What one core has of it.
pub struct Follower<T> {
    has: Arc<T>,
    place: Cache<Arc<ArcSwap<T>>, Arc<T>>,
}

impl<T> Follower<T> {
    /// What it has since the last look that found something.
    pub fn has(&self) -> &Arc<T> {
        &self.has
    }

    /// Looks. The latest one, if it had another. Otherwise that costs one load of what nobody writes to.
    pub fn news(&mut self) -> Option<&Arc<T>> {
        let latest = self.place.load();
        if Arc::ptr_eq(latest, &self.has) {
            return None;
        }
        self.has = latest.clone();
        Some(&self.has)
    }
}

/// What one core has in force of a kind: its tasks share the handle, and see the new value from their next look on.
///
/// A look is a count in the core's own memory; the value's own count, which all cores share, is not touched.
pub struct Current<T>(Rc<RefCell<Arc<T>>>);

impl<T> Current<T> {
    pub fn new(value: Arc<T>) -> Self {
        Current(Rc::new(RefCell::new(value)))
    }

    /// The value in force. Not to be held over a wait: [`Current::replace`] panics meanwhile.
    pub fn get(&self) -> Ref<'_, T> {
        Ref::map(self.0.borrow(), |value| &**value)
    }

    pub fn replace(&self, value: Arc<T>) {
        self.0.replace(value);
    }
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Current(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_hears_once_that_there_is_another_value() {
        let published = Published::new(1);
        let (mut first, mut second) = (published.follow(), published.follow());
        assert_eq!(first.news(), None);
        published.replace(2);
        published.replace(3);
        assert_eq!(first.news().map(|it| **it), Some(3));
        assert_eq!(first.news(), None);
        assert_eq!(**second.has(), 1);
        assert_eq!(second.news().map(|it| **it), Some(3));
    }

    #[test]
    fn a_value_of_before_is_let_go_when_all_have_looked() {
        let old = Arc::new(1);
        let published = Published::new(old.clone());
        let mut cores = [published.follow(), published.follow()];
        published.replace(Arc::new(2));
        assert_eq!(Arc::strong_count(&old), 2);
        assert!(cores.iter_mut().all(|core| core.news().is_some()));
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[test]
    fn all_who_share_it_see_the_new_value_and_the_old_one_is_let_go() {
        let old = Arc::new(1);
        let current = Current::new(old.clone());
        let elsewhere = current.clone();
        current.replace(Arc::new(2));
        assert_eq!(*elsewhere.get(), 2);
        assert_eq!(Arc::strong_count(&old), 1);
    }
}
