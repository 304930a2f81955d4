//! What the relay expects of sockets, asked of the kernel over loopback, and with the feature `simulate` of the
//! simulated network: where the two differ a simulation proves nothing.

use ringpost::io::clock;
use ringpost::io::net::{
    self, Bound, Direction, Listener, SCRATCH_BYTES, Socket, interrupt_idle, sweep_crowd,
};
use ringpost::io::runtime::{sleep, spawn, spawn_joined, timeout};
use ringpost::time::Now;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Nothing here takes as long.
const LONG: Duration = Duration::from_secs(20);
/// What has come by then would not come later either.
const SHORT: Duration = Duration::from_millis(50);

/// More than any host takes without a reader.
#[cfg(not(feature = "simulate"))]
const TOO_MUCH: usize = 32 << 20;
#[cfg(feature = "simulate")]
const TOO_MUCH: usize = 3 << 20;

/// Asks the kernel.
#[cfg(not(feature = "simulate"))]
fn on_a_host(ask: impl AsyncFnOnce()) {
    ringpost::io::runtime::run(ask()).expect("a ring");
}

/// Asks some worlds, which are less kind than a loopback.
#[cfg(feature = "simulate")]
fn on_a_host(ask: impl AsyncFnOnce() + Copy + 'static) {
    use ringpost::io::simulated::{Links, Order, Owner, World};
    for seed in 0..40 {
        let world = World::begin(seed, false);
        world.set_order([Order::Any, Order::Fifo][seed as usize % 2]);
        world.set_links(Links {
            window: [4, 64, 1024][world.below(3)] * 1024,
            latency_max: Duration::from_micros([1, 100, 10_000][world.below(3)]),
            short_reads: [0, 4][world.below(2)],
            short_writes: [0, 4][world.below(2)],
            ..Links::default()
        });
        let has_ended = std::rc::Rc::new(std::cell::Cell::new(false));
        let ended = has_ended.clone();
        world.spawn(Owner::Outside, ringpost::io::runtime::tick());
        world.spawn(Owner::Outside, async move {
            ask().await;
            ended.set(true);
        });
        while !has_ended.get() {
            assert!(world.step(), "it waits for ever");
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn bound() -> Bound {
    Bound::new(local(0)).expect("a port is free")
}

fn listener() -> Listener {
    let bound = bound();
    bound.listen(16).expect("it listens");
    Listener::new(bound)
}

fn soon() -> Now {
    clock::now() + LONG
}

async fn connect(to: SocketAddr) -> io::Result<Socket> {
    Socket::connect(to, None, soon()).await
}

async fn accept(listener: &Listener) -> (Socket, SocketAddr) {
    loop {
        if let Some((descriptor, peer)) = listener.accept().expect("it accepts") {
            let socket = Socket::adopt(descriptor);
            socket.set_deadline(soon());
            return (socket, peer);
        }
        listener.ready().await.expect("it waits");
    }
}

/// Who connected, and who accepted.
async fn pair() -> (Socket, Socket) {
    let listener = listener();
    let ours = connect(listener.address()).await.expect("it connects");
    ours.set_deadline(soon());
    (ours, accept(&listener).await.0)
}

async fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    socket.receive_with(|bytes| bytes.to_vec()).await
}

/// To the end of the stream, and how that came.
async fn receive_all(socket: &Socket) -> (Vec<u8>, Option<ErrorKind>) {
    let mut all = Vec::new();
    loop {
        match receive(socket).await {
            Ok(bytes) if bytes.is_empty() => return (all, None),
            Ok(bytes) => all.extend(bytes),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

async fn receive_exactly(socket: &Socket, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let bytes = receive(socket).await.expect("it receives");
        assert!(!bytes.is_empty(), "the stream ends");
        all.extend(bytes);
    }
    all
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

// ---- octets ----

#[test]
fn what_is_sent_arrives_whole_and_in_order_both_ways() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        let echo = spawn_joined(async move {
            let all = receive_exactly(&theirs, 300_000).await;
            theirs.send_all(&all).await.unwrap();
            theirs
        });
        ours.send_all(&pattern(300_000)).await.unwrap();
        assert!(receive_exactly(&ours, 300_000).await == pattern(300_000));
        drop(echo.await);
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
    });
}

#[test]
fn two_parts_are_sent_one_behind_the_other() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        let sending = spawn_joined(async move {
            let (first, second) = (pattern(70_000), pattern(90_000));
            ours.send_both(&first, &second).await.unwrap();
            ours.send_both(b"last", b"").await.unwrap();
        });
        let all = receive_all(&theirs).await.0;
        sending.await;
        let wanted = [pattern(70_000), pattern(90_000), b"last".to_vec()].concat();
        assert!(all == wanted);
    });
}

#[test]
fn a_receive_takes_no_more_than_it_may() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        theirs.set_receive_bytes_max(10);
        ours.send_all(&pattern(95)).await.unwrap();
        ours.finish_sending();
        let mut all = Vec::new();
        loop {
            let bytes = receive(&theirs).await.unwrap();
            assert!(bytes.len() <= 10);
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        assert_eq!(all, pattern(95));
    });
}

#[test]
fn looking_for_octets_takes_none() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        assert!(!theirs.has_bytes() && !theirs.has_news());
        assert_eq!(
            kind(theirs.receive(&mut [0; 8])),
            Some(ErrorKind::WouldBlock)
        );
        ours.send_all(b"x").await.unwrap();
        theirs.readable().await.unwrap();
        assert!(theirs.has_bytes() && theirs.has_news());
        assert_eq!(receive(&theirs).await.unwrap(), b"x");
        assert!(!theirs.has_bytes());
        ours.finish_sending();
        theirs.readable().await.unwrap();
        assert!(!theirs.has_bytes() && theirs.has_news());
    });
}

#[test]
fn nothing_is_taken_without_room_and_all_once_there_is() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        let block = pattern(64 * 1024);
        let mut sent = 0;
        for _ in 0..2000 {
            sent += match ours.send_now(&block).unwrap() {
                0 => break,
                taken => taken,
            };
        }
        sleep(SHORT).await;
        while let taken @ 1.. = ours.send_now(&block).unwrap() {
            sent += taken;
        }
        assert!(sent > 0);
        let sending = spawn_joined(async move { ours.send_all(b"end").await.map(|()| ours) });
        let all = receive_exactly(&theirs, sent + 3).await;
        assert!(all.ends_with(b"end"));
        sending.await.unwrap();
    });
}

#[test]
fn what_was_sent_before_it_was_accepted_is_there() {
    on_a_host(async || {
        let listener = listener();
        let ours = connect(listener.address()).await.unwrap();
        ours.send_all(b"early").await.unwrap();
        ours.finish_sending();
        sleep(SHORT).await;
        let (theirs, _) = accept(&listener).await;
        assert_eq!(receive_all(&theirs).await, (b"early".to_vec(), None));
    });
}

// ---- the end ----

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.send_all(b"question").await.unwrap();
        ours.finish_sending();
        assert_eq!(receive_all(&theirs).await, (b"question".to_vec(), None));
        theirs.send_all(b"answer").await.unwrap();
        assert_eq!(receive_exactly(&ours, 6).await, b"answer");
        assert_eq!(kind(ours.send_all(b"x").await), Some(ErrorKind::BrokenPipe));
        drop(theirs);
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
    });
}

#[test]
fn a_close_ends_the_stream_and_what_is_sent_then_breaks_it() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        drop(theirs);
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
        // The first one is on its way before anybody can know.
        ours.send_all(b"x").await.unwrap();
        sleep(SHORT).await;
        assert_eq!(kind(ours.send_all(b"y").await), Some(ErrorKind::BrokenPipe));
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
    });
}

#[test]
fn a_close_with_octets_unread_is_a_reset() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.send_all(b"unread").await.unwrap();
        theirs.readable().await.unwrap();
        drop(theirs);
        let reset = Some(ErrorKind::ConnectionReset);
        assert_eq!(receive_all(&ours).await, (Vec::new(), reset));
        // It is said once.
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
        assert_eq!(kind(ours.send_all(b"y").await), Some(ErrorKind::BrokenPipe));
    });
}

#[test]
fn what_came_before_a_reset_can_be_read() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.send_all(b"unread").await.unwrap();
        theirs.readable().await.unwrap();
        theirs.send_all(b"last words").await.unwrap();
        drop(theirs);
        sleep(SHORT).await;
        let reset = Some(ErrorKind::ConnectionReset);
        assert_eq!(receive_all(&ours).await, (b"last words".to_vec(), reset));
    });
}

#[test]
fn a_reset_is_an_error_of_whoever_asks_first() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.send_all(b"unread").await.unwrap();
        theirs.readable().await.unwrap();
        drop(theirs);
        ours.readable().await.unwrap();
        let reset = Some(ErrorKind::ConnectionReset);
        assert_eq!(kind(ours.send_all(b"x").await), reset);
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));

        let (ours, theirs) = pair().await;
        ours.send_all(b"unread").await.unwrap();
        theirs.readable().await.unwrap();
        drop(theirs);
        ours.readable().await.unwrap();
        assert!(ours.has_news() && !ours.has_bytes());
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
    });
}

#[test]
fn one_that_nobody_took_over_is_closed() {
    on_a_host(async || {
        let listener = listener();
        let ours = connect(listener.address()).await.unwrap();
        ours.set_deadline(soon());
        listener.ready().await.unwrap();
        drop(listener.accept().unwrap().expect("it is there"));
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
    });
}

#[test]
fn a_wait_that_was_given_up_keeps_nothing_open() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        let waited = timeout(SHORT, theirs.readable()).await;
        assert!(waited.is_err());
        drop(theirs);
        assert_eq!(receive_all(&ours).await, (Vec::new(), None));
    });
}

// ---- deadlines ----

#[test]
fn a_wait_ends_at_its_deadline_and_last_words_can_be_said() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        let began = clock::now();
        theirs.set_deadline(began + SHORT);
        assert_eq!(kind(receive(&theirs).await), Some(ErrorKind::TimedOut));
        assert!(clock::now().since(began) >= SHORT);
        // It stays passed, also under a new one.
        theirs.set_deadline(soon());
        assert_eq!(kind(receive(&theirs).await), Some(ErrorKind::TimedOut));
        theirs.send_all(b"421").await.unwrap();
        drop(theirs);
        assert_eq!(receive_all(&ours).await, (b"421".to_vec(), None));
    });
}

#[test]
fn a_wait_for_room_ends_at_its_deadline() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.set_deadline(clock::now() + SHORT);
        let block = pattern(TOO_MUCH);
        assert_eq!(kind(ours.send_all(&block).await), Some(ErrorKind::TimedOut));
        drop(ours);
        let (all, _) = receive_all(&theirs).await;
        assert!(!all.is_empty() && block.starts_with(&all));
    });
}

#[test]
fn who_is_idle_can_be_interrupted_and_others_not() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        let (other, others) = pair().await;
        theirs.set_interruptible(true);
        let first = spawn_joined(async move { kind(receive(&theirs).await) });
        let second = spawn_joined(async move { receive(&others).await.map(|it| it.len()) });
        sleep(SHORT).await;
        interrupt_idle();
        assert_eq!(first.await, Some(ErrorKind::TimedOut));
        other.send_all(b"x").await.unwrap();
        assert_eq!(second.await.unwrap(), 1);
        drop(ours);
    });
}

#[test]
fn in_crowded_times_long_waits_of_one_direction_end() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.set_deadlines(soon(), clock::now());
        theirs.set_deadlines(soon(), clock::now());
        let outbound = spawn_joined(async move {
            let ended = kind(receive(&ours).await);
            (ended, ours.is_crowded_out())
        });
        sleep(SHORT).await;
        sweep_crowd(Direction::Outbound, clock::now());
        assert_eq!(outbound.await, (Some(ErrorKind::TimedOut), true));
        assert!(!theirs.is_crowded_out());
    });
}

#[test]
fn octets_that_came_before_the_deadline_are_not_lost() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        ours.send_all(b"in time").await.unwrap();
        theirs.readable().await.unwrap();
        theirs.set_deadline(clock::now());
        sleep(SHORT * 4).await;
        assert_eq!(kind(theirs.readable().await), Some(ErrorKind::TimedOut));
        let mut bytes = [0; 16];
        assert!(theirs.receive(&mut bytes).unwrap() > 0);
        assert_eq!(bytes[0], b'i');
    });
}

// ---- connecting ----

#[test]
fn where_nobody_listens_a_connection_is_refused() {
    on_a_host(async || {
        let bound = bound();
        let refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(kind(connect(bound.address()).await), refused);
        bound.listen(16).unwrap();
        let ours = connect(bound.address()).await.unwrap();
        let listener = Listener::new(bound);
        let (_theirs, _) = accept(&listener).await;
        let address = listener.address();
        drop(listener);
        assert_eq!(kind(connect(address).await), refused);
        drop(ours);
    });
}

#[test]
fn both_sides_know_who_the_other_is() {
    on_a_host(async || {
        let listener = listener();
        let source: IpAddr = [127, 0, 0, 9].into();
        let ours = Socket::connect(listener.address(), Some(source), soon()).await;
        let (theirs, peer) = accept(&listener).await;
        assert_eq!(peer.ip(), source);
        assert!(peer.port() != 0 && peer.port() != listener.address().port());
        let other = connect(listener.address()).await;
        let (others, other_peer) = accept(&listener).await;
        assert_eq!(other_peer.ip(), listener.address().ip());
        assert_ne!(other_peer, peer);
        drop((ours, theirs, other, others));
    });
}

#[test]
fn over_version_six_it_is_the_same() {
    on_a_host(async || {
        let Ok(bound) = Bound::new("[::1]:0".parse().unwrap()) else {
            // Not every host has it.
            return;
        };
        bound.listen(4).unwrap();
        let listener = Listener::new(bound);
        let ours = connect(listener.address()).await.unwrap();
        let (theirs, peer) = accept(&listener).await;
        assert!(peer.ip().is_loopback() && peer.is_ipv6());
        ours.send_all(b"six").await.unwrap();
        assert_eq!(receive_exactly(&theirs, 3).await, b"six");
    });
}

#[test]
fn a_full_queue_lets_nobody_in_until_somebody_was_taken() {
    on_a_host(async || {
        let bound = bound();
        bound.listen(1).unwrap();
        let listener = Listener::new(bound);
        let mut queued = Vec::new();
        let ended = loop {
            let deadline = clock::now() + SHORT * 4;
            match Socket::connect(listener.address(), None, deadline).await {
                Ok(socket) => queued.push(socket),
                Err(error) => break error.kind(),
            }
            assert!(queued.len() < 10, "the queue has no end");
        };
        assert_eq!(ended, ErrorKind::TimedOut);
        for _ in 0..queued.len() {
            accept(&listener).await;
        }
        connect(listener.address()).await.unwrap();
    });
}

#[test]
fn a_listener_that_goes_resets_those_whom_it_did_not_take() {
    on_a_host(async || {
        let listener = listener();
        let ours = connect(listener.address()).await.unwrap();
        ours.set_deadline(soon());
        listener.ready().await.unwrap();
        drop(listener);
        let reset = Some(ErrorKind::ConnectionReset);
        assert_eq!(receive_all(&ours).await, (Vec::new(), reset));
    });
}

#[test]
fn a_wait_for_connections_does_not_keep_the_port() {
    on_a_host(async || {
        let listener = listener();
        let address = listener.address();
        assert!(timeout(SHORT, listener.ready()).await.is_err());
        drop(listener);
        sleep(SHORT).await;
        Bound::check_free(address).unwrap();
    });
}

#[test]
fn a_port_is_shared_among_those_who_say_so() {
    on_a_host(async || {
        let first = bound();
        let second = Bound::new(first.address()).unwrap();
        first.listen(16).unwrap();
        second.listen(16).unwrap();
        let in_use = Some(ErrorKind::AddrInUse);
        assert_eq!(kind(Bound::check_free(first.address())), in_use);
        let (first, second) = (Listener::new(first), Listener::new(second));
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(connect(first.address()).await.unwrap());
        }
        sleep(SHORT).await;
        let mut taken = 0;
        for listener in [&first, &second] {
            while listener.accept().unwrap().is_some() {
                taken += 1;
            }
        }
        assert_eq!(taken, 20);
    });
}

#[test]
fn a_queue_is_shared_and_each_connection_taken_once() {
    on_a_host(async || {
        let bound = bound();
        let other = bound.share().unwrap();
        bound.listen(16).unwrap();
        other.listen(16).unwrap();
        let address = bound.address();
        // The first is the owner's, and lives longer.
        let (first, second) = (bound.share().unwrap(), other);
        let waits = |listener: Listener| {
            spawn_joined(async move {
                let socket = accept(&listener).await.0;
                let bytes = receive_exactly(&socket, 1).await;
                (bytes, listener.is_shared())
            })
        };
        let (first, second) = (waits(Listener::new(first)), waits(Listener::new(second)));
        let (a, b) = (
            connect(address).await.unwrap(),
            connect(address).await.unwrap(),
        );
        a.send_all(b"a").await.unwrap();
        b.send_all(b"b").await.unwrap();
        let (first, second) = (first.await, second.await);
        let mut taken = [first.0, second.0];
        taken.sort();
        assert_eq!(taken, [b"a".to_vec(), b"b".to_vec()]);
        assert!(first.1 && second.1);
        drop(bound);
    });
}

#[test]
fn all_receive_into_one_buffer_of_a_known_size() {
    on_a_host(async || {
        let (ours, theirs) = pair().await;
        spawn(async move {
            let _ = ours.send_all(&pattern(3 * SCRATCH_BYTES)).await;
        });
        let mut all = 0;
        while all < 3 * SCRATCH_BYTES {
            let received = receive(&theirs).await.unwrap().len();
            assert!(received <= SCRATCH_BYTES);
            all += received;
        }
        net::sweep_deadlines(clock::now());
    });
}
