//! Moves mail when its segment is wanted: one task per core.
//!
//! A segment that is nearly empty is still a whole segment, and with it the outcomes that name its
//! messages. So before the spool grows, the few messages that are left in such a segment are written
//! again at the head of the log, body once, with the states of their recipients; then it is retired
//! like any other. What a crash leaves at each step stands in `liveness`.
//!
//! Moves go through the ordinary commits, a few at a time, so sessions share commits with them
//! and none of them waits long. They may use the room that mail is refused: see
//! [`MOVE_RESERVE_SEGMENTS`](super::pool::MOVE_RESERVE_SEGMENTS).

use crate::io::buffer::AlignedBuf;
use crate::io::runtime::{sleep, spawn_joined, yield_now};
use crate::message::MessageId;
use crate::spool::format::{FinalMeta, Generation, Kind, MessageMeta, RawExtent, Record};
use crate::spool::live::shared::Shared;
use crate::spool::live::tickets::{Copy, MessageTicket};
use crate::spool::live::writer::Writer;
use crate::spool::location::message_location::Movable;
use crate::spool::location::place::{Extent, Place};
use crate::spool::{CHUNK_BYTES_MAX, INLINE_BODY_BYTES_MAX, Note, SpoolError};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Messages that are on their way at once. Each has its body in memory, or a chunk of it.
const MOVES_AT_ONCE: usize = 16;

/// How long after a look that found nothing worthwhile to look again.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Why a message stays where it is.
enum Stays {
    /// It was finished meanwhile, or nobody has shown it to us yet.
    Gone,
    /// Its body cannot be read.
    Damaged(io::Error),
    /// There is no room for a copy, or no time.
    Refused(SpoolError),
}

impl From<SpoolError> for Stays {
    fn from(error: SpoolError) -> Self {
        Stays::Refused(error)
    }
}

/// The compactor's task: runs until the spool has closed.
pub(super) async fn run(shared: Rc<Shared>) {
    while !shared.is_closed() {
        shared.compactor.notified().await;
        if shared.rests() {
            continue;
        }
        match shared.candidate() {
            Some(generation) => empty(&shared, generation).await,
            None => sleep(LOOK_PAUSE).await,
        }
    }
}

/// One segment being emptied.
struct Emptying {
    generation: Generation,
    cursor: Cell<usize>,
    moved: Cell<u64>,
    /// There is no room: the rest must wait.
    ended: Cell<bool>,
}

async fn empty(shared: &Rc<Shared>, generation: Generation) {
    let emptying = Rc::new(Emptying {
        generation,
        cursor: Cell::new(0),
        moved: Cell::new(0),
        ended: Cell::new(false),
    });
    let work = || spawn_joined(move_some(shared.clone(), emptying.clone()));
    let workers: Vec<_> = (0..MOVES_AT_ONCE).map(|_| work()).collect();
    for worker in workers {
        worker.await;
    }
    if emptying.moved.get() == 0 && !emptying.ended.get() {
        shared.postpone_moving(generation);
    }
    shared.allocator.notify_one();
}

async fn move_some(shared: Rc<Shared>, emptying: Rc<Emptying>) {
    while !shared.rests() && !emptying.ended.get() {
        let mut cursor = emptying.cursor.get();
        let next = shared.next_to_move(emptying.generation, &mut cursor);
        emptying.cursor.set(cursor);
        let id = match next {
            Ok(Some(id)) => id,
            Ok(None) => return,
            Err(_) => {
                yield_now().await;
                continue;
            }
        };
        match move_one(&shared, id).await {
            Ok(()) => emptying.moved.set(emptying.moved.get() + 1),
            Err(Stays::Gone) => {}
            Err(Stays::Damaged(error)) => {
                shared.forbid_moving(emptying.generation);
                let (generation, error) = (emptying.generation, error.to_string());
                (shared.sink)(Note::Unmovable {
                    id,
                    generation,
                    error,
                });
            }
            Err(Stays::Refused(SpoolError::TooLarge)) => shared.forbid_moving(emptying.generation),
            Err(Stays::Refused(_)) => emptying.ended.set(true),
        }
    }
}

async fn move_one(shared: &Rc<Shared>, id: MessageId) -> Result<(), Stays> {
    let message = shared.kept(id).ok_or(Stays::Gone)?;
    let place = message.location().place();
    // Half a commit may be envelope and states.
    let most = shared.messages.machine.borrow().record_bytes_max() / 2;
    match place.body_bytes() <= INLINE_BODY_BYTES_MAX.min(most) as u64 {
        true => move_whole(shared, message, place).await,
        false => move_in_chunks(shared, message, place).await,
    }
}

async fn move_whole(
    shared: &Rc<Shared>,
    message: Arc<dyn Movable>,
    from: Arc<Place>,
) -> Result<(), Stays> {
    let mut body = Vec::with_capacity(from.body_bytes() as usize);
    let mut reader = from.reader();
    let mut buffer = AlignedBuf::new(CHUNK_BYTES_MAX);
    loop {
        let (piece, returned) = reader.next(buffer).await;
        buffer = returned;
        let piece = piece.map_err(Stays::Damaged)?;
        if piece.is_empty() {
            break;
        }
        body.extend_from_slice(&buffer[piece]);
    }
    drop((reader, buffer));
    let snapshot = message.location().snapshot();
    if snapshot.is_finished {
        return Err(Stays::Gone);
    }
    let mut meta = Vec::new();
    let (received_at, envelope) = (message.received_at(), message.envelope());
    MessageMeta::encode_copy(received_at, envelope, &snapshot.states, &mut meta);
    let record = Record {
        kind: Kind::Message,
        id: message.id(),
        meta: &meta,
        body: &body,
    };
    let copy = Copy {
        message: message.clone(),
        from,
        snapshot: snapshot.number,
        chunks: Vec::new(),
    };
    put(shared, &record, copy).await
}

/// The copy counts only from its final record: until then the chunks are garbage.
async fn move_in_chunks(
    shared: &Rc<Shared>,
    message: Arc<dyn Movable>,
    from: Arc<Place>,
) -> Result<(), Stays> {
    let mut writer = Writer::of_copy(shared.clone(), message.id());
    let mut reader = from.reader();
    let mut buffer = AlignedBuf::new(CHUNK_BYTES_MAX);
    loop {
        let (piece, returned) = reader.next(buffer).await;
        buffer = returned;
        let piece = piece.map_err(Stays::Damaged)?;
        if piece.is_empty() {
            break;
        }
        writer.chunk(&buffer[piece]).await?;
    }
    drop((reader, buffer));
    let chunks = writer.durable_chunks().await?;
    let snapshot = message.location().snapshot();
    if snapshot.is_finished {
        return Err(Stays::Gone);
    }
    let raw: Vec<RawExtent> = chunks.iter().map(Extent::raw).collect();
    let mut meta = Vec::new();
    FinalMeta::encode_copy(
        message.received_at(),
        &raw,
        message.envelope(),
        &snapshot.states,
        &mut meta,
    );
    let record = Record {
        kind: Kind::Final,
        id: message.id(),
        meta: &meta,
        body: &[],
    };
    let copy = Copy {
        message: message.clone(),
        from,
        snapshot: snapshot.number,
        chunks,
    };
    put(shared, &record, copy).await
}

async fn put(shared: &Rc<Shared>, record: &Record<'_>, copy: Copy) -> Result<(), Stays> {
    let (answer, written) = oneshot::channel();
    let ticket = MessageTicket::Copy { copy, answer };
    shared.put_move(record, ticket).await?;
    let written = written.await.unwrap_or(Err(SpoolError::Closing));
    written.map_err(Stays::Refused)
}
