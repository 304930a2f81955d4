//! Several questions at a time, as their answers come.

use crate::io::clock;
use crate::io::runtime::timeout;
use crate::time::Now;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// What is under way.
pub(super) type Asking<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The first that is done; `None` once it is `deadline`.
pub(super) async fn first_of<T>(asking: &mut Vec<Asking<'_, T>>, deadline: Now) -> Option<T> {
    let first = poll_fn(|context| {
        for index in 0..asking.len() {
            if let Poll::Ready(reply) = asking[index].as_mut().poll(context) {
                drop(asking.swap_remove(index));
                return Poll::Ready(reply);
            }
        }
        Poll::Pending
    });
    if deadline == Now::NEVER {
        return Some(first.await);
    }
    let wait = deadline.since(clock::now());
    timeout(wait, first).await.ok()
}
