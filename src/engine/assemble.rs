//! Puts together what each core is given, whether it becomes a thread or a task of a simulated world.

use super::core::{RecoveredJobs, Seed};
use super::lane::ToCore;
use super::placement::CoreSpec;
use super::plan::Plan;
use super::ports::Listeners;
use super::routed;
use super::rules::Rules;
use super::shared::Shared;
use crate::config::Config;
use crate::handoff::job::{Charged, Job, Message};
use crate::handoff::memory::Memory;
use crate::handoff::settled::Signs;
use crate::handoff::{Handoff, lanes};
use crate::io::{Bug, clock, planted, random};
use crate::listener::{AddressCounts, Load};
use crate::log::Log;
use crate::message::Envelope;
use crate::metrics::{CoreMetrics, Counter};
use crate::policy::port::Listening;
use crate::policy::rates::Rates;
use crate::policy::shares::{Shares, Ways};
use crate::privilege::Identity;
use crate::schedule::outcome::RecipientState;
use crate::schedule::settle::Course;
use crate::spool::{CorePart, RecoveredMessage};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// All that cores share.
pub fn share(config: Config, plan: Plan, identity: Identity, listening: Vec<Listening>) -> Shared {
    let specs = plan.specs;
    let of_role = |role: fn(&CoreSpec) -> bool| -> Vec<usize> {
        (0..specs.len())
            .filter(|core| role(&specs[*core]))
            .collect()
    };
    let (ingress_cores, delivery_cores) = (of_role(|s| s.ingress), of_role(|s| s.delivery));
    Shared {
        identity,
        anchors: Arc::new(plan.anchors),
        anchor_complaints: plan.anchor_complaints,
        listening,
        loads: ingress_cores.iter().map(|_| Load::default()).collect(),
        addresses: Arc::new(AddressCounts::default()),
        rates: Arc::new(Rates::new(&config.rates)),
        tls_memory: Arc::default(),
        shares: Shares::new(specs.len()),
        memory: Memory::new(specs.len(), config.spool.memory_bytes_max),
        metrics: specs
            .iter()
            .map(|_| Arc::new(CoreMetrics::default()))
            .collect(),
        heartbeats: specs.iter().map(|_| Counter::default()).collect(),
        homes: specs.iter().map(|_| Signs::default()).collect(),
        random_seed: random::u64(),
        is_stopping: AtomicBool::new(false),
        ingress_cores,
        delivery_cores,
        specs,
        config,
    }
}

fn all_lanes(shared: &Shared) -> (Vec<Handoff<ToCore>>, Handoff<ToCore>) {
    let mut handoffs = lanes(shared.specs.len() + 1);
    let control = handoffs.pop().expect("one more than there are cores");
    (handoffs, control)
}

/// What each core is given, in their order, and the control thread's own ends of the lanes. `log` makes a log for a core.
pub fn seeds(
    (shared, rules): (&Arc<Shared>, &Rules),
    (parts, messages): (Vec<CorePart>, Vec<RecoveredMessage>),
    listeners: Vec<Listeners>,
    log: impl Fn() -> Log,
) -> (Vec<Seed>, Handoff<ToCore>) {
    let (handoffs, control) = all_lanes(shared);
    let recovered = distribute(shared, rules, messages);
    let mut listeners = listeners.into_iter();
    let cores = parts.into_iter().zip(handoffs).zip(recovered).enumerate();
    let seed = |(number, ((spool, handoff), recovered)): (usize, ((CorePart, _), Recovered))| {
        let spec: CoreSpec = shared.specs[number];
        Seed {
            number,
            spec,
            shared: shared.clone(),
            rules: rules.clone(),
            handoff,
            spool,
            listeners: match spec.ingress {
                true => listeners.next().unwrap_or_default(),
                false => Vec::new(),
            },
            recovered: recovered.jobs,
            kept: recovered.kept,
            log: log(),
        }
    };
    (cores.map(seed).collect(), control)
}

/// What of the recovered mail a core gets.
#[derive(Default)]
struct Recovered {
    /// To deliver.
    jobs: RecoveredJobs,
    /// To keep in its spool.
    kept: Vec<Arc<Message>>,
}

/// Recovered mail by the core that delivers it, and by the one that is home to it.
fn distribute(shared: &Shared, rules: &Rules, messages: Vec<RecoveredMessage>) -> Vec<Recovered> {
    let mut cores: Vec<Recovered> = shared.cores().map(|_| Recovered::default()).collect();
    let clocks = (clock::wall_time(), clock::now());
    let routes = &rules.lists.routes;
    for (turn, recovered) in messages.into_iter().enumerate() {
        let recovered = with_bugs(recovered);
        let charge = |envelope: &Envelope, home, weight| {
            let (shares, hostname) = (&shared.shares, &shared.config.hostname);
            let ways = Ways::of(envelope.recipients.len(), |index| {
                let path = &envelope.recipients[index].forward_path;
                routed::way(shares, hostname, routes, path).party
            });
            let mut share = shared.shares.charge(home, None, ways, weight);
            share.accepted();
            Charged {
                memory: shared.memory.charge(home, weight.memory),
                share,
            }
        };
        let (message, states) = Message::recovered(recovered, charge, clocks);
        for (core, job) in recovered_jobs(shared, rules, &message, states, turn) {
            cores[core].jobs.0.push(job);
        }
        cores[message.home].kept.push(message);
    }
    cores
}

/// See [`Bug::StatesForgotten`] and [`Bug::ReportsForgotten`].
fn with_bugs(mut recovered: RecoveredMessage) -> RecoveredMessage {
    for state in &mut recovered.states {
        let is_owed = matches!(state, RecipientState::ReportOwed { .. });
        if planted(Bug::StatesForgotten) {
            *state = RecipientState::fresh();
        } else if planted(Bug::ReportsForgotten) && is_owed {
            *state = RecipientState::Finished;
        }
    }
    recovered
}

fn recovered_jobs(
    shared: &Shared,
    rules: &Rules,
    message: &Arc<Message>,
    states: Vec<RecipientState>,
    turn: usize,
) -> Vec<(usize, Job)> {
    let anywhere = shared.delivery_cores[turn % shared.delivery_cores.len()];
    let recipients = (0..).zip(states).filter(|(_, s)| !s.is_finished());
    shared
        .split_by_core(&rules.lists.routes, message, recipients, anywhere)
        .into_iter()
        .map(|(core, recipients)| {
            let job = Job {
                course: Course::default(),
                message: message.clone(),
                body: None,
                recipients,
            };
            (core, job)
        })
        .collect()
}
