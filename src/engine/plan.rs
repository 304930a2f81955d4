//! What a start needs from the host before it binds, makes or changes anything, and how much of the
//! start there is to be.

use super::placement::{CoreSpec, Topology, place};
use super::{ErrorContext, StartError, ports};
use crate::config::Config;
use crate::io::cpu::{self, TIED_BELOW};
use crate::io::limits;
use crate::text::units::Bytes;
use crate::tls::TrustAnchors;

/// How far a start goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// The relay is to run.
    Start,
    /// `--check`: the same steps with the same errors, but no port is bound, the spool's lock is not
    /// taken, and no file is made or changed.
    Check,
}

/// Files of a core besides connections: its ring, its bells, its logs and their segments.
const DESCRIPTORS_PER_CORE: u64 = 16;
/// Files of the process besides that.
const DESCRIPTORS_OF_PROCESS: u64 = 24;

/// Everything about the host that is known before the start leaves its first trace.
pub struct Plan {
    /// Files that may be open at a time.
    pub descriptors: u64,
    pub specs: Vec<CoreSpec>,
    pub anchors: TrustAnchors,
    /// What was wrong with some of them.
    pub anchor_complaints: Vec<String>,
    pub hints: Vec<String>,
}

impl Plan {
    /// As whoever started us. With `shares_cpus` the scheduling of this process is left alone.
    ///
    /// # Errors
    /// What keeps the relay from starting.
    pub fn make(config: &Config, shares_cpus: bool) -> Result<Plan, StartError> {
        let descriptors =
            limits::raise_descriptors().context("raising the limit on descriptors")?;
        limits::raise_locked_memory();
        let topology = Topology::of_this_host().context("finding the CPUs")?;
        let specs = place(&config.cores, &topology).context("placing threads")?;
        check_descriptors(config, &specs, descriptors)?;
        check_spool_size(config, &specs)?;
        // Whose threads are not tied shares its CPUs with others, which it may push off.
        let are_tied = specs.iter().all(|core| core.cpu.is_some());
        let is_patient = !shares_cpus && are_tied;
        let impatience = is_patient
            .then(cpu::use_batch_scheduling)
            .and_then(Result::err);
        ports::check_sources(config)?;
        let (anchors, anchor_complaints) = TrustAnchors::load(
            config.tls.roots.as_deref(),
            config.tls.only_roots,
            crate::io::clock::wall_time(),
        )
        .context("trusted certificates")?;
        let untied = (config.cores.pin && !are_tied).then(|| {
            format!(
                "threads are not tied to CPUs, because some of these have numbers from {TIED_BELOW} on: mail costs a \
                 little more CPU; name lower ones in --ingress-cores and --delivery-cores, or set --no-pin"
            )
        });
        let impatience = impatience.map(|error| {
            format!(
                "the scheduling policy SCHED_BATCH was refused ({error}): mail costs a little \
                 more CPU; whatever the relay runs in should allow the system call \
                 sched_setscheduler"
            )
        });
        Ok(Plan {
            descriptors,
            specs,
            anchors,
            anchor_complaints,
            hints: untied.into_iter().chain(impatience).collect(),
        })
    }
}

/// Too few descriptors for clients are a hint; too few for the relay itself are the end.
fn check_descriptors(config: &Config, specs: &[CoreSpec], allowed: u64) -> Result<(), StartError> {
    let listeners = config.listen.ports.len();
    let per_core = DESCRIPTORS_PER_CORE + listeners as u64;
    let needed = DESCRIPTORS_OF_PROCESS + specs.len() as u64 * per_core;
    match allowed < needed {
        true => Err(StartError(format!(
            "this process may open {allowed} files, and {} threads with {listeners} listeners need \
             {needed} before the first connection: allow it more (LimitNOFILE=, ulimit -Hn)",
            specs.len()
        ))),
        false => Ok(()),
    }
}

fn check_spool_size(config: &Config, specs: &[CoreSpec]) -> Result<(), StartError> {
    let settings = &config.spool.settings;
    let least = settings.spool_bytes_min(number_of(specs));
    match settings.spool_bytes_max {
        Some(most) if most < least => Err(StartError(format!(
            "--spool-size {}: at least {} for {} threads with this --segment-size and \
             --max-message-size, or 0",
            Bytes(most),
            Bytes(least),
            specs.len()
        ))),
        _ => Ok(()),
    }
}

/// The flags allow fewer threads than fit into 16 bits.
pub fn number_of(specs: &[CoreSpec]) -> u16 {
    u16::try_from(specs.len()).unwrap_or(u16::MAX)
}
