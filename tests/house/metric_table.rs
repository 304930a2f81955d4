//! docs/counters.md against the items that the code counts, and each of these against the places that count it.

use ringpost::metrics::{Item, Snapshot, Value, exposition};
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/counters.md";

const COUNTING: [&str; 6] = [
    ".increment(",
    ".add(",
    ".set(",
    ".set_total(",
    ".record(",
    ".record_duration(",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kind(item: &Item<'_>) -> &'static str {
    match item.value {
        Value::Counter(_) => "counter",
        Value::Gauge(_) => "gauge",
        Value::Histogram { .. } => "histogram",
    }
}

fn page() -> String {
    let mut page = "# What is counted\n\nMade from the code. The log line `counters` has all of it (SIGUSR1, and at the end of a run): a counter grows from \
                    the\nstart on, a gauge is as it is now, and of a histogram there are `NAME_count` and `NAME_sum`. All threads together.\n\n\
                    The page `/metrics` (`--http`) has the same under the names of the second column, times in seconds.\n\n\
                    | name | in `/metrics` | kind | what |\n|---|---|---|---|\n"
        .to_owned();
    for item in Snapshot::default().items() {
        let (name, there) = (item.name, exposition::name(&item));
        page += &format!(
            "| `{name}` | `{there}` | {} | {} |\n",
            kind(&item),
            item.help
        );
    }
    page
}

/// `RINGPOST_WRITE_DOCS=1` writes it.
#[test]
fn the_page_of_counters_is_what_the_code_says() {
    let path = root().join(PAGE);
    if std::env::var_os("RINGPOST_WRITE_DOCS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(
        written,
        page(),
        "RINGPOST_WRITE_DOCS=1 cargo test --test house metric_table writes it"
    );
}

#[test]
fn every_help_text_is_a_sentence() {
    for item in Snapshot::default().items() {
        let (first, name) = (item.help.chars().next(), item.name);
        assert!(
            first.is_some_and(char::is_uppercase),
            "{name}: {}",
            item.help
        );
        assert!(item.help.ends_with('.'), "{name}: {}", item.help);
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The code without blanks, so that a chain over several lines is one text.
fn code_that_counts() -> String {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let texts = files
        .iter()
        .filter(|path| !path.ends_with("metrics.rs"))
        .map(|path| fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// It is a field of what a core counts, or something is done to it that only counters know.
fn is_counted(name: &str, code: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, behind) = (&code[..at], &code[at + name.len()..]);
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let is_whole = !behind.starts_with(is_part);
        let counts = COUNTING.iter().any(|method| behind.starts_with(method));
        is_whole && (before.ends_with("metrics.") || before.ends_with('.') && counts)
    })
}

#[test]
fn nothing_is_declared_that_nobody_counts() {
    let code = code_that_counts();
    for item in Snapshot::default().items() {
        assert!(is_counted(item.name, &code), "nobody counts {}", item.name);
    }
    assert!(!is_counted("sessions_never_counted", &code));
    assert!(!is_counted("delivered", "metrics.delivered_at.add(1)"));
    assert!(!is_counted("sessions", "state.sessions.open()"));
}
