//! What README.md, tuning.md and docs/ say of flags, against the flags: that they exist, and their defaults. And
//! docs/flags.md, which is made from the help: `RINGPOST_WRITE_DOCS=1 cargo test --test house flag_table` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags whose default depends on the host or is told in other words than `--check` has.
const IN_WORDS: [&str; 12] = [
    "--delivery-cores",
    "--hostname",
    "--ingress-cores",
    "--no-pin",
    "--postmaster",
    "--recipients-file",
    "--reserved-connections",
    "--route",
    "--routes-file",
    "--spool",
    "--tls-ca",
    "--tls-ca-only",
];

/// Flags of other programs: cargo, swaks, systemctl, setpriv, useradd, perf.
const OF_OTHERS: [&str; 18] = [
    "--ambient-caps",
    "--check",
    "--clear-groups",
    "--features",
    "--help",
    "--inh-caps",
    "--lib",
    "--no-children",
    "--nocapture",
    "--now",
    "--regid",
    "--release",
    "--reuid",
    "--server",
    "--system",
    "--test",
    "--version",
    "--workspace",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each flag with its default, as `--check` shows it.
fn defaults() -> BTreeMap<String, String> {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .arg("--check")
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let flag = |line: &str| {
        let (flag, value) = line.trim().split_once(' ')?;
        let value = value.trim().strip_suffix("  (default)")?;
        flag.starts_with("--")
            .then(|| (flag.to_owned(), value.to_owned()))
    };
    let flags: BTreeMap<_, _> = text.lines().filter_map(flag).collect();
    assert!(flags.len() > 70, "{text}");
    flags
}

fn documents() -> Vec<PathBuf> {
    let mut documents = ["README.md", "tuning.md", "ARCHITECTURE.md"]
        .map(|name| root().join(name))
        .to_vec();
    let docs = fs::read_dir(root().join("docs")).unwrap();
    documents.extend(docs.map(|entry| entry.unwrap().path()));
    documents
}

/// The flags that a text names.
fn flags_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut flags = BTreeSet::new();
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let rest = &text[at..];
        if rest.starts_with("--") && !before.is_alphanumeric() && before != '-' {
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let flag = &rest[..length];
            if flag[2..].starts_with(|c: char| c.is_ascii_lowercase()) {
                flags.insert(flag.to_owned());
            }
        }
        before = c;
    }
    flags
}

/// The load generator's flags are the fields of its options.
fn flags_of_the_load_generator() -> BTreeSet<String> {
    let files = fs::read_dir(root().join("loadtest/src/options")).unwrap();
    let options: String = files.map(|file| read(&file.unwrap().path())).collect();
    let fields = options.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(':')?;
        Some(format!("--{}", name.replace('_', "-")))
    });
    fields.collect()
}

fn help() -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    String::from_utf8(help.stdout).unwrap()
}

/// Those that stand behind a command, as `--take` behind `spool export`.
fn flags_of_commands() -> BTreeSet<String> {
    let help = help();
    let (usage, _) = help.split_once("\nListening:").expect("the first heading");
    flags_in(usage)
}

/// The page of all flags, from what `--help` says.
fn page_of_flags() -> String {
    let help = help();
    let mut page = "# Every flag\n\nMade from `ringpost --help`. A flag can also stand in a file (`ringpost @FILE`) or in a variable:\n\
                    `RINGPOST_MAX_HOPS=50` is `--max-hops 50`. The flags that matter first:\n\
                    [operations.md](operations.md#flags-that-matter).\n"
        .to_owned();
    let mut row: Option<String> = None;
    for line in help.lines() {
        let is_heading = line.ends_with(':') && line.starts_with(|c: char| c.is_ascii_uppercase());
        // What is said of a flag stands deeper, and may begin with the name of another.
        let is_shallow = line.starts_with("  ") && !line.starts_with("        ");
        let begins = is_shallow && line.trim_start().starts_with('-');
        if is_heading || begins || line.is_empty() {
            page.extend(row.take().map(|row| format!("{row} |\n")));
        }
        // What follows explains values and files.
        if line == "Values:" {
            break;
        }
        if is_heading {
            let heading = line.trim_end_matches(':');
            page.push_str(&format!("\n## {heading}\n\n| flag | what |\n|---|---|\n"));
        } else if begins {
            row = Some(format!("| `{}` |", line.trim().replace('|', "\\|")));
        } else if let Some(row) = &mut row {
            row.push_str(&format!(" {}", line.trim().replace('|', "\\|")));
        }
    }
    page.extend(row.map(|row| format!("{row} |\n")));
    page
}

#[test]
fn the_page_of_flags_is_what_the_help_says() {
    let path = root().join("docs/flags.md");
    let page = page_of_flags();
    if std::env::var_os("RINGPOST_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert!(page.matches("\n| `--").count() > 70, "{page}");
    assert!(
        read(&path) == page,
        "docs/flags.md is not what the help says: RINGPOST_WRITE_DOCS=1 cargo test --test house flag_table"
    );
}

#[test]
fn every_flag_that_is_written_about_exists() {
    let mut known: BTreeSet<String> = defaults().into_keys().collect();
    known.extend(flags_of_commands());
    known.extend(flags_of_the_load_generator());
    known.extend(OF_OTHERS.map(str::to_owned));
    for path in documents() {
        let unknown: Vec<_> = flags_in(&read(&path)).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
    }
}

/// The rows of tables that have a column of flags before one of defaults.
fn rows(text: &str) -> Vec<(Vec<String>, String)> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.replace("\\|", "/");
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = Vec::new();
    let mut column = None;
    for line in text.lines() {
        let cells = match line.starts_with('|') {
            true => cells(line),
            false => {
                column = None;
                continue;
            }
        };
        if let Some(found) = cells.windows(2).position(|two| two == ["flag", "default"]) {
            column = Some(found);
        } else if let Some(column) = column
            && cells[column].starts_with('`')
        {
            let flags = cells[column]
                .split('`')
                .filter(|part| part.starts_with("--"));
            let flags = flags.map(|flag| flag.split(' ').next().unwrap().to_owned());
            rows.push((flags.collect(), cells[column + 1].clone()));
        }
    }
    rows
}

/// The words of a table as `--check` has them.
fn as_shown(said: &str) -> String {
    match said.trim_matches('`') {
        "none" => "-".to_owned(),
        "off" => "no".to_owned(),
        said => said.to_owned(),
    }
}

#[test]
fn the_tables_say_the_defaults_that_flags_have() {
    let defaults = defaults();
    let mut compared = 0;
    for path in documents() {
        for (flags, said) in rows(&read(&path)) {
            // Of several flags one default is that of each; a unit may follow the last.
            let said: Vec<&str> = match said.strip_suffix(" a minute and address") {
                Some(rates) => rates.split(", ").collect(),
                None => said.split(", ").collect(),
            };
            for (number, flag) in flags.iter().enumerate() {
                let said = said.get(number).or(said.last()).copied().unwrap_or("");
                if said.is_empty() || IN_WORDS.contains(&flag.as_str()) {
                    continue;
                }
                let place = path.display();
                let shown = defaults
                    .get(flag)
                    .unwrap_or_else(|| panic!("{place}: {flag}"));
                assert_eq!(&as_shown(said), shown, "{place}: {flag}");
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn planted_mistakes_are_found() {
    let table = "| about | flag | default | remark |\n|---|---|---|---|\n\
                 | x | `--retry-min`, `--log-level error\\|warn` | 5m, info | y |\n\n\
                 | `--other` | 1 |\n";
    let flags = vec!["--retry-min".to_owned(), "--log-level".to_owned()];
    assert_eq!(rows(table), [(flags, "5m, info".to_owned())]);
    let named = flags_in("see --max-hop, `--a-b=c` ---|--- x--y (--z9)");
    let expected = ["--a-b", "--max-hop", "--z9"].map(str::to_owned);
    assert_eq!(named, BTreeSet::from(expected));
}
