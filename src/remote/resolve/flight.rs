//! Equal questions at the same time are asked once.

use super::Answer;
use crate::remote::route::NextHop;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::OnceCell;

/// All questions under way.
pub(super) type Flights = RefCell<HashMap<NextHop, Rc<OnceCell<Answer>>>>;

/// One question under way, and those who wait for it. If the one who asks goes away, the next in
/// line asks again.
pub(super) struct Flight<'a> {
    in_flight: &'a Flights,
    next_hop: &'a NextHop,
    pub cell: Rc<OnceCell<Answer>>,
}

impl<'a> Flight<'a> {
    pub fn join(in_flight: &'a Flights, next_hop: &'a NextHop) -> Self {
        let cell = Rc::clone(
            in_flight
                .borrow_mut()
                .entry(next_hop.clone())
                .or_insert_with(|| Rc::new(OnceCell::new())),
        );
        Flight {
            in_flight,
            next_hop,
            cell,
        }
    }
}

impl Drop for Flight<'_> {
    /// Once answered, later questions are the cache's affair; unanswered, the last one to give up
    /// leaves nothing behind.
    fn drop(&mut self) {
        let mut in_flight = self.in_flight.borrow_mut();
        let current = in_flight.get(self.next_hop);
        let is_current = current.is_some_and(|cell| Rc::ptr_eq(cell, &self.cell));
        if is_current && (self.cell.initialized() || Rc::strong_count(&self.cell) == 2) {
            in_flight.remove(self.next_hop);
        }
    }
}
