//! Values that each core of a world has for itself, as threads have theirs.

use super::world;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// One for each owner of tasks, made when it is first asked for.
pub struct PerCore<T: 'static> {
    make: fn() -> T,
}

impl<T> PerCore<T> {
    pub const fn new(make: fn() -> T) -> Self {
        PerCore { make }
    }

    fn value(&'static self) -> Rc<T> {
        let name = std::ptr::from_ref(self) as usize;
        world::current().local(name, self.make)
    }
}

impl<T> PerCore<RefCell<T>> {
    pub fn with_borrow<R>(&'static self, act: impl FnOnce(&T) -> R) -> R {
        act(&self.value().borrow())
    }

    pub fn with_borrow_mut<R>(&'static self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.value().borrow_mut())
    }
}

impl<T> PerCore<Cell<T>> {
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.value().get()
    }

    pub fn set(&'static self, value: T) {
        self.value().set(value);
    }

    pub fn replace(&'static self, value: T) -> T {
        self.value().replace(value)
    }

    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.value().take()
    }
}
