//! From a disk that a power cut left to a running relay: stands in for `spool::recovery::recover` and the start of the
//! engine. The scan is the real one, and its findings are held against the ledger.

use crate::canary::Canary;
use crate::job::Message;
use crate::keeper::Pool;
use crate::network::Network;
use crate::place::{Extent, Place, SegmentFile};
use crate::power::{self, Of};
use crate::relay::Relay;
use crate::spool::{SEGMENT_BYTES, Spool};
use crate::world::World;
use ringpost::io::buffer::{AlignedBuf, BLOCK_BYTES};
use ringpost::schedule::outcome::RecipientState;
use ringpost::spool::format::{Generation, Nonce, SegmentHeader, SegmentId, Usage};
use ringpost::spool::recovery::{Condition, FoundBody, LogScan, ScannedSegment, scan_logs};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub fn free_header(last: Generation, run: u32) -> SegmentHeader {
    SegmentHeader {
        generation: Generation {
            segment: last.segment,
            number: last.number + 1,
        },
        usage: Usage::Free,
        core: last.segment.core,
        run,
        log_sequence: 0,
        segment_bytes: SEGMENT_BYTES,
        nonce: Nonce([0; 16]),
    }
}

pub fn begin_header(
    world: &World,
    spool: &Spool,
    usage: Usage,
    last: Generation,
    log_sequence: u64,
) -> SegmentHeader {
    let nonce = world.with_random(|random| random.bytes(16));
    SegmentHeader {
        generation: Generation {
            segment: last.segment,
            number: (last.number + 1).max(u64::from(spool.run) << 32),
        },
        usage,
        core: spool.core,
        run: spool.run,
        log_sequence,
        segment_bytes: SEGMENT_BYTES,
        nonce: Nonce(nonce.try_into().expect("16 bytes")),
    }
}

pub fn create(world: &World, core: u16, pool: &mut Pool) -> Generation {
    let segment = SegmentId {
        core,
        number: pool.next_number,
    };
    pool.next_number += 1;
    pool.files += 1;
    world.power.borrow_mut().disk.create(segment, SEGMENT_BYTES);
    Generation { segment, number: 0 }
}

pub async fn write_header(world: &World, header: &SegmentHeader) {
    let mut buffer = AlignedBuf::new(BLOCK_BYTES);
    header.encode(&mut buffer);
    let id = header.generation.segment;
    let (_, result) = power::write(world, Of::Header, id, 0, (buffer, BLOCK_BYTES)).await;
    result.expect("headers do not fail here");
}

fn look(world: &World) -> LogScan {
    match scan_logs(&mut world.power.borrow_mut().disk) {
        Ok(found) => found,
        Err(error) => panic!("the scan ends with {error:?}"),
    }
}

/// Starts the relay on what is there. The power may go again at any write.
pub fn start(world: &Rc<World>, network: &Rc<Network>, run: u32) -> Rc<Relay> {
    let found = loop {
        let found = look(world);
        check(world, &found);
        if let_go(world, &found, run) {
            break look(world);
        }
        world.seen.borrow_mut().recoveries_cut += 1;
    };
    let seen = &mut world.seen.borrow_mut();
    seen.recovered += found.messages.len() as u64;
    seen.torn += found.report.torn;
    seen.holes += found.report.holes;
    let cores = 1 + world.below(2);
    let spools = (0..cores).map(|core| open_spool(world, core as u16, run, &found));
    let relay = Relay::new(world, network, spools.collect());
    adopt(world, &relay, &found);
    tell!(
        world,
        "run {run} with {cores} cores, {} messages recovered",
        found.messages.len()
    );
    relay
}

fn check(world: &World, found: &LogScan) {
    let mut ledger = world.ledger.borrow_mut();
    let now = world.now();
    ledger.begin_check();
    for message in &found.messages {
        let power = world.power.borrow();
        let extents = message.extents().iter();
        let body: Vec<u8> = extents
            .flat_map(|it| power.disk.extent(it).to_vec())
            .collect();
        let complaint = ledger.found(now, message.id, &message.envelope, &message.states, &body);
        complaint.into_iter().for_each(|it| world.accuse(it));
    }
    for complaint in ledger.end_check(now) {
        world.accuse(complaint);
    }
    if !found.report.is_sound() {
        world.accuse(format!("a power cut looks like damage:\n{}", found.report));
    }
}

fn in_use(segment: &ScannedSegment) -> Option<(&ScannedSegment, &SegmentHeader)> {
    match &segment.condition {
        Condition::Generation(header) if header.usage != Usage::Free => Some((segment, header)),
        _ => None,
    }
}

/// Retires what nothing needs, messages first. False if the power went off meanwhile.
fn let_go(world: &World, found: &LogScan, run: u32) -> bool {
    let mut power = world.power.borrow_mut();
    let mut retired = BTreeSet::new();
    for segment in &found.segments {
        if segment.condition == Condition::Blank {
            power.disk.segments.remove(&segment.id);
        }
    }
    let mut generations: Vec<_> = found.segments.iter().filter_map(in_use).collect();
    generations.sort_by_key(|(_, header)| {
        (
            header.usage == Usage::Outcomes,
            header.run,
            header.log_sequence,
        )
    });
    for (segment, header) in generations {
        let needs = segment.refers_to.union(&segment.held_by);
        if segment.live > 0
            || needs
                .into_iter()
                .any(|generation| !retired.contains(generation))
        {
            continue;
        }
        let mut block = vec![0; BLOCK_BYTES];
        free_header(header.generation, run).encode(&mut block);
        if world.one_in(20) {
            world.with_random(|random| power.disk.write_torn(random, segment.id, 0, &block));
            return false;
        }
        power.disk.write(segment.id, 0, &block);
        retired.insert(header.generation);
    }
    true
}

fn open_spool(world: &Rc<World>, core: u16, run: u32, found: &LogScan) -> Rc<Spool> {
    let numbers = found.segments.iter().filter(|it| it.id.core == core);
    let next_number = numbers.map(|it| it.id.number + 1).max().unwrap_or(0);
    // Seldom so few that the disk is full now and then.
    let files_max = match world.is_healed.get() || !world.one_in(4) {
        true => 1000,
        false => 5,
    };
    let pool = Pool {
        next_number,
        files_max,
        ..Pool::default()
    };
    Spool::new(world, core, run, pool)
}

/// Every segment finds its use, and every message its way back into the queue.
fn adopt(world: &World, relay: &Rc<Relay>, found: &LogScan) {
    let home = |core: u16| usize::from(core) % relay.cores();
    let mut homes = BTreeMap::new();
    let mut files = BTreeMap::new();
    for segment in &found.segments {
        let Condition::Generation(header) = &segment.condition else {
            continue;
        };
        let generation = header.generation;
        let spool = relay.spool(home(header.core));
        spool.pool.borrow_mut().files += 1;
        if header.usage == Usage::Free {
            spool.pool.borrow_mut().free.push(generation);
            continue;
        }
        let file = Rc::new(SegmentFile { generation });
        homes.insert(generation, home(header.core));
        files.insert(generation, file.clone());
        spool.files.borrow_mut().insert(generation, file);
        if segment.is_damaged {
            spool.mark_bad(generation);
        }
    }
    for message in &found.messages {
        let spool = relay.spool(homes[&message.generation]);
        spool.adopt(message.id, &message.parts());
    }
    for (segment, header) in found.segments.iter().filter_map(in_use) {
        let spool = relay.spool(homes[&header.generation]);
        match header.usage {
            Usage::Outcomes => {
                let refers_to: Vec<Generation> = segment.refers_to.iter().copied().collect();
                let book = &mut spool.outcome_book.borrow_mut();
                book.refers(header.generation, &refers_to, true);
                book.sealed(header.generation);
            }
            _ => {
                let book = &mut spool.message_book.borrow_mut();
                for holder in &segment.held_by {
                    book.held(header.generation, *holder);
                }
                book.sealed(header.generation);
            }
        }
    }
    for message in &found.messages {
        let extents = message.extents().iter();
        let extents = extents.map(|raw| Extent::found(*raw, files[&raw.generation].clone()));
        let last = match &message.body {
            FoundBody::Inline(raw) => files[&raw.generation].clone(),
            FoundBody::Chunks(_) => files[&message.generation].clone(),
        };
        let place = Place::found(extents.collect(), last);
        let home = homes[&message.generation];
        let states = remembered(world, &message.states);
        let message = Message::new(
            (message.id, message.received_at),
            message.envelope.clone(),
            &states,
            place,
            home,
            relay.books(),
        );
        relay.spool(home).keep(&message);
        let open = (0..).zip(states).filter(|(_, state)| !state.is_finished());
        relay.resume(&message, open.collect());
    }
}

/// What is known of the recipients of recovered mail.
fn remembered(world: &World, states: &[RecipientState]) -> Vec<RecipientState> {
    match world.canary {
        Canary::ForgetsWhoIsFinished => vec![RecipientState::fresh(); states.len()],
        Canary::ForgetsReports => {
            let forgotten = |state: &RecipientState| match state {
                RecipientState::ReportOwed { .. } => RecipientState::Finished,
                state => state.clone(),
            };
            states.iter().map(forgotten).collect()
        }
        _ => states.to_vec(),
    }
}
