//! Decay, not a crash: what lay in the damaged place may be lost, nothing else, and it is reported.

use super::*;
use ringpost::spool::format::RecordView;
use ringpost::spool::recovery::{Damage, RecoveryReport, ScanError, What};
use std::ops::Range;

/// A commit on the disk, and the messages that its records speak of.
struct OnDisk {
    segment: SegmentId,
    bytes: Range<usize>,
    ids: Vec<MessageId>,
    /// A crash has cut off a body.
    is_unfinished: bool,
    /// Whole commits behind it in its generation.
    behind: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decay {
    FlippedBit,
    /// Sectors of zeros, or of anything.
    LostSectors,
    /// Blocks of a good commit, written in another place.
    Misdirected,
    /// Blocks that give an error when they are read.
    Unreadable,
    /// The first block of a segment.
    Header,
}

const DECAYS: [Decay; 5] = [
    Decay::FlippedBit,
    Decay::LostSectors,
    Decay::Misdirected,
    Decay::Unreadable,
    Decay::Header,
];

/// All commits that recovery believes, by segment.
fn commits(disk: &VirtualDisk) -> Vec<OnDisk> {
    let mut found = Vec::new();
    for (segment, content) in &disk.segments {
        let Ok(header) = SegmentHeader::decode(&content[..BLOCK_BYTES]) else {
            continue;
        };
        let first = found.len();
        let mut position = BLOCK_BYTES;
        while position < content.len() {
            let commit = CommitHeader::decode(&content[position..], &header, position as u64);
            let records = commit.as_ref().and_then(|commit| {
                let end = position + commit.header.bytes();
                commit.records(content.get(position..end)?)
            });
            let (Some(commit), Some(records)) = (commit, records) else {
                position += BLOCK_BYTES;
                continue;
            };
            let end = position + commit.header.bytes();
            found.push(OnDisk {
                segment: *segment,
                bytes: position..end,
                ids: records
                    .iter()
                    .map(|record: &RecordView<'_>| record.id)
                    .collect(),
                is_unfinished: records.iter().any(|record| !record.is_whole()),
                behind: 0,
            });
            position = end;
        }
        for (behind, commit) in found[first..].iter_mut().rev().enumerate() {
            commit.behind = behind as u64;
        }
    }
    found
}

/// Does damage to one place of the disk, which it returns.
fn decay(
    disk: &mut VirtualDisk,
    random: &mut Random,
    decay: Decay,
    commits: &[OnDisk],
) -> (SegmentId, Range<usize>) {
    let hit = &commits[random.below(commits.len())];
    let (segment, at) = (hit.segment, hit.bytes.start + random.below(hit.bytes.len()));
    let content = disk.segments.get_mut(&segment).expect("it is there");
    let block = at / BLOCK_BYTES * BLOCK_BYTES;
    match decay {
        Decay::FlippedBit => {
            content[at] ^= 1 << random.below(8);
            (segment, at..at + 1)
        }
        Decay::LostSectors => {
            let start = at / 512 * 512;
            let end = (start + 512 * (1 + random.below(12))).min(content.len());
            let filling = random.bytes(end - start);
            match random.one_in(2) {
                true => content[start..end].fill(0),
                false => content[start..end].copy_from_slice(&filling),
            }
            (segment, start..end)
        }
        Decay::Misdirected => {
            let other = &commits[random.below(commits.len())];
            let bytes = other.bytes.len().min(content.len() - block);
            let start = other.bytes.start;
            let good = disk.segments[&other.segment][start..start + bytes].to_vec();
            disk.write(segment, block as u64, &good);
            (segment, block..block + bytes)
        }
        Decay::Unreadable => {
            let end = (block + BLOCK_BYTES * (1 + random.below(2))).min(content.len());
            for bad in block / BLOCK_BYTES..end / BLOCK_BYTES {
                disk.unreadable.insert((segment, bad));
            }
            (segment, block..end)
        }
        Decay::Header => {
            let filling = random.bytes(BLOCK_BYTES);
            disk.write(segment, 0, &filling);
            (segment, 0..SEGMENT_BYTES as usize)
        }
    }
}

/// What a scan says of each message, its content included unless that is known to be damaged.
type Findings = BTreeMap<MessageId, (Envelope, Option<Vec<u8>>, Vec<RecipientState>)>;

fn findings(disk: &VirtualDisk, found: &LogScan) -> Findings {
    let finding = |message: &ringpost::spool::recovery::FoundMessage| {
        let extents = message.extents().iter();
        let body = extents.flat_map(|extent| disk.extent(extent).to_vec());
        let finding = (
            message.envelope.clone(),
            (!message.is_damaged).then(|| body.collect()),
            message.states.clone(),
        );
        (message.id, finding)
    };
    found.messages.iter().map(finding).collect()
}

/// A disk that a power cut has left, with some hundred commits on it.
fn used_disk(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed, Canary::None);
    simulation.start().expect("it starts");
    for _ in 0..400 + simulation.random.below(400) {
        simulation.step();
    }
    simulation.crash();
    simulation
}

/// Holds a scan of the damaged disk against one of the whole disk: the messages of which something
/// is lost.
fn compare(
    whole: &Findings,
    damaged: &Findings,
    hit: &BTreeSet<MessageId>,
) -> Result<BTreeSet<MessageId>, String> {
    let mut lost = BTreeSet::new();
    for (id, (envelope, body, states)) in whole {
        let Some((its_envelope, its_body, its_states)) = damaged.get(id) else {
            lost.insert(*id);
            match hit.contains(id) {
                true => continue,
                false => return Err(format!("{id} is lost, and lay elsewhere")),
            }
        };
        if its_body.is_none() && hit.contains(id) {
            lost.insert(*id);
        } else if body != its_body {
            return Err(format!("{id} is not what was written"));
        }
        if envelope != its_envelope {
            return Err(format!("{id} is not addressed as it was"));
        }
        if states != its_states {
            lost.insert(*id);
            if !hit.contains(id) {
                return Err(format!("{id} stands elsewhere, and lay elsewhere"));
            }
        }
    }
    for id in damaged.keys().filter(|id| !whole.contains_key(id)) {
        lost.insert(*id);
        if !hit.contains(id) {
            return Err(format!("{id} is back, and lay elsewhere"));
        }
    }
    Ok(lost)
}

#[derive(Default, Debug)]
struct Counted {
    lost: u32,
    named: u32,
    harmless: u32,
    torn: u32,
    unseen: u32,
}

fn one_decay(seed: u64, kind: Decay, counted: &mut Counted) -> Result<(), String> {
    let mut simulation = used_disk(seed);
    let whole = simulation.look()?;
    let on_disk = commits(&simulation.disk);
    let expected = findings(&simulation.disk, &whole);
    let (segment, place) = decay(&mut simulation.disk, &mut simulation.random, kind, &on_disk);
    let touched = |commit: &&OnDisk| {
        commit.segment == segment
            && commit.bytes.start < place.end
            && place.start < commit.bytes.end
    };
    let hit: Vec<&OnDisk> = on_disk.iter().filter(touched).collect();
    let ids = hit
        .iter()
        .flat_map(|commit| commit.ids.iter().copied())
        .collect();
    let found = simulation.look()?;
    let there = findings(&simulation.disk, &found);
    let lost = compare(&expected, &there, &ids)?;
    let (before, after) = (&whole.report, &found.report);
    let is_named = after.damages.iter().any(|damage| {
        let is_there = place.contains(&(damage.position as usize))
            || hit
                .iter()
                .any(|commit| commit.bytes.contains(&(damage.position as usize)));
        damage.segment == segment && (is_there || matches!(damage.what, What::Gap(_) | What::Chain))
            || matches!(damage.what, What::Parts(id) if ids.contains(&id))
    });
    // The last commits of a generation look as a crash leaves them: they are counted, not named.
    let mut suffered = hit
        .iter()
        .filter(|commit| commit.ids.iter().any(|id| lost.contains(id)));
    let may_be_torn = suffered.all(|commit| commit.behind < IN_FLIGHT_MAX as u64);
    // One that a crash has cut off within a body had been counted before it was hit.
    let of_hit = hit.iter().filter(|commit| commit.is_unfinished).count() as u64;
    let is_counted = after.torn + after.holes > before.torn + before.holes - of_hit;
    // The last commits of a generation are known by their headers alone; without those nobody knows that
    // there were any.
    let has_no_header = |commit: &&&OnDisk| place.contains(&commit.bytes.start);
    let headless = || hit.iter().filter(has_no_header);
    let tail_is_headless = headless().any(|commit| commit.behind == 0);
    let unknown = headless().filter(|_| tail_is_headless);
    let unknown = unknown.flat_map(|commit| &commit.ids);
    let is_unseen = lost.is_subset(&unknown.copied().collect());
    let has_lost = !lost.is_empty();
    let is_told = is_named || may_be_torn && is_counted;
    if has_lost && !is_told && !is_unseen {
        let hit: Vec<_> = hit
            .iter()
            .map(|it| (&it.bytes, it.behind, &it.ids))
            .collect();
        return Err(format!(
            "{lost:?} is lost at {segment} {place:?} of {hit:?}, and not a word:\n{before}\n{after}"
        ));
    }
    counted.lost += u32::from(has_lost);
    counted.named += u32::from(is_named);
    counted.harmless += u32::from(!has_lost);
    counted.torn += u32::from(has_lost && !is_named && is_counted);
    counted.unseen += u32::from(has_lost && !is_named && !is_counted);
    recover_interrupted(&mut simulation, &there)
}

/// The power goes, again and again, while the damaged disk is being recovered: that loses nothing more.
fn recover_interrupted(simulation: &mut Simulation, expected: &Findings) -> Result<(), String> {
    for _ in 0..100 {
        let found = simulation.look()?;
        if findings(&simulation.disk, &found) != *expected {
            return Err("interrupted recovery finds something else".to_owned());
        }
        let damaged = found.segments.iter().filter(|segment| segment.is_damaged);
        let damaged: Vec<SegmentId> = damaged.map(|segment| segment.id).collect();
        if simulation.let_go_beside(&found, &damaged) {
            return Ok(());
        }
    }
    Err("the power goes too often".to_owned())
}

#[test]
fn decay_costs_only_what_lay_there_and_is_reported() {
    for kind in DECAYS {
        let mut counted = Counted::default();
        for seed in 0..60 {
            if let Err(story) = one_decay(seed, kind, &mut counted) {
                panic!("{kind:?}, seed {seed}: {story}");
            }
        }
        println!("{kind:?}: {counted:?}");
        assert!(
            counted.lost > 5 && counted.named > 5,
            "{kind:?}: {counted:?}"
        );
    }
}

/// Messages with a body, the record of which lies whole in one commit: where the body is, and how many
/// commits are behind it in its generation.
fn bodies(disk: &VirtualDisk, found: &LogScan) -> Vec<(MessageId, SegmentId, usize, u64)> {
    let on_disk = commits(disk);
    let place = |message: &ringpost::spool::recovery::FoundMessage| {
        let [extent] = message.extents() else {
            return None;
        };
        let (segment, at) = (extent.generation.segment, extent.offset as usize);
        let holds = |commit: &&OnDisk| commit.segment == segment && commit.bytes.contains(&at);
        let commit = on_disk.iter().find(holds)?;
        (extent.bytes > 0).then_some((message.id, segment, at, commit.behind))
    };
    found.messages.iter().filter_map(place).collect()
}

/// Whose content is damaged is found with its envelope and its states, so that its sender can be told; except in
/// the last commits of a generation, if no outcome says that the message was ever whole.
#[test]
fn a_message_whose_content_is_damaged_is_found_as_such() {
    let mut judged = [0; 2];
    for seed in 0..40 {
        let mut simulation = used_disk(seed);
        let whole = simulation.look().expect("it reads");
        for (id, segment, at, behind) in bodies(&simulation.disk, &whole) {
            let content = simulation.disk.segments.get_mut(&segment).expect("there");
            content[at] ^= 1;
            let found = simulation.look().expect("it reads");
            let content = simulation.disk.segments.get_mut(&segment).expect("there");
            content[at] ^= 1;
            let of = |scan: &LogScan| scan.messages.iter().find(|it| it.id == id).cloned();
            let was = of(&whole).expect("it was found");
            match of(&found) {
                Some(is) => {
                    assert_eq!((&is.envelope, &is.states), (&was.envelope, &was.states));
                    // An older copy may be whole.
                    let lies_there = is.extents() == was.extents();
                    assert_eq!(is.is_damaged, lies_there, "seed {seed}, {id}");
                    judged[0] += usize::from(is.is_damaged);
                }
                None => {
                    let is_fresh = |state: &RecipientState| *state == RecipientState::fresh();
                    assert!(was.states.iter().all(is_fresh), "seed {seed}, {id}");
                    assert!(behind < IN_FLIGHT_MAX as u64, "seed {seed}, {id}");
                    judged[1] += 1;
                }
            }
        }
    }
    println!("{judged:?} found and taken for torn");
    assert!(judged[0] > 50, "{judged:?}");
}

/// A crash cuts off a commit, and with it any number of messages.
#[test]
fn a_commit_is_unfinished_once_however_many_of_its_bodies_are_torn() {
    let mut judged = 0;
    for seed in 0..40 {
        let mut simulation = used_disk(seed);
        let whole = simulation.look().expect("it reads");
        let bodies = bodies(&simulation.disk, &whole);
        let on_disk = commits(&simulation.disk);
        let is_last = |commit: &&OnDisk| commit.behind == 0 && !commit.is_unfinished;
        for last in on_disk.iter().filter(is_last) {
            let torn = bodies
                .iter()
                .filter(|(_, segment, at, _)| *segment == last.segment && last.bytes.contains(at));
            let torn: Vec<usize> = torn.map(|(_, _, at, _)| *at).collect();
            let flip = |simulation: &mut Simulation| {
                let content = simulation.disk.segments.get_mut(&last.segment);
                let content = content.expect("there");
                torn.iter().for_each(|at| content[*at] ^= 1);
            };
            flip(&mut simulation);
            let found = simulation.look().expect("it reads").report;
            flip(&mut simulation);
            // Those that outcomes name are damaged.
            if torn.len() > 1 && found.is_sound() {
                assert_eq!(found.torn, whole.report.torn + 1, "seed {seed}: {found}");
                judged += 1;
            }
        }
    }
    assert!(judged > 5, "{judged}");
}

/// Zeros in place of so many commits before the last one of a generation, as if they had never been written.
fn without_commits(missing: usize) -> RecoveryReport {
    let mut simulation = used_disk(1);
    let on_disk = commits(&simulation.disk);
    let segment = on_disk
        .iter()
        .find(|it| it.behind == 5)
        .expect("a generation")
        .segment;
    let of_generation: Vec<&OnDisk> = on_disk.iter().filter(|it| it.segment == segment).collect();
    let before = simulation.look().expect("it reads").report;
    assert!(before.is_sound(), "{before}");
    let last = of_generation.len() - 1;
    for commit in &of_generation[last - missing..last] {
        let content = simulation.disk.segments.get_mut(&segment).expect("there");
        content[commit.bytes.clone()].fill(0);
    }
    let mut after = simulation.look().expect("it reads").report;
    after.holes -= before.holes;
    after
}

/// With two writes in flight a crash leaves one hole, of one commit. More is damage, and is said.
#[test]
fn a_hole_of_one_commit_is_a_crash_and_one_of_two_is_damage() {
    let one = without_commits(1);
    assert!(one.is_sound() && one.holes == 1, "{one}");
    let two = without_commits(2);
    let is_gap = |damage: &Damage| damage.what == What::Gap(2);
    assert!(two.damages.iter().any(is_gap), "{two}");
    assert_eq!(two.holes, 0, "{two}");
}

/// A segment that cannot be read must not look empty.
#[test]
fn an_unreadable_first_block_stops_the_start() {
    let mut simulation = used_disk(1);
    let segment = *simulation.disk.segments.keys().next().expect("one");
    simulation.disk.unreadable.insert((segment, 0));
    let result = scan_logs(&mut simulation.disk);
    assert!(matches!(result, Err(ScanError::Io(Some(found), _)) if found == segment));
}

/// Segment headers were read together with the block behind them, so one bad block there kept the relay
/// from starting at all.
#[test]
fn an_unreadable_first_commit_costs_that_commit_and_not_the_start() {
    let mut simulation = used_disk(1);
    let on_disk = commits(&simulation.disk);
    let first = on_disk
        .iter()
        .find(|commit| commit.bytes.start == BLOCK_BYTES);
    let first = first.expect("a segment in use");
    simulation.disk.unreadable.insert((first.segment, 1));
    let found = scan_logs(&mut simulation.disk).expect("it starts");
    let named = found.report.damages.iter().any(|damage| {
        damage.segment == first.segment && matches!(damage.what, What::Unreadable(_))
    });
    assert!(named, "{}", found.report);
}

/// The check above finds a scan that loses what was not damaged, or says nothing of a loss.
#[test]
fn planted_losses_are_noticed() {
    let mut simulation = used_disk(3);
    let found = simulation.look().expect("it reads");
    let whole = findings(&simulation.disk, &found);
    let id = *whole.keys().next().expect("some mail waits");
    let mut less = whole.clone();
    less.remove(&id);
    assert!(compare(&whole, &less, &BTreeSet::new()).is_err());
    assert!(compare(&less, &whole, &BTreeSet::new()).is_err());
    let hit = BTreeSet::from([id]);
    assert_eq!(compare(&whole, &less, &hit), Ok(hit.clone()));
    let mut back = whole.clone();
    let (_, _, states) = back.get_mut(&id).expect("it is there");
    let further = match states[0] {
        RecipientState::Finished => RecipientState::fresh(),
        _ => RecipientState::Finished,
    };
    states[0] = further;
    assert!(compare(&whole, &back, &BTreeSet::new()).is_err());
}
