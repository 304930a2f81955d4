//! The log table in docs/log.md against the events that the code has, both ways.

use ringpost::log::event::{self, Event};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One row: its events, and the fields that it names.
#[derive(Debug)]
struct Row {
    events: Vec<String>,
    fields: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The name of a field; `report=yes` says one of its values. Flags, replies and paths are none.
fn field_name(code: &str) -> Option<String> {
    let name = code.split('=').next().unwrap_or(code);
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    (begins && name.chars().all(is_name)).then(|| name.to_owned())
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
    let [events, _when, fields] = &cells[..] else {
        panic!("three columns: {line}");
    };
    let mut named = BTreeSet::new();
    for (number, part) in fields.split("as `").enumerate() {
        // "as `delivered`" stands for the fields of that event.
        let (other, rest) = match number {
            0 => (None, part),
            _ => part
                .split_once('`')
                .map(|(name, rest)| (Some(name), rest))
                .expect("a name"),
        };
        if let Some(name) = other {
            named.extend(declared(name).iter().map(|field| (*field).to_owned()));
        }
        named.extend(in_backticks(rest).into_iter().filter_map(field_name));
    }
    if fields
        .split(|c: char| !c.is_ascii_alphabetic())
        .any(|word| word == event::TLS)
    {
        named.insert(event::TLS.to_owned());
    }
    Row {
        events: in_backticks(events)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        fields: named,
    }
}

fn documented() -> Vec<Row> {
    let page = std::fs::read_to_string(root().join("docs/log.md")).expect("the page");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(row).collect()
}

fn declared(name: &str) -> &'static [&'static str] {
    event_named(name).fields().unwrap_or(&[])
}

fn event_named(name: &str) -> &'static Event {
    let found = event::ALL.iter().find(|event| event.name() == name);
    found.unwrap_or_else(|| panic!("docs/log.md has `{name}`, the code has not"))
}

#[test]
fn every_event_is_in_the_table_once_and_none_that_is_not_in_the_code() {
    let rows = documented();
    let mut named: Vec<&str> = rows
        .iter()
        .flat_map(|row| row.events.iter().map(String::as_str))
        .collect();
    named.iter().for_each(|name| _ = event_named(name));
    named.sort_unstable();
    let mut declared: Vec<&str> = event::ALL.iter().map(|event| event.name()).collect();
    declared.sort_unstable();
    assert_eq!(named, declared);
}

/// Events of one row share its list: it has what any of them has.
#[test]
fn the_table_names_the_fields_that_lines_have() {
    for row in documented() {
        let mut declared = BTreeSet::new();
        let mut has_any = false;
        for name in &row.events {
            match event_named(name).fields() {
                Some(fields) => declared.extend(fields.iter().map(|field| (*field).to_owned())),
                None => has_any = true,
            }
        }
        let unknown: Vec<_> = row.fields.difference(&declared).collect();
        let missing: Vec<_> = declared.difference(&row.fields).collect();
        assert!(
            (has_any || unknown.is_empty()) && missing.is_empty(),
            "{:?}: not in the code {unknown:?}, not in docs/log.md {missing:?}",
            row.events
        );
    }
}

#[test]
fn the_page_explains_the_tls_fields() {
    let page = std::fs::read_to_string(root().join("docs/log.md")).expect("the page");
    let line = page.lines().find(|line| line.starts_with("TLS fields: "));
    let named: Vec<_> = in_backticks(line.expect("their explanation"))
        .into_iter()
        .filter_map(field_name)
        .collect();
    for field in event::TLS_FIELDS {
        assert!(named.iter().any(|name| name == field), "{field}: {named:?}");
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("our own directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// What is declared is said somewhere, and nobody makes an event beside the list.
#[test]
fn every_declared_event_is_said() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let said: String = files
        .iter()
        .filter(|path| !path.ends_with("log/event.rs") && !path.ends_with("log/tests.rs"))
        .map(|path| std::fs::read_to_string(path).expect("our own file"))
        .map(|text| {
            text.split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or("")
                .to_owned()
        })
        .collect();
    for event in event::ALL {
        let name = event.name().to_uppercase().replace('-', "_");
        let is_said = said.split("event::").skip(1).any(|rest| {
            rest.split(|c: char| !c.is_ascii_uppercase() && c != '_')
                .next()
                == Some(&name)
        });
        assert!(is_said, "nothing says {}", event.name());
    }
    assert!(
        !said.contains("with_any_fields"),
        "an event beside the list"
    );
}
