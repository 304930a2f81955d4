//! Watches the layers: who imports whom, who names which crate, and what pure rooms must not know.
//!
//! Reads the sources as text. Comments, literals and test code are taken out first. A permission
//! that nobody uses any more fails too, and so does a rule that the planted violations below get
//! past.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room imports only from rooms of a lower level. `src/lib.rs` shows the same table to people.
const LEVELS: [&[&str]; 6] = [
    &["text", "domain", "message", "time", "metrics", "log"],
    &["smtp", "schedule"],
    &["io", "tls", "spool", "handoff", "policy", "privilege"],
    &["listener", "session", "delivery", "remote", "transfer"],
    &["config"],
    &["engine"],
];

/// What may be imported within a level, and why.
const WITHIN_A_LEVEL: [(&str, &str, &str); 16] = [
    ("message", "domain", "a mailbox has a domain"),
    ("log", "message", "lines show mailboxes, ids and TLS"),
    ("log", "time", "lines begin with the time"),
    ("log", "text", "numbers are most of a line"),
    ("message", "text", "an id is three numbers"),
    ("schedule", "smtp", "verdicts are made from replies"),
    ("tls", "io", "a stream is a socket with TLS on it"),
    ("spool", "io", "files, and memory that the disk can use"),
    ("handoff", "spool", "a message travels with its place"),
    (
        "privilege",
        "io",
        "whether a directory could be made is asked of the disk",
    ),
    ("handoff", "io", "an accepted connection travels, too"),
    (
        "policy",
        "io",
        "which cells an address has is nobody's business",
    ),
    (
        "handoff",
        "tls",
        "a body in memory begins where TLS encrypts it fastest",
    ),
    (
        "handoff",
        "policy",
        "an accepted connection has come to a port",
    ),
    ("listener", "session", "an accepted connection is served"),
    ("delivery", "remote", "a job is lent to a connection"),
];

/// Crates that only some places may name: the crate's own word is spoken there, and nowhere else.
const CRATES: [(&str, &[&str]); 21] = [
    // Whoever normalises names elsewhere compares other forms.
    ("idna", &["domain"]),
    ("tokio_uring", &["io"]),
    ("io_uring", &["io"]),
    ("socket2", &["io"]),
    ("slab", &["io"]),
    // The flags of `open(2)` and the error codes of the disk; the numbers of system calls.
    (
        "libc",
        &["io", "spool/log/segment.rs", "privilege/syscalls.rs"],
    ),
    ("landlock", &["privilege"]),
    ("seccompiler", &["privilege"]),
    ("caps", &["privilege"]),
    ("nix", &["io", "privilege"]),
    // Sockets are taken over by `io`, because that is unsafe.
    ("sd_notify", &["engine/service.rs", "io/handed_over.rs"]),
    ("rustls", &["tls"]),
    ("rustls_pki_types", &["tls"]),
    ("rustls_native_certs", &["tls"]),
    ("webpki", &["tls"]),
    ("rcgen", &["tls"]),
    // Random numbers are everybody's, and no part of TLS.
    ("ring", &["tls", "io/kernel/random.rs"]),
    ("crossbeam", &["handoff"]),
    ("arc_swap", &["handoff", "spool"]),
    ("hickory_resolver", &["io"]),
    ("clap", &["config"]),
];

/// No I/O, no clock, no random number, nothing shared between threads: events and the time go in,
/// actions come out.
const PURE: [&str; 18] = [
    "message.rs",
    "time.rs",
    "smtp",
    "schedule",
    "spool/format",
    "spool/log/commit.rs",
    "spool/live/liveness.rs",
    "spool/live/liveness/outcomes.rs",
    "spool/recovery/commits.rs",
    "spool/recovery/found.rs",
    "spool/recovery/known.rs",
    "spool/recovery/report.rs",
    "spool/recovery/scan.rs",
    "spool/recovery/window.rs",
    "spool/shortage.rs",
    "tls/failures.rs",
    "remote/resolve/line.rs",
    "remote/resolve/servers.rs",
];

const NOT_IN_PURE_ROOMS: [&str; 22] = [
    "Arc",
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "LazyLock",
    "AtomicBool",
    "AtomicU32",
    "AtomicU64",
    "AtomicUsize",
    "Instant",
    "SystemTime",
    "rand",
    "tokio",
    "async",
    "await",
    "thread",
    "fs",
    "env",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
];

/// All that pure rooms may take from `io`: memory, no operations.
const MEMORY_FOR_THE_DISK: [&str; 3] = ["crate", "io", "buffer"];

/// Where the clocks are read.
const CLOCKS: [&str; 2] = ["io/kernel/clock.rs", "io/simulated/clock.rs"];

/// What a running relay gets from `io` alone, so that all of it can be simulated there; and who may take it
/// elsewhere, because that is done once, before the rings start, or on a thread outside of the message path.
const THROUGH_IO: [(&[&str], &[&str]); 10] = [
    (&["tokio", "time"], &["io"]),
    (&["tokio", "task"], &["io"]),
    (&["tokio", "runtime"], &["io"]),
    (
        &["std", "fs"],
        &[
            "io",
            "config",
            "privilege",
            "tls/certificate.rs",
            "transfer",
            "engine/confinement.rs",
            "engine/log.rs",
            "engine/placement.rs",
            "engine/stderr.rs",
        ],
    ),
    (&["std", "time", "Instant"], &["io"]),
    // Whether name servers are there is asked once, before the rings start.
    (
        &["std", "net", "UdpSocket"],
        &["io", "remote/resolve/probe.rs"],
    ),
    (&["std", "process", "id"], &["io"]),
    // Which lines of a flood are not written decides nothing else.
    (&["std", "hash", "RandomState"], &["io", "log/throttle.rs"]),
    (&["std", "collections", "hash_map", "RandomState"], &["io"]),
    (&["ring", "rand"], &["io"]),
];

/// One source file: its path below `src`, and its code.
struct Source {
    path: String,
    code: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Source {
            path: path.to_owned(),
            code: without_tests(words(text)),
        }
    }

    /// `smtp` for `smtp/server/lines.rs`, `message` for `message.rs`.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or("");
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Places are rooms, folders of rooms, or files.
    fn is_in(&self, places: &[&str]) -> bool {
        let is_in_folder = |place: &str| {
            let rest = self.path.strip_prefix(place);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        places
            .iter()
            .any(|place| self.path == *place || self.room() == *place || is_in_folder(place))
    }

    /// How many modules deep this file is: 1 for `message.rs` and `smtp/mod.rs`.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        parts - usize::from(self.path.ends_with("/mod.rs"))
    }
}

/// Identifiers and single signs; comments and literals are gone.
fn words(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let c = bytes[at];
        at += if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if c.is_ascii_alphabetic() || c == b'_' {
            let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let length = bytes[at..].iter().take_while(|b| is_part(b)).count();
            words.push(rest[..length].to_owned());
            length
        } else {
            if c.is_ascii_punctuation() {
                words.push((c as char).to_string());
            }
            rest.chars().next().map_or(1, char::len_utf8)
        };
    }
    words
}

/// The length of the string or character literal that `rest` begins with.
fn literal(rest: &str) -> Option<usize> {
    let unprefixed = rest.trim_start_matches(['b', 'c', 'r']);
    let prefix = rest.len() - unprefixed.len();
    if prefix > 2 {
        return None;
    }
    let hashes = unprefixed.len() - unprefixed.trim_start_matches('#').len();
    let is_raw = rest[..prefix].ends_with('r');
    if is_raw && unprefixed[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        let length = rest[start..].find(&end)?;
        return Some(start + length + end.len());
    }
    let quote = unprefixed.chars().next()?;
    if hashes > 0 || !(quote == '"' || quote == '\'' && is_character(unprefixed)) {
        return None;
    }
    let mut escaped = false;
    for (position, c) in rest[prefix + 1..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(prefix + 1 + position + 1),
            _ => {}
        }
    }
    None
}

/// `'a'` is a character, `'a` is a lifetime.
fn is_character(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    chars.next() == Some('\\') || chars.next() == Some('\'')
}

/// Takes out whatever stands behind `#[cfg(test)]`: a statement, or an item with its braces.
fn without_tests(words: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut code = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        if words[at..].iter().take(MARK.len()).eq(MARK.iter()) {
            at += MARK.len();
            at += item_length(&words[at..]);
        } else {
            code.push(words[at].clone());
            at += 1;
        }
    }
    code
}

fn item_length(words: &[String]) -> usize {
    let mut depth = 0_usize;
    for (position, word) in words.iter().enumerate() {
        match word.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return position + 1,
            _ => {}
        }
        if word == "}" && depth == 0 {
            return position + 1;
        }
    }
    words.len()
}

/// Every path of the code, groups written out: `crate::{a, b::c}` is two.
fn paths(code: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let begins = is_name(&code[at]) && !follows_path_sign(code, at);
        if begins && is_path_sign(code, at + 1) {
            at = read_path(code, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path that begins at `at` with the names `before` in front; where it ends.
fn read_path(
    code: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match code.get(at).map(String::as_str) {
            Some("{") => return read_group(code, at + 1, &path, found),
            Some(name) if is_name(name) => path.push(name.to_owned()),
            // `::<T>` or `::*`
            _ => break,
        }
        at += 1;
        if !is_path_sign(code, at) {
            break;
        }
        at += 2;
    }
    found.push(path);
    at
}

fn read_group(
    code: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    while at < code.len() {
        match code[at].as_str() {
            "}" => return at + 1,
            "{" => at = read_group(code, at + 1, before, found),
            "as" => at += 2,
            name if is_name(name) => at = read_path(code, at, before, found),
            _ => at += 1,
        }
    }
    at
}

fn is_name(word: &str) -> bool {
    const NO_NAMES: [&str; 6] = ["use", "as", "in", "dyn", "impl", "return"];
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !NO_NAMES.contains(&word)
}

fn is_path_sign(code: &[String], at: usize) -> bool {
    code.get(at).is_some_and(|word| word == ":") && code.get(at + 1).is_some_and(|word| word == ":")
}

/// `b` in `a::b`, not in `use ::b`, which begins at the crates.
fn follows_path_sign(code: &[String], at: usize) -> bool {
    at >= 3 && is_path_sign(code, at - 2) && (code[at - 3] == ">" || is_name(&code[at - 3]))
}

fn level_of(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// Which room a path leads to; `None` if it stays where it is or leaves the crate.
fn room_of_path<'a>(source: &Source, path: &'a [String]) -> Option<&'a str> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    let from_root = match path[0].as_str() {
        "crate" => &path[1..],
        "super" if supers >= source.depth() => &path[supers..],
        _ => return None,
    };
    let room = from_root.first()?.as_str();
    (room != source.room()).then_some(room)
}

/// What is wrong with a file. What it used of [`WITHIN_A_LEVEL`] goes into `used`.
fn violations(source: &Source, used: &mut BTreeSet<(String, String)>) -> Vec<String> {
    let mut found = Vec::new();
    // `main` and the map stand above all rooms.
    if !source.is_in(&["main", "lib"]) {
        found.extend(layer_violations(source, used));
    }
    found.extend(crate_violations(source));
    if source.is_in(&PURE) {
        found.extend(purity_violations(source));
    }
    if !source.is_in(&CLOCKS) && reads_a_clock(source) {
        found.push("reads a clock".to_owned());
    }
    found.extend(violations_of_the_seam(source));
    if !source.is_in(&["io"]) && source.code.iter().any(|word| word == "unsafe") {
        found.push("is unsafe".to_owned());
    }
    found
        .into_iter()
        .map(|what| format!("src/{} {what}", source.path))
        .collect()
}

fn layer_violations(source: &Source, used: &mut BTreeSet<(String, String)>) -> Vec<String> {
    let room = source.room();
    let Some(own) = level_of(room) else {
        return vec![format!("is in no room that has a level: {room}")];
    };
    let mut found = Vec::new();
    for path in paths(&source.code) {
        let Some(other) = room_of_path(source, &path) else {
            continue;
        };
        let allowed = WITHIN_A_LEVEL
            .iter()
            .any(|(from, to, _)| (*from, *to) == (room, other));
        match level_of(other) {
            Some(level) if level < own => {}
            Some(level) if level == own && allowed => {
                used.insert((room.to_owned(), other.to_owned()));
            }
            _ => found.push(format!("imports {}", path.join("::"))),
        }
    }
    found
}

fn crate_violations(source: &Source) -> Vec<String> {
    let named: BTreeSet<String> = paths(&source.code)
        .into_iter()
        .map(|path| path[0].clone())
        .collect();
    CRATES
        .iter()
        .filter(|(name, places)| named.contains(*name) && !source.is_in(places))
        .map(|(name, _)| format!("names {name}"))
        .collect()
}

fn violations_of_the_seam(source: &Source) -> Vec<String> {
    let paths: BTreeSet<Vec<String>> = paths(&source.code).into_iter().collect();
    let mut found: Vec<String> = THROUGH_IO
        .iter()
        .filter(|(name, places)| {
            let is_named = paths
                .iter()
                .any(|path| path.iter().take(name.len()).eq(*name));
            is_named && !source.is_in(places)
        })
        .map(|(name, _)| format!("goes past io to {}", name.join("::")))
        .collect();
    if source.code.iter().any(|word| word == "thread_local") && !source.is_in(&["io"]) {
        found.push("has values of a thread: take core_local".to_owned());
    }
    let asks = |it: &[String]| it[0] == "." && ["exists", "try_exists"].contains(&it[1].as_str());
    let may_ask = THROUGH_IO[3].1;
    if source.code.windows(2).any(asks) && !source.is_in(may_ask) {
        found.push("asks a path whether it is there: take io::fs::exists".to_owned());
    }
    let looks = |it: &[String]| it[0] == "." && ["addr", "as_ptr"].contains(&it[1].as_str());
    if source.code.windows(2).any(looks) && !source.is_in(&["io"]) {
        found.push("asks where memory lies: take io::page_offset".to_owned());
    }
    // Without it the order of looking is drawn from random numbers of the library.
    let selects = source
        .code
        .windows(4)
        .filter(|it| it[0] == "select" && it[1] == "!");
    if selects.into_iter().any(|it| it[3] != "biased") {
        found.push("selects in a random order".to_owned());
    }
    found
}

fn purity_violations(source: &Source) -> Vec<String> {
    let mut found: Vec<String> = NOT_IN_PURE_ROOMS
        .iter()
        .filter(|word| source.code.iter().any(|other| other == *word))
        .map(|word| format!("is pure and says {word}"))
        .collect();
    for path in paths(&source.code) {
        let operates = path.starts_with(&["crate".to_owned(), "io".to_owned()])
            && !path.iter().take(3).eq(MEMORY_FOR_THE_DISK.iter());
        if operates {
            found.push(format!("is pure and takes {}", path.join("::")));
        }
    }
    found
}

fn reads_a_clock(source: &Source) -> bool {
    paths(&source.code).iter().any(|path| {
        let [.., clock, now] = &path[..] else {
            return false;
        };
        let is_clock = clock == "Instant"
            || clock == "SystemTime"
            || clock == "OffsetDateTime"
            || clock == "UtcDateTime";
        is_clock && now.starts_with("now")
    })
}

/// Every source file that is not itself a test.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("below src");
            let path = path.to_str().expect("our names are ASCII");
            (path.to_owned(), file)
        })
        .filter(|(path, _)| {
            !path
                .split('/')
                .any(|part| part.trim_end_matches(".rs") == "tests")
        })
        .map(|(path, file)| Source::new(&path, &fs::read_to_string(file).expect("readable")))
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn rooms_keep_to_their_layers() {
    let sources = sources();
    let mut used = BTreeSet::new();
    let found: Vec<String> = sources
        .iter()
        .flat_map(|source| violations(source, &mut used))
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));

    let rooms: BTreeSet<&str> = sources.iter().map(Source::room).collect();
    let known = LEVELS.iter().flat_map(|rooms| rooms.iter());
    let missing: Vec<&&str> = known.filter(|room| !rooms.contains(**room)).collect();
    assert!(missing.is_empty(), "no such rooms: {missing:?}");
    for (from, to, why) in WITHIN_A_LEVEL {
        let is_used = used.contains(&(from.to_owned(), to.to_owned()));
        assert!(is_used, "{from} -> {to} ({why}) is allowed, but not used");
    }
}

/// The table of `src/lib.rs` is the one that is watched.
#[test]
fn the_map_shows_these_levels() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("readable");
    for (level, rooms) in LEVELS.iter().enumerate() {
        let row = map
            .lines()
            .find(|line| line.starts_with(&format!("//! | {level} |")))
            .unwrap_or_else(|| panic!("the map has no level {level}"));
        let shown: BTreeSet<&str> = row.split('|').nth(2).map_or_else(BTreeSet::new, |cell| {
            cell.split('`').skip(1).step_by(2).collect()
        });
        let watched: BTreeSet<&str> = rooms.iter().copied().collect();
        assert_eq!(shown, watched, "level {level}");
    }
}

/// What a room may ask of one host it may ask of the other.
#[test]
fn both_hosts_offer_the_same() {
    let sources = sources();
    let offered = |host: &str, module: &str| -> BTreeSet<String> {
        let path = format!("io/{host}/{module}.rs");
        let source = sources.iter().find(|it| it.path == path);
        let code = &source.unwrap_or_else(|| panic!("no {path}")).code;
        let items = code.windows(4).filter(|it| {
            it[0] == "pub" && ["fn", "async", "struct", "const"].contains(&it[1].as_str())
        });
        items
            .map(|it| it[if it[1] == "async" { 3 } else { 2 }].clone())
            .filter(|name| name != "new")
            .collect()
    };
    for module in [
        "clock",
        "dns",
        "interfaces",
        "operations",
        "random",
        "runtime",
        "sockets",
    ] {
        let (kernel, simulated) = (offered("kernel", module), offered("simulated", module));
        let missing: Vec<&String> = kernel.difference(&simulated).collect();
        assert!(missing.is_empty(), "{module}: {missing:?}");
    }
}

fn found_in(path: &str, text: &str) -> Vec<String> {
    violations(&Source::new(path, text), &mut BTreeSet::new())
}

/// The canaries: each of these must be seen.
#[test]
fn planted_violations_are_found() {
    for (path, text, complaint) in [
        (
            "smtp/server.rs",
            "use crate::io::net::Socket;",
            "imports crate::io::net::Socket",
        ),
        (
            "smtp/server.rs",
            "fn f() { crate::spool::open() }",
            "imports crate::spool::open",
        ),
        (
            "session/mod.rs",
            "use crate::{log::Log, delivery::Delivery};",
            "imports crate::delivery::Delivery",
        ),
        (
            "delivery/mod.rs",
            "use crate::session;",
            "imports crate::session",
        ),
        (
            "tls/mod.rs",
            "use super::engine::run;",
            "imports super::engine::run",
        ),
        (
            "tls/client.rs",
            "use super::super::session::serve;",
            "imports super::super::session::serve",
        ),
        (
            "spool/mod.rs",
            "use crate::handoff::job::Job;",
            "imports crate::handoff::job::Job",
        ),
        (
            "io/net.rs",
            "use crate::{\n    time::Now, // fine\n    tls::{self, Session},\n};",
            "imports crate::tls::self",
        ),
        (
            "delivery/mod.rs",
            "tokio_uring::spawn(async {});",
            "names tokio_uring",
        ),
        (
            "session/mod.rs",
            "use ::io_uring::opcode;",
            "names io_uring",
        ),
        (
            "remote/connection.rs",
            "use rustls::ClientConfig;",
            "names rustls",
        ),
        (
            "remote/resolve/pool.rs",
            "use hickory_resolver::TokioResolver;",
            "names hickory_resolver",
        ),
        (
            "remote/resolve/own.rs",
            "use std::net::{IpAddr, UdpSocket};",
            "goes past io to std::net::UdpSocket",
        ),
        (
            "spool/recovery/recover.rs",
            "use ring::rand::SystemRandom;",
            "names ring",
        ),
        (
            "spool/live/shared.rs",
            "use crossbeam::queue::ArrayQueue;",
            "names crossbeam",
        ),
        (
            "schedule/retry.rs",
            "use std::sync::{Arc, Mutex};",
            "is pure and says Arc",
        ),
        (
            "schedule/retry.rs",
            "use std::sync::{Arc, Mutex};",
            "is pure and says Mutex",
        ),
        (
            "smtp/trace.rs",
            "let t = std::time::SystemTime::now();",
            "is pure and says SystemTime",
        ),
        (
            "spool/log/commit.rs",
            "async fn write() {}",
            "is pure and says async",
        ),
        (
            "spool/format/record.rs",
            "use crate::io::{buffer::BLOCK_BYTES, file::File};",
            "is pure and takes crate::io::file::File",
        ),
        ("session/mod.rs", "let t = Instant::now();", "reads a clock"),
        (
            "spool/live/shared.rs",
            "tokio::time::sleep(wait).await;",
            "goes past io to tokio::time",
        ),
        (
            "spool/log/segment.rs",
            "use std::fs::{self, File};",
            "goes past io to std::fs",
        ),
        (
            "session/rates.rs",
            "use std::hash::{BuildHasher, RandomState};",
            "goes past io to std::hash::RandomState",
        ),
        (
            "tls/mod.rs",
            "thread_local! { static SEEN: Cell<u64> = Cell::new(0); }",
            "has values of a thread: take core_local",
        ),
        (
            "spool/recovery/directory.rs",
            "if path.exists() {}",
            "asks a path whether it is there: take io::fs::exists",
        ),
        (
            "tls/session.rs",
            "let past_page = plain.as_ptr().addr() % PAGE_BYTES;",
            "asks where memory lies: take io::page_offset",
        ),
        (
            "delivery/mod.rs",
            "tokio::select! { () = self.stirred.notified() => {} }",
            "selects in a random order",
        ),
        (
            "handoff/mod.rs",
            "unsafe { core::hint::unreachable_unchecked() }",
            "is unsafe",
        ),
        ("engine/mod.rs", "nix::unistd::setgroups(&[])", "names nix"),
        (
            "milter/mod.rs",
            "",
            "is in no room that has a level: milter",
        ),
    ] {
        let complaint = format!("src/{path} {complaint}");
        let found = found_in(path, text);
        assert!(found.contains(&complaint), "{complaint}: found {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_complained_about() {
    for (path, text) in [
        (
            "smtp/server.rs",
            "use crate::message::Envelope; // not crate::io::net",
        ),
        (
            "smtp/server.rs",
            "/* use crate::io::net; */ let s = \"crate::io::net \\\" unsafe\";",
        ),
        (
            "smtp/server.rs",
            "let c = '\"'; let r = r#\"unsafe \" Arc\"#; fn f<'a>(x: &'a str) {}",
        ),
        (
            "smtp/server.rs",
            "#[cfg(test)]\nmod tests { use std::sync::Arc; mod a { } }\nstruct S;",
        ),
        (
            "smtp/server.rs",
            "#[cfg(test)]\nuse std::sync::Arc;\nuse super::data; fn f() {}",
        ),
        ("smtp/server/lines.rs", "use super::super::data;"),
        (
            "smtp/mod.rs",
            "fn f(v: Vec<u8>) { String::from_utf8(v).unwrap(); }",
        ),
        (
            "spool/log/commit.rs",
            "use crate::io::buffer::{AlignedBuf, BLOCK_BYTES};",
        ),
        ("listener/mod.rs", "use crate::session::{self, Context};"),
        (
            "tls/mod.rs",
            "use rustls::crypto::ring::default_provider; use ring::digest;",
        ),
        ("session/mod.rs", "let now = crate::io::clock::now();"),
        (
            "delivery/mod.rs",
            "tokio::select! { biased; () = notified => {} }",
        ),
        ("engine/placement.rs", "use std::fs;"),
        (
            "main.rs",
            "use ringpost::engine; use crate::engine::placement;",
        ),
    ] {
        assert_eq!(found_in(path, text), [""; 0], "{path}: {text}");
    }
}
