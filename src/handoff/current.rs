//! A value that is replaced whole while a core works with it.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

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
    fn all_who_share_it_see_the_new_value_and_the_old_one_is_let_go() {
        let old = Arc::new(1);
        let current = Current::new(old.clone());
        let elsewhere = current.clone();
        current.replace(Arc::new(2));
        assert_eq!(*elsewhere.get(), 2);
        assert_eq!(Arc::strong_count(&old), 1);
    }
}
