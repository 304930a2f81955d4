//! Several relays under the same load, in turn. What disturbs a machine lasts for longer than a
//! run: only neighbours in time can be compared. Not here: the figures (`comparison`).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

use clap::ValueEnum;

use crate::commands::output::write_files;
use crate::commands::run;
use crate::failure::Failure;
use crate::figures::comparison::{ComparedRelay, ComparedRun, ComparedWorkload, Comparison};
use crate::figures::machine::Machine;
use crate::figures::spread::rotation;
use crate::host::clock::Clock;
use crate::host::scratch::Scratch;
use crate::host::signals::StopFlag;
use crate::options::compare::{CompareCommand, NamedRelay, ProxyTls, Workload};
use crate::options::run::RunCommand;
use crate::options::shared::{OutputOptions, RelayOptions};
use crate::options::sink::{SinkOptions, SinkTls};
use crate::options::source::{SourceOptions, SourceTls};
use crate::options::values::Range;
use crate::pages;
use crate::text::{grouped, rate_or_dash};

const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
const MB: u64 = 1 << 20;
/// Large messages are fewer by this.
const LARGE_SHARE: u64 = 20;

/// Runs, prints, and says whether every ledger is clean.
pub fn compare(command: &CompareCommand, stop: &StopFlag) -> Result<bool, Failure> {
    let mut scratch = Scratch::default();
    let spools = match &command.spool {
        Some(spool) => spool.clone(),
        None => scratch.directory()?.to_path_buf(),
    };
    let contenders = contenders(command)?;
    let comparison = measure(command, &contenders, &spools, stop)?;
    print!("{comparison}");
    write_files(&command.output, &comparison, pages::compare::page)?;
    let clean = comparison.is_clean();
    scratch.tidy(clean);
    Ok(clean)
}

/// Who takes part: a relay, or the floor with its kind of TLS.
struct Contender {
    relay: NamedRelay,
    floor: Option<ProxyTls>,
}

fn contenders(command: &CompareCommand) -> Result<Vec<Contender>, Failure> {
    let relays = command.relays.iter().map(|relay| Contender {
        relay: relay.clone(),
        floor: None,
    });
    let mut contenders: Vec<Contender> = relays.collect();
    for &tls in &command.floor {
        contenders.push(floor(tls)?);
    }
    let mut names: Vec<&str> = contenders.iter().map(|c| c.relay.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!(
            "two relays are called {}; name them, NAME=COMMAND",
            twice[0]
        )
        .into());
    }
    Ok(contenders)
}

/// This very program as the bare proxy.
fn floor(tls: ProxyTls) -> Result<Contender, Failure> {
    let program = std::env::current_exe()?;
    let program = program
        .to_str()
        .ok_or("the path of this program is not UTF-8")?;
    let name = match tls {
        ProxyTls::Both => "floor",
        ProxyTls::In => "floor-in",
        ProxyTls::None => "floor-plain",
    };
    Ok(Contender {
        relay: NamedRelay {
            name: name.to_string(),
            command: format!("\"{program}\" proxy --listen {{listen}} --to {{sink}}"),
        },
        floor: Some(tls),
    })
}

fn measure(
    command: &CompareCommand,
    contenders: &[Contender],
    spools: &Path,
    stop: &StopFlag,
) -> Result<Comparison, Failure> {
    let loads = loads(command);
    let mut comparison = Comparison {
        version: env!("CARGO_PKG_VERSION").to_string(),
        note: command.output.note.clone(),
        command: std::env::args().collect(),
        machine: Machine::here(Clock::start().now_us() / 1_000_000),
        rounds: command.rounds,
        warm_up: command.warm_up,
        relays: contenders.iter().map(Contender::as_compared).collect(),
        workloads: loads.iter().map(Load::as_compared).collect(),
        ..Comparison::default()
    };
    for turn in turns(
        command.warm_up + command.rounds,
        loads.len(),
        contenders.len(),
    ) {
        let (load, contender) = (&loads[turn.load], &contenders[turn.contender]);
        let round = (turn.round + 1).saturating_sub(command.warm_up);
        let run = one_run(
            &load.run_command(command, contender, spools),
            turn.contender,
            round,
            stop,
        )?;
        if stop.is_set() {
            comparison.interrupted = true;
            break;
        }
        if !command.output.quiet {
            eprintln!("{}", progress(&run, contender, load));
        }
        comparison.add(turn.load, run);
    }
    comparison.finish();
    Ok(comparison)
}

/// Who runs next, under which load.
struct Turn {
    round: u32,
    load: usize,
    contender: usize,
}

/// Round by round, load by load, the contenders in rotating order.
fn turns(rounds: u32, loads: usize, contenders: usize) -> impl Iterator<Item = Turn> {
    let places = (0..rounds).flat_map(move |round| (0..loads).map(move |load| (round, load)));
    places.flat_map(move |(round, load)| {
        rotation(round, contenders).map(move |contender| Turn {
            round,
            load,
            contender,
        })
    })
}

fn one_run(
    command: &RunCommand,
    relay: usize,
    round: u32,
    stop: &StopFlag,
) -> Result<ComparedRun, Failure> {
    let relay_cmd = command.start.relay_cmd.as_deref().unwrap_or_default();
    let (report, _) =
        run::measure(command, stop).map_err(|failure| format!("{relay_cmd}: {failure}"))?;
    Ok(ComparedRun {
        round,
        relay,
        clean: report.is_clean(),
        problems: report.problems(),
        report,
    })
}

fn progress(run: &ComparedRun, contender: &Contender, load: &Load) -> String {
    let rates = &run.report.rates;
    let round = match run.round {
        0 => "warm-up".to_string(),
        round => format!("round {round}"),
    };
    format!(
        "{round}, {}, {}: {:.1} us CPU per message, accepted {}/s, delivered {}/s{}",
        load.name,
        contender.relay.name,
        rates.relay_cpu_us_per_message.unwrap_or_default(),
        rate_or_dash(rates.accepted_per_second),
        rate_or_dash(rates.delivered_per_second),
        if run.clean { "" } else { ", NOT CLEAN" },
    )
}

/// A workload, as flags.
struct Load {
    name: String,
    source: SourceOptions,
    sink: SinkOptions,
}

fn loads(command: &CompareCommand) -> Vec<Load> {
    let as_given = || Load {
        name: "as given".to_string(),
        source: command.source.clone(),
        sink: command.sink.clone(),
    };
    if command.workload.is_empty() {
        return vec![as_given()];
    }
    let named = command.workload.iter();
    named.map(|&workload| as_given().under(workload)).collect()
}

impl Load {
    fn under(mut self, workload: Workload) -> Self {
        let source = &mut self.source;
        source.messages_per_connection = 100;
        match workload {
            Workload::Cold => source.messages_per_connection = 1,
            Workload::Warm => {}
            Workload::Plain => {
                source.source_tls = SourceTls::None;
                self.sink.sink_tls = SinkTls::None;
                self.sink.sink_implicit_tls = false;
            }
            Workload::Large => {
                source.size = Range { low: MB, high: MB };
                if source.duration.is_none() {
                    source.messages = Some((source.message_limit() / LARGE_SHARE).max(1));
                }
            }
        }
        self.name = word(workload);
        self
    }

    /// The run of this contender under this load. Its spool and log outlive the run.
    fn run_command(
        &self,
        command: &CompareCommand,
        contender: &Contender,
        spools: &Path,
    ) -> RunCommand {
        let (mut source, mut sink) = (self.source.clone(), self.sink.clone());
        let mut relay_cmd = contender.relay.command.clone();
        if let Some(wanted) = contender.floor {
            let tls = without_starttls(&mut source, &mut sink, wanted);
            relay_cmd.push_str(&format!(" --tls {}", word(tls)));
        }
        let name = &contender.relay.name;
        RunCommand {
            source,
            sink,
            start: RelayOptions {
                relay_cmd: Some(relay_cmd),
                spool: Some(spools.join(name)),
                relay_log: Some(spools.join(format!("{name}.log"))),
                relay_listen: LOOPBACK,
                relay_start: command.relay_start,
            },
            judge: command.judge.clone(),
            output: OutputOptions {
                quiet: true,
                ..OutputOptions::default()
            },
            direct: false,
            relay: None,
            relay_pid: None,
            sink_listen: LOOPBACK,
        }
    }

    fn as_compared(&self) -> ComparedWorkload {
        ComparedWorkload {
            name: self.name.clone(),
            description: describe(&self.source, &self.sink),
            ..ComparedWorkload::default()
        }
    }
}

/// TLS where load and floor both have it, from the first byte: a proxy knows no STARTTLS. Returns
/// what is left for the proxy to do.
fn without_starttls(
    source: &mut SourceOptions,
    sink: &mut SinkOptions,
    wanted: ProxyTls,
) -> ProxyTls {
    let is_in = source.source_tls != SourceTls::None && wanted != ProxyTls::None;
    let is_out = is_in && wanted == ProxyTls::Both && sink.sink_tls != SinkTls::None;
    if is_in {
        source.source_tls = SourceTls::Implicit;
    } else {
        source.source_tls = SourceTls::None;
    }
    sink.sink_implicit_tls = is_out;
    if !is_out {
        sink.sink_tls = SinkTls::None;
    }
    match (is_in, is_out) {
        (true, true) => ProxyTls::Both,
        (true, false) => ProxyTls::In,
        (false, _) => ProxyTls::None,
    }
}

/// The load in a line.
fn describe(source: &SourceOptions, sink: &SinkOptions) -> String {
    let amount = match (source.messages, source.duration) {
        (None, Some(seconds)) => format!("{seconds} s of messages"),
        _ => format!("{} messages", grouped(source.message_limit())),
    };
    let Range { low, high } = source.size;
    let size = if low == high {
        grouped(low)
    } else {
        format!("{} to {}", grouped(low), grouped(high))
    };
    let rate = source.rate.map(|rate| format!(" at {rate}/s"));
    format!(
        "{amount} of {size} bytes{}, {} connections, {} messages per connection, TLS in {}, out {}",
        rate.unwrap_or_default(),
        source.connections,
        source.messages_per_connection,
        word(source.source_tls),
        word(sink.sink_tls),
    )
}

/// As on the command line.
fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map(|word| word.get_name().to_string())
        .unwrap_or_default()
}

impl Contender {
    fn as_compared(&self) -> ComparedRelay {
        ComparedRelay {
            name: self.relay.name.clone(),
            command: self.relay.command.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Action, Command};

    fn command(line: &str) -> CompareCommand {
        let words = format!("loadtest compare {line}");
        match Command::try_parse_from(words.split_whitespace())
            .unwrap()
            .action
        {
            Action::Compare(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn relays_have_names_given_or_taken_from_their_programs() {
        let named = |text: &str| text.parse::<NamedRelay>().unwrap();
        let relay = named("old=./ringpost --route *=[{sink_ip}]:{sink_port}");
        assert_eq!(relay.name, "old");
        assert_eq!(
            relay.command,
            "./ringpost --route *=[{sink_ip}]:{sink_port}"
        );
        let relay = named("target/release/ringpost --route *=[{sink_ip}]");
        assert_eq!(relay.name, "ringpost");
        assert!("=x".parse::<NamedRelay>().is_err());
        assert!("a=".parse::<NamedRelay>().is_err());
        assert!("".parse::<NamedRelay>().is_err());
    }

    #[test]
    fn one_name_for_two_relays_is_refused() {
        let contenders = contenders(&command("--relay-cmd a=x --relay-cmd a=y"));
        assert!(contenders.is_err_and(|error| error.to_string().contains("called a")));
    }

    #[test]
    fn everybody_runs_under_every_load_in_every_round() {
        let order: Vec<_> = turns(2, 2, 2)
            .map(|turn| (turn.round, turn.load, turn.contender))
            .collect();
        let wanted = [
            (0, 0, 0),
            (0, 0, 1),
            (0, 1, 0),
            (0, 1, 1),
            (1, 0, 1),
            (1, 0, 0),
            (1, 1, 1),
            (1, 1, 0),
        ];
        assert_eq!(order, wanted);
    }

    #[test]
    fn workloads_change_the_flags_that_they_name() {
        let command =
            command("--relay-cmd a=x --relay-cmd b=y --messages 400 --workload cold,plain,large");
        let loads = loads(&command);
        let [cold, plain, large] = &loads[..] else {
            panic!("{} loads", loads.len());
        };
        assert_eq!(cold.source.messages_per_connection, 1);
        assert_eq!(cold.source.messages, Some(400));
        assert_eq!(plain.source.source_tls, SourceTls::None);
        assert_eq!(plain.sink.sink_tls, SinkTls::None);
        assert_eq!(large.source.messages, Some(20));
        assert_eq!(large.source.size.low, MB);
    }

    #[test]
    fn the_floor_gets_implicit_tls_and_the_relay_does_not() {
        let command = command("--relay-cmd a=x --workload warm,plain --floor both,in");
        let contenders = contenders(&command).unwrap();
        let tls = |load: &Load, contender: usize| {
            let run = load.run_command(&command, &contenders[contender], Path::new("/s"));
            (
                run.source.source_tls,
                run.sink.sink_tls,
                run.sink.sink_implicit_tls,
            )
        };
        let [warm, plain] = &loads(&command)[..] else {
            panic!("two loads");
        };
        assert_eq!(tls(warm, 0), (SourceTls::Starttls, SinkTls::Good, false));
        assert_eq!(tls(warm, 1), (SourceTls::Implicit, SinkTls::Good, true));
        assert_eq!(tls(warm, 2), (SourceTls::Implicit, SinkTls::None, false));
        assert_eq!(tls(plain, 0), (SourceTls::None, SinkTls::None, false));
        assert_eq!(tls(plain, 1), (SourceTls::None, SinkTls::None, false));
    }
}
