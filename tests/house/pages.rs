//! The pages as a reader meets them: links lead somewhere, files that are named exist, lines are short, and so is README.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Columns of a line; tables and what programs print may be wider.
const COLUMNS_MAX: usize = 120;

const README_LINES_MAX: usize = 150;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each page with its text, by its path below the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let files = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(root().join(dir)).expect("our own directory");
        let names = entries.map(|entry| dir.join(entry.expect("an entry").file_name()));
        names.collect()
    };
    let mut found = files(Path::new(""));
    found.extend(files(Path::new("docs")));
    found.retain(|path| path.extension().is_some_and(|it| it == "md"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).expect("a page");
        (path, text)
    };
    found.into_iter().map(read).collect()
}

/// The lines outside of code blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    let numbered = text.lines().enumerate();
    numbered.filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| -> String {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// What is between `](` and `)`.
fn links(text: &str) -> Vec<&str> {
    let behind = text.split("](").skip(1);
    behind
        .filter_map(|it| Some(it.split_once(')')?.0))
        .collect()
}

/// Links of one page that lead nowhere.
fn dead_links(pages: &BTreeMap<PathBuf, String>, page: &Path, text: &str) -> Vec<String> {
    let here = page.parent().expect("a file has one");
    let leads = |link: &&str| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => page.to_owned(),
            _ => normal(&here.join(file)),
        };
        match anchor {
            "" => root().join(target).exists(),
            _ => pages
                .get(&target)
                .is_some_and(|text| anchors(text).contains(anchor)),
        }
    };
    let links = links(text).into_iter();
    let inside = links.filter(|link| !link.starts_with("http"));
    inside
        .filter(|link| !leads(link))
        .map(str::to_owned)
        .collect()
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part.as_os_str() == ".." {
            true => _ = parts.pop(),
            false => parts.push(part),
        }
    }
    parts
}

fn wide_lines(text: &str) -> Vec<usize> {
    let is_wide =
        |line: &str| line.chars().count() > COLUMNS_MAX && !line.trim_start().starts_with('|');
    let wide = prose(text).filter(|(_, line)| is_wide(line));
    wide.map(|(number, _)| number).collect()
}

fn rust_files(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("our own directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        match path.is_dir() {
            true if name.is_some_and(|name| name.starts_with('.') || name == "target") => {}
            true => rust_files(&path, found),
            false if name.is_some_and(|name| name.ends_with(".rs")) => {
                found.push(path.display().to_string());
            }
            false => {}
        }
    }
}

/// Source files that a page names in backticks, by as much of their path as it likes.
fn named_files(text: &str) -> BTreeSet<&str> {
    let codes = prose(text).flat_map(|(_, line)| line.split('`').skip(1).step_by(2));
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_/.".contains(c);
    let names = codes.filter(|code| code.ends_with(".rs") && code.chars().all(is_part));
    names.collect()
}

#[test]
fn source_files_that_pages_name_exist() {
    let mut files = Vec::new();
    rust_files(root(), &mut files);
    let exists = |name: &&str| {
        let end = format!("/{name}");
        files.iter().any(|file| file.ends_with(&end))
    };
    let mut seen = 0;
    for (page, text) in pages() {
        let named = named_files(&text);
        seen += named.len();
        let gone: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(gone.is_empty(), "{}: {gone:?}", page.display());
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    assert!(pages.len() >= 9, "{:?}", pages.keys());
    let mut seen = 0;
    for (page, text) in &pages {
        let dead = dead_links(&pages, page, text);
        assert!(dead.is_empty(), "{}: {dead:?}", page.display());
        seen += links(text).len();
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn lines_are_short() {
    for (page, text) in pages() {
        let wide = wide_lines(&text);
        assert!(
            wide.is_empty(),
            "{}: wider than {COLUMNS_MAX} columns: lines {wide:?}",
            page.display()
        );
    }
}

#[test]
fn the_readme_is_short() {
    let lines = pages()[Path::new("README.md")].lines().count();
    assert!(lines <= README_LINES_MAX, "{lines}");
}

#[test]
fn planted_mistakes_are_found() {
    let text = "# A `b`: c's\n\n[x](#a-b-cs) [y](#nothing) [z](docs/log.md#nothing)\n";
    let mut pages = pages();
    let page = PathBuf::from("planted.md");
    pages.insert(page.clone(), text.to_owned());
    assert_eq!(
        dead_links(&pages, &page, text),
        ["#nothing", "docs/log.md#nothing"]
    );
    let named = named_files("see `spool/gone.rs`, `x.md`\n```\n`in/code.rs`\n```\n");
    assert_eq!(named, BTreeSet::from(["spool/gone.rs"]));
    let wide = "a ".repeat(COLUMNS_MAX);
    let text = format!("{wide}\n```\n{wide}\n```\n| {wide} |\n");
    assert_eq!(wide_lines(&text), [1]);
}
