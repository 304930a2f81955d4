//! Which thread runs on which CPU, in which role.
//!
//! Up to [`COMBINED_CPUS_MAX`] CPUs, every CPU gets one thread with both roles: no wake-up between
//! cores (13-30 us of CPU each when the other side sleeps), and no CPU idles because the mix of
//! work does not match a split. Above it, roles get CPUs of their own, so that a burst of incoming
//! handshakes does not delay deliveries and both keep their code and data in cache: per NUMA node
//! half of the physical cores each, because a lane that crosses nodes costs more than a busy one
//! inside. SMT siblings share a role and thereby caches. Delivery gets the odd core: the client's
//! side of a handshake is the dearer one.
//!
//! Not here: starting threads.

use crate::config::CoreConfig;
use crate::io::cpu::{self, TIED_BELOW, kernel_list};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;

/// Up to this many CPUs every thread does both. Unmeasured beyond 2: where ingress and delivery
/// are split by flags on 4 CPUs, compare before moving this.
pub const COMBINED_CPUS_MAX: usize = 4;

/// One thread to start. At least one role is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreSpec {
    /// Tied to this CPU; `None`: not tied.
    pub cpu: Option<usize>,
    pub ingress: bool,
    pub delivery: bool,
}

impl CoreSpec {
    fn both(cpu: usize) -> Self {
        CoreSpec {
            cpu: Some(cpu),
            ingress: true,
            delivery: true,
        }
    }
}

/// A CPU as the system describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    pub number: usize,
    /// The lowest number among its SMT siblings: the same for CPUs of one physical core.
    pub physical: usize,
    pub node: usize,
}

/// What there is to place threads on.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The CPUs that this process may use, ascending, at least one.
    pub cpus: Vec<Cpu>,
    /// CPUs' worth of time that this process gets: less than `cpus` under a cgroup quota.
    pub parallelism: usize,
}

impl Topology {
    /// Asks the system. What `/sys` does not say is taken as one node without SMT.
    ///
    /// # Errors
    /// If the kernel does not say which CPUs may be used.
    pub fn of_this_host() -> io::Result<Self> {
        let nodes = nodes();
        let cpus: Vec<Cpu> = cpu::allowed()?
            .into_iter()
            .map(|number| Cpu {
                number,
                physical: lowest_sibling(number),
                node: nodes.get(&number).copied().unwrap_or(0),
            })
            .collect();
        if cpus.is_empty() {
            return Err(io::Error::other("the kernel lists no usable CPU"));
        }
        let parallelism = std::thread::available_parallelism().map_or(cpus.len(), usize::from);
        Ok(Topology { cpus, parallelism })
    }

    fn numbers(&self) -> Vec<usize> {
        self.cpus.iter().map(|cpu| cpu.number).collect()
    }
}

fn lowest_sibling(number: usize) -> usize {
    let path = format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list");
    fs::read_to_string(path)
        .ok()
        .and_then(|list| kernel_list(&list).into_iter().min())
        .unwrap_or(number)
}

fn nodes() -> BTreeMap<usize, usize> {
    let mut nodes = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/sys/devices/system/node") else {
        return nodes;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let node = name.to_str().and_then(|name| name.strip_prefix("node"));
        let Some(node) = node.and_then(|number| number.parse::<usize>().ok()) else {
            continue;
        };
        let list = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        nodes.extend(kernel_list(&list).into_iter().map(|cpu| (cpu, node)));
    }
    nodes
}

/// A flag asks for a CPU that cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnusableCpu {
    flag: &'static str,
    cpu: usize,
    usable: Vec<usize>,
}

impl fmt::Display for UnusableCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: CPU {} is not one that this process may use; allowed are {} (see taskset and \
             cpusets, or --no-pin)",
            self.flag,
            self.cpu,
            shown(&self.usable)
        )
    }
}

impl std::error::Error for UnusableCpu {}

/// The threads to start, in the order of their core numbers: every role is there at least once.
///
/// With one list given, the other role gets the CPUs that are left, or the same ones if none are. None is tied if
/// one of them cannot be, because its CPU has too high a number.
///
/// # Errors
/// If a listed CPU does not exist or may not be used, unless threads are not tied.
pub fn place(config: &CoreConfig, topology: &Topology) -> Result<Vec<CoreSpec>, UnusableCpu> {
    if config.pin {
        usable("--ingress-cores", config.ingress.as_deref(), topology)?;
        usable("--delivery-cores", config.delivery.as_deref(), topology)?;
    }
    let rest = |taken: &[usize]| -> Vec<usize> {
        let left: Vec<usize> = topology
            .numbers()
            .into_iter()
            .filter(|number| !taken.contains(number))
            .collect();
        if left.is_empty() {
            taken.to_vec()
        } else {
            left
        }
    };
    let mut cores = match (&config.ingress, &config.delivery) {
        (None, None) => chosen(topology),
        (Some(ingress), None) => merged(ingress, &rest(ingress)),
        (None, Some(delivery)) => merged(&rest(delivery), delivery),
        (Some(ingress), Some(delivery)) => merged(ingress, delivery),
    };
    let is_out_of_reach = |core: &CoreSpec| core.cpu.is_some_and(|number| number >= TIED_BELOW);
    if !config.pin || cores.iter().any(is_out_of_reach) {
        cores.iter_mut().for_each(|core| core.cpu = None);
    }
    Ok(cores)
}

fn usable(
    flag: &'static str,
    listed: Option<&[usize]>,
    topology: &Topology,
) -> Result<(), UnusableCpu> {
    let usable = topology.numbers();
    let outside = listed
        .unwrap_or_default()
        .iter()
        .find(|cpu| !usable.contains(cpu));
    match outside {
        None => Ok(()),
        Some(&cpu) => Err(UnusableCpu { flag, cpu, usable }),
    }
}

/// Two lists as threads: a CPU in both gives one thread with both roles for every pair of mentions.
fn merged(ingress: &[usize], delivery: &[usize]) -> Vec<CoreSpec> {
    let mut deliveries_left: BTreeMap<usize, usize> = BTreeMap::new();
    for &cpu in delivery {
        *deliveries_left.entry(cpu).or_default() += 1;
    }
    let mut cores = Vec::new();
    for &cpu in ingress {
        let left = deliveries_left.entry(cpu).or_default();
        cores.push(CoreSpec {
            cpu: Some(cpu),
            ingress: true,
            delivery: *left > 0,
        });
        *left = left.saturating_sub(1);
    }
    for &cpu in delivery {
        let left = deliveries_left.entry(cpu).or_default();
        if *left > 0 {
            *left -= 1;
            cores.push(CoreSpec {
                cpu: Some(cpu),
                ingress: false,
                delivery: true,
            });
        }
    }
    cores
}

fn chosen(topology: &Topology) -> Vec<CoreSpec> {
    let wanted = topology.parallelism.clamp(1, topology.cpus.len());
    let nodes = nodes_of_cores(&topology.cpus, wanted);
    if wanted <= COMBINED_CPUS_MAX {
        let mut cpus: Vec<usize> = nodes.into_values().flatten().flatten().collect();
        cpus.sort_unstable();
        return cpus.into_iter().map(CoreSpec::both).collect();
    }
    let (mut ingress, mut delivery, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for physical in nodes.into_values() {
        if physical.len() == 1 {
            both.extend(physical.into_iter().flatten());
            continue;
        }
        let half = physical.len() / 2;
        for (index, siblings) in physical.into_iter().enumerate() {
            let role = if index < half {
                &mut ingress
            } else {
                &mut delivery
            };
            role.extend(siblings);
        }
    }
    ingress.extend(both.iter().copied());
    delivery.extend(both);
    merged(&ingress, &delivery)
}

/// The first `wanted` CPUs by node and physical core: node to cores to siblings. Under a quota
/// one node is filled before the next, and a core's siblings come after all cores of its node.
fn nodes_of_cores(cpus: &[Cpu], wanted: usize) -> BTreeMap<usize, Vec<Vec<usize>>> {
    let mut siblings_before: BTreeMap<usize, usize> = BTreeMap::new();
    let mut order: Vec<(usize, usize, usize, usize)> = cpus
        .iter()
        .map(|cpu| {
            let rank = siblings_before.entry(cpu.physical).or_default();
            *rank += 1;
            (cpu.node, *rank, cpu.physical, cpu.number)
        })
        .collect();
    order.sort_unstable();
    let mut nodes: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (node, _, physical, number) in order.into_iter().take(wanted) {
        let cores = nodes.entry(node).or_default();
        cores.entry(physical).or_default().push(number);
    }
    nodes
        .into_iter()
        .map(|(node, cores)| (node, cores.into_values().collect()))
        .collect()
}

/// One line for people: `2 threads: in+out on CPUs 0,1`.
pub fn explain(cores: &[CoreSpec]) -> String {
    let threads = cores.len();
    let plural = if threads == 1 { "" } else { "s" };
    let groups = [
        ("taking in and delivering", true, true),
        ("taking in", true, false),
        ("delivering", false, true),
    ];
    let parts: Vec<String> = groups
        .iter()
        .filter_map(|&(role, ingress, delivery)| {
            let of_role: Vec<&CoreSpec> = cores
                .iter()
                .filter(|core| (core.ingress, core.delivery) == (ingress, delivery))
                .collect();
            let tied: Vec<usize> = of_role.iter().filter_map(|core| core.cpu).collect();
            match (of_role.len(), tied.is_empty()) {
                (0, _) => None,
                (count, true) => Some(format!("{count} {role}, not tied to CPUs")),
                (count, false) => Some(format!("{count} {role} on CPU {}", shown(&tied))),
            }
        })
        .collect();
    format!("{threads} thread{plural}: {}", parts.join("; "))
}

/// CPU numbers as the flags take them.
fn shown(cpus: &[usize]) -> String {
    crate::config::CpuList(cpus.to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nodes` times `cores` physical cores with `smt` threads each, numbered as Linux does:
    /// first siblings of all cores, then the second ones.
    fn host(nodes: usize, cores: usize, smt: usize) -> Topology {
        let all = nodes * cores;
        let cpus: Vec<Cpu> = (0..all * smt)
            .map(|number| Cpu {
                number,
                physical: number % all,
                node: number % all / cores,
            })
            .collect();
        Topology {
            parallelism: cpus.len(),
            cpus,
        }
    }

    fn flags(ingress: &str, delivery: &str) -> CoreConfig {
        let list = |text: &str| (!text.is_empty()).then(|| kernel_list(text));
        CoreConfig {
            ingress: list(ingress),
            delivery: list(delivery),
            pin: true,
        }
    }

    fn explained(config: &CoreConfig, topology: &Topology) -> String {
        explain(&place(config, topology).unwrap())
    }

    #[test]
    fn few_cpus_do_both() {
        for cpus in 1..=COMBINED_CPUS_MAX {
            let cores = place(&flags("", ""), &host(1, cpus, 1)).unwrap();
            let expected: Vec<CoreSpec> = (0..cpus).map(CoreSpec::both).collect();
            assert_eq!(cores, expected);
        }
    }

    #[test]
    fn many_cpus_are_split_by_physical_core() {
        assert_eq!(
            explained(&flags("", ""), &host(1, 8, 1)),
            "8 threads: 4 taking in on CPU 0-3; 4 delivering on CPU 4-7"
        );
        assert_eq!(
            explained(&flags("", ""), &host(1, 4, 2)),
            "8 threads: 4 taking in on CPU 0,4,1,5; 4 delivering on CPU 2,6,3,7"
        );
    }

    #[test]
    fn delivery_gets_the_odd_core() {
        assert_eq!(
            explained(&flags("", ""), &host(1, 5, 1)),
            "5 threads: 2 taking in on CPU 0,1; 3 delivering on CPU 2-4"
        );
    }

    #[test]
    fn every_node_has_both_roles() {
        assert_eq!(
            explained(&flags("", ""), &host(2, 4, 1)),
            "8 threads: 4 taking in on CPU 0,1,4,5; 4 delivering on CPU 2,3,6,7"
        );
        let lone_cores = place(&flags("", ""), &host(6, 1, 1)).unwrap();
        assert!(lone_cores.iter().all(|core| core.ingress && core.delivery));
    }

    #[test]
    fn a_quota_bounds_the_threads() {
        let mut topology = host(2, 16, 2);
        topology.parallelism = 2;
        assert_eq!(
            explained(&flags("", ""), &topology),
            "2 threads: 2 taking in and delivering on CPU 0,1"
        );
    }

    #[test]
    fn flags_decide() {
        let topology = host(1, 4, 1);
        assert_eq!(
            explained(&flags("0-1", "2-3"), &topology),
            "4 threads: 2 taking in on CPU 0,1; 2 delivering on CPU 2,3"
        );
        assert_eq!(
            explained(&flags("0", ""), &topology),
            "4 threads: 1 taking in on CPU 0; 3 delivering on CPU 1-3"
        );
        assert_eq!(
            explained(&flags("", "3"), &topology),
            "4 threads: 3 taking in on CPU 0-2; 1 delivering on CPU 3"
        );
        assert_eq!(
            explained(&flags("0", ""), &host(1, 1, 1)),
            "1 thread: 1 taking in and delivering on CPU 0"
        );
    }

    #[test]
    fn settings_know_how_many_threads_there_will_be() {
        let lists = ["", "0", "0,0", "1-3", "0-3", "7,7,2"];
        for (nodes, cores, smt) in [(1, 1, 1), (1, 2, 1), (1, 4, 2), (2, 8, 2)] {
            let mut host = host(nodes, cores, smt);
            for parallelism in [1, 2, host.cpus.len()] {
                host.parallelism = parallelism;
                for (ingress, delivery) in lists.iter().flat_map(|a| lists.map(|b| (*a, b))) {
                    let mut config = flags(ingress, delivery);
                    config.pin = false;
                    let threads = config.threads(&host.numbers(), parallelism);
                    assert_eq!(threads, place(&config, &host).unwrap().len(), "{config:?}");
                }
            }
        }
    }

    #[test]
    fn a_cpu_in_both_lists_is_one_thread_with_both_roles() {
        assert_eq!(
            explained(&flags("0-1", "1-2"), &host(1, 4, 1)),
            "3 threads: 1 taking in and delivering on CPU 1; 1 taking in on CPU 0; 1 delivering on CPU 2"
        );
    }

    #[test]
    fn more_threads_than_cpus_when_asked() {
        let cores = place(&flags("0,0,1,1", "0,1,1"), &host(1, 2, 1)).unwrap();
        let both = cores.iter().filter(|core| core.delivery).count();
        assert_eq!((cores.len(), both), (4, 3));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let refusal = place(&flags("0-3,8", ""), &host(1, 4, 1)).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "--ingress-cores: CPU 8 is not one that this process may use; allowed are 0-3 (see \
             taskset and cpusets, or --no-pin)"
        );
    }

    #[test]
    fn untied_threads_need_no_cpus() {
        let mut config = flags("0-7", "0-7");
        config.pin = false;
        assert_eq!(
            explained(&config, &host(1, 2, 1)),
            "8 threads: 8 taking in and delivering, not tied to CPUs"
        );
    }

    #[test]
    fn a_host_with_more_cpus_than_can_be_named_has_untied_threads() {
        let topology = host(1, TIED_BELOW + 2, 1);
        assert_eq!(
            explained(&flags("", ""), &topology),
            "1026 threads: 513 taking in, not tied to CPUs; 513 delivering, not tied to CPUs"
        );
        assert_eq!(
            explained(&flags("0-1", "1022-1023"), &topology),
            "4 threads: 2 taking in on CPU 0,1; 2 delivering on CPU 1022,1023"
        );
    }

    #[test]
    fn this_host_can_be_placed() {
        let topology = Topology::of_this_host().unwrap();
        let cores = place(&flags("", ""), &topology).unwrap();
        assert!(cores.iter().any(|core| core.ingress));
        assert!(cores.iter().any(|core| core.delivery));
        assert!(cores.len() <= topology.cpus.len());
    }
}
