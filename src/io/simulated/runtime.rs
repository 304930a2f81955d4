//! Tasks of a world, in place of one ring per thread.

use super::executor::EventKey;
use super::world;
use crate::io::net;
use crate::time::Now;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// As on the ring.
pub const RING_ENTRIES: u32 = 1024;

/// As on the ring.
pub const TICK: Duration = Duration::from_millis(100);

/// A world has no rings of its own: cores are tasks of it.
pub fn run<F: Future>(_: F) -> io::Result<F::Output> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Ends waits of the sockets of whoever runs this once their deadline has passed, as a thread's tick does.
pub async fn tick() {
    loop {
        sleep(TICK).await;
        net::sweep_deadlines(super::clock::now());
    }
}

/// Starts a task of the core whose turn it is.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    let world = world::current();
    world.spawn(world.owner(), future);
}

/// Starts a task of this core whose result somebody waits for.
pub fn spawn_joined<R: 'static>(
    future: impl Future<Output = R> + 'static,
) -> impl Future<Output = R> {
    let (answer, result) = oneshot::channel();
    spawn(async move {
        let _ = answer.send(future.await);
    });
    joined(result)
}

/// Runs `work` at one instant, some time later. The power may go within it.
pub fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> impl Future<Output = R> {
    let (answer, result) = oneshot::channel();
    world::current().do_blocking(move || {
        let _ = answer.send(work());
    });
    joined(result)
}

async fn joined<R>(result: oneshot::Receiver<R>) -> R {
    match result.await {
        Ok(result) => result,
        // Whoever worked is gone with the power, and so are we.
        Err(_) => std::future::pending().await,
    }
}

/// The control thread is not part of a world yet.
pub struct Control(std::convert::Infallible);

/// As [`run`].
pub fn control() -> io::Result<Control> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Control {
    /// Nobody has one.
    pub fn run<F: Future>(&self, _: F) -> F::Output {
        match self.0 {}
    }
}

/// Until some time has passed.
pub fn sleep(wait: Duration) -> Sleep {
    Sleep {
        until: world::current().now() + wait,
        event: None,
    }
}

/// Resolves at `time`.
pub async fn sleep_until(time: Now) {
    sleep(time.since(world::current().now())).await;
}

/// See [`sleep`].
pub struct Sleep {
    until: Now,
    event: Option<EventKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = world::current();
        if world.now() >= self.until {
            return Poll::Ready(());
        }
        if let Some(event) = self.event.take() {
            world.cancel(event);
        }
        self.event = Some(world.wake_at(self.until, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            world::if_any(|world| world.cancel(event));
        }
    }
}

/// The time was up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

/// The result of a future, or an error if it takes longer.
pub async fn timeout<F: Future>(wait: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        result = future => Ok(result),
        () = sleep(wait) => Err(Elapsed),
    }
}

/// Lets every other task that can run do so.
pub async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|context| match std::mem::replace(&mut has_yielded, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}
