//! What `--check` prints: every flag with its effective value and where that came from.

use super::Config;
use super::flags;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::collections::HashMap;
use std::path::PathBuf;

/// One line per flag under its heading: `--flag  value  (source)`.
pub fn effective(
    config: &Config,
    matches: &ArgMatches,
    given_in: &HashMap<String, PathBuf>,
) -> String {
    let command = flags::command();
    let mut text = String::new();
    let mut heading = "";
    let resolved = resolved(config);
    for arg in command.get_arguments() {
        let (Some(long), Some(of_arg)) = (arg.get_long(), arg.get_help_heading()) else {
            continue;
        };
        if of_arg == "General" {
            continue;
        }
        if of_arg != heading {
            let gap = if heading.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{of_arg}\n"));
            heading = of_arg;
        }
        let id = arg.get_id().as_str();
        let gave_way = config.gave_way.iter().find(|it| it.flag == long);
        let value = gave_way
            .map(|it| it.value.clone())
            .or_else(|| switch(matches, id))
            .or_else(|| given(matches, id))
            .or_else(|| resolved.get(long).cloned())
            .unwrap_or_else(|| "-".to_owned());
        let source = match gave_way {
            Some(it) => format!("default {}, which gives way to {}", it.default, it.to),
            None => source(matches, id, long, given_in),
        };
        text.push_str(&format!("  --{long:<30} {value}  ({source})\n"));
    }
    text
}

fn switch(matches: &ArgMatches, id: &str) -> Option<String> {
    let value = matches.try_get_one::<bool>(id).ok()??;
    Some(if *value { "yes" } else { "no" }.to_owned())
}

fn given(matches: &ArgMatches, id: &str) -> Option<String> {
    let values: Vec<_> = matches
        .get_raw(id)?
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    Some(values.join(","))
}

fn source(
    matches: &ArgMatches,
    id: &str,
    long: &str,
    given_in: &HashMap<String, PathBuf>,
) -> String {
    match (matches.value_source(id), given_in.get(long)) {
        (Some(ValueSource::CommandLine), Some(path)) => format!("file {}", path.display()),
        (Some(ValueSource::CommandLine), None) => "flag".to_owned(),
        (Some(ValueSource::EnvVariable), _) => flags::variable_of(long),
        _ => "default".to_owned(),
    }
}

/// Defaults that depend on the host.
fn resolved(config: &Config) -> HashMap<&'static str, String> {
    let shown = |path: &PathBuf| path.display().to_string();
    let mut values = HashMap::from([
        ("hostname", config.hostname.clone()),
        ("spool", shown(&config.spool.dir)),
        ("tls-ca", "the system's".to_owned()),
        ("dns", "those of /etc/resolv.conf".to_owned()),
        ("log-file", "standard error".to_owned()),
        ("user", "whoever starts it".to_owned()),
        ("ingress-cores", "chosen".to_owned()),
        ("delivery-cores", "chosen".to_owned()),
    ]);
    let certificates = &config.tls.certificates;
    if certificates.given.is_empty() {
        values.insert("tls-cert", "generated".to_owned());
        values.insert("tls-key", "generated".to_owned());
    }
    if let Some(dir) = &certificates.kept_in {
        values.insert("tls-dir", shown(dir));
    }
    values
}
