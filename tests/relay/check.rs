//! `--check` beside the start that it judges: both are run over the same configurations and must agree, in
//! their verdict and in what they say. A check leaves no trace.
//!
//! What another process does is left out on purpose: a port or a spool that is in use is no fault of the
//! configuration, and a relay that runs is in the way of its own check.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::relay::{Home, PROGRAM, set_mode};

/// How a configuration ends: what is printed besides, and whether the relay gets ready.
#[derive(PartialEq, Eq, Debug)]
enum End {
    Good,
    /// With its complaints, without the word before them.
    Bad(String),
}

/// One configuration in a place of its own.
struct Case {
    home: Home,
    flags: Vec<String>,
    /// Who starts it; `None`: whoever runs the tests.
    user: Option<u32>,
    /// Files that may be open at a time.
    open_files: Option<u32>,
    /// No --segment-size, which makes a larger spool.
    segments_by_default: bool,
}

impl Case {
    fn new() -> Self {
        Case {
            home: Home::new(),
            flags: Vec::new(),
            user: None,
            open_files: None,
            segments_by_default: false,
        }
    }

    fn with(flags: &[&str]) -> Self {
        Case::new().and(flags)
    }

    fn and(mut self, flags: &[&str]) -> Self {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn by(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// A flag whose value is a file of this case.
    fn file(self, flag: &str, name: &str, text: &str) -> Self {
        let path = self.home.file(name, text);
        self.and(&[flag, &path])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    fn command(&self) -> Command {
        let mut command = match self.open_files {
            None => Command::new(PROGRAM),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most} && exec {PROGRAM} \"$@\"")]);
                shell.arg("sh");
                shell
            }
        };
        let defaults = [
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--hostname", "relay.test".to_owned()),
            ("--segment-size", "4MiB".to_owned()),
            ("--ingress-cores", "0".to_owned()),
            ("--delivery-cores", "0".to_owned()),
            ("--spool", self.path("spool").display().to_string()),
            ("--tls-dir", self.path("tls").display().to_string()),
        ];
        command.env_clear().env("HOME", self.path("."));
        let is_wanted = |flag: &str| flag != "--segment-size" || !self.segments_by_default;
        for (flag, value) in defaults.iter().filter(|(flag, _)| is_wanted(flag)) {
            if !self.flags.iter().any(|given| given == flag) {
                command.args([flag, value.as_str()]);
            }
        }
        if !self.flags.iter().any(|given| given == "--pinned") {
            command.arg("--no-pin");
        }
        command.args(self.flags.iter().filter(|flag| *flag != "--pinned"));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.stdin(Stdio::null());
        command
    }

    fn check(&self) -> End {
        let output = self.command().arg("--check").output().expect("it runs");
        let text = String::from_utf8(output.stderr).expect("text");
        match output.status.code() {
            Some(0) => End::Good,
            Some(2) => End::Bad(complaints(text.lines())),
            other => panic!("--check ends with {other:?}: {text}"),
        }
    }

    /// Runs it until it is ready or has ended; then it is killed.
    fn start(&self) -> End {
        let mut command = self.command();
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let stderr = child.stderr.take().expect("it was asked for");
        let mut lines = Vec::new();
        let mut is_ready = false;
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            is_ready = line.split(' ').nth(2) == Some("ready");
            lines.push(line);
            if is_ready {
                child.kill().expect("a child of ours");
                break;
            }
        }
        let status = child.wait().expect("a child of ours");
        if is_ready {
            return End::Good;
        }
        assert!(matches!(status.code(), Some(1 | 2)), "{status}: {lines:?}");
        End::Bad(complaints(lines.iter().map(String::as_str)))
    }
}

/// What is said of the configuration, without log lines and without who says it.
fn complaints<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let said = lines.filter_map(|line| {
        line.strip_prefix("error: ")
            .or_else(|| line.strip_prefix("ringpost: "))
    });
    said.collect::<Vec<_>>().join("\n")
}

/// Everything below a directory, with what a change would show in.
fn traces(directory: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).expect("our own file");
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).expect("our own directory");
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let seen = (metadata.mode(), metadata.len(), modified.0, modified.1);
        found.insert(path, seen);
    }
    found
}

/// Checks and starts the same configuration; both end as they should, and say the same.
#[track_caller]
fn agree(name: &str, case: &Case, expected: Result<(), &str>) {
    let before = traces(&case.path("."));
    let checked = case.check();
    assert_eq!(
        traces(&case.path(".")),
        before,
        "{name}: a check leaves traces"
    );
    let started = case.start();
    assert_eq!(checked, started, "{name}: --check, and the start");
    match (&checked, expected) {
        (End::Good, Ok(())) => {}
        (End::Bad(text), Err(part)) => {
            assert!(text.contains(part), "{name}: {part:?} in {text:?}");
        }
        _ => panic!("{name}: {checked:?} instead of {expected:?}"),
    }
}

#[test]
fn what_only_a_start_finds_is_named_with_its_line_too() {
    let home = Home::new();
    let key = home.file("key.pem", "no key\n");
    set_mode(Path::new(&key), 0o666);
    for (line, complaint) in [
        ("--user nobody-at-all".to_owned(), "nobody-at-all"),
        ("--source-address 192.0.2.1".to_owned(), "192.0.2.1"),
        ("--listen 192.0.2.1:2525".to_owned(), "192.0.2.1:2525"),
        (format!("--tls-cert {key}\n--tls-key {key}"), "chmod"),
    ] {
        let flags = home.file("flags", &format!("--no-pin\n{line}\n"));
        let case = Case::with(&[&format!("@{flags}")]);
        agree(&line, &case, Err(complaint));
        agree(&line, &case, Err(&format!("{flags}:2")));
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("our own process").uid() == 0
}

fn id_of(user: &str) -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("the list of users");
    let line = users
        .lines()
        .find(|line| line.starts_with(&format!("{user}:")));
    let fields: Vec<&str> = line.expect("every host has it").split(':').collect();
    fields[2].parse().expect("a number")
}

/// A certificate with its key, both PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn with_certificate(certificate: &str, key: &str) -> Case {
    Case::new()
        .file("--tls-cert", "cert.pem", certificate)
        .file("--tls-key", "key.pem", key)
}

const ENCRYPTED_KEY: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
    MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBCqf0EIYLDlDQ==\n\
    -----END ENCRYPTED PRIVATE KEY-----\n";

#[test]
fn check_and_start_agree_on_certificates_and_keys() {
    let (cert, key) = certificate();
    let (_, other_key) = certificate();
    agree("a good pair", &with_certificate(&cert, &key), Ok(()));
    for (name, cert, key, complaint) in [
        ("a key of another", &*cert, &*other_key, "is not the key of"),
        ("a junk certificate", "junk\n", &*key, "has no certificate"),
        ("an empty certificate", "", &*key, "has no certificate"),
        (
            "a broken certificate",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &*key,
            "is not X.509",
        ),
        ("a junk key", &*cert, "junk\n", "no private key"),
        ("an encrypted key", &*cert, ENCRYPTED_KEY, "is encrypted"),
        (
            "key and certificate changed",
            &*key,
            &*cert,
            "has no certificate",
        ),
    ] {
        agree(name, &with_certificate(cert, key), Err(complaint));
    }
    let loose = with_certificate(&cert, &key);
    set_mode(&loose.path("key.pem"), 0o644);
    agree("a loose key", &loose, Err("chmod 6"));
    let missing = with_certificate(&cert, &key);
    fs::remove_file(missing.path("key.pem")).unwrap();
    agree("a missing key", &missing, Err("No such file"));
    let kept = Case::new();
    assert_eq!(kept.start(), End::Good);
    agree("a kept certificate", &kept, Ok(()));
    set_mode(&kept.path("tls/generated-key.pem"), 0o644);
    agree("a loose kept key", &kept, Err("chmod 600"));
}

#[test]
fn check_and_start_agree_on_trusted_roots() {
    let (cert, _) = certificate();
    let with = |text: &str| Case::new().file("--tls-ca", "ca.pem", text);
    agree("roots", &with(&cert), Ok(()));
    agree("junk roots", &with("junk"), Err("has no certificate"));
    agree("empty roots", &with(""), Err("has no certificate"));
    agree(
        "roots that are not there",
        &Case::with(&["--tls-ca", "/nonexistent/ca.pem"]),
        Err("No such file"),
    );
    agree(
        "roots that are a directory",
        &Case::with(&["--tls-ca", "/proc"]),
        Err("/proc"),
    );
}

#[test]
fn check_and_start_agree_on_routes_and_recipients() {
    let route = "a.test=[192.0.2.1]";
    agree("a route", &Case::with(&["--route", route]), Ok(()));
    let twice = Case::with(&["--route", route, "--route", "A.test=[192.0.2.2]"]);
    agree("a duplicate route", &twice, Err("has a route already"));
    let everything = Case::with(&["--route", "*=[192.0.2.1]", "--route", "*=b.test"]);
    agree(
        "two routes for all",
        &everything,
        Err("has a route already"),
    );
    let file = Case::with(&["--route", route]).file("--routes-file", "routes", "a.test b.test\n");
    agree(
        "a route of flag and file",
        &file,
        Err("has a route already"),
    );
    let bad = Case::new().file("--routes-file", "routes", "\n# none\na.test=192.0.2.1\n");
    agree("a bad line of routes", &bad, Err("routes:3"));
    for flag in ["--routes-file", "--recipients-file", "--relay-domains-file"] {
        let missing = Case::with(&[flag, "/nonexistent/file"]);
        agree(flag, &missing, Err("/nonexistent/file: No such file"));
    }
    let bad = Case::new().file("--recipients-file", "recipients", "a@b.test\nnobody\n");
    agree("a bad line of recipients", &bad, Err("recipients:2"));
    let binary = Case::new();
    fs::write(binary.path("domains"), b"a.test\n\xff\xfe\n").unwrap();
    let path = binary.path("domains").display().to_string();
    let binary = binary.and(&["--relay-domains-file", &path]);
    agree("a file that is no text", &binary, Err("UTF-8"));
}

#[test]
fn check_and_start_agree_on_addresses() {
    let elsewhere = "no such address";
    for (name, flags, expected) in [
        (
            "all addresses and one of them",
            &["--listen", "0.0.0.0:0,127.0.0.1:0"][..],
            Ok(()),
        ),
        (
            "listening at another host",
            &["--listen", "192.0.2.1:2525"],
            Err(elsewhere),
        ),
        (
            "TLS at another host",
            &["--listen-tls", "192.0.2.1:2525"],
            Err(elsewhere),
        ),
        (
            "listening at another host over IPv6",
            &["--listen", "[2001:db8::1]:2525"],
            Err(elsewhere),
        ),
        (
            "connecting from another host",
            &["--source-address", "192.0.2.1"],
            Err(elsewhere),
        ),
        (
            "connecting from another host over IPv6",
            &["--source-address", "2001:db8::1"],
            Err(elsewhere),
        ),
        (
            "connecting from here",
            &["--source-address", "127.0.0.1"],
            Ok(()),
        ),
        (
            "a port twice",
            &[
                "--listen",
                "127.0.0.1:2599",
                "--listen-tls",
                "127.0.0.1:2599",
            ],
            Err("twice"),
        ),
    ] {
        agree(name, &Case::with(flags), expected);
    }
}

#[test]
fn check_and_start_agree_on_a_port_that_only_root_may_have() {
    if !is_root() {
        eprintln!("skipped: only root can start a relay as somebody else");
        return;
    }
    let case = Case::with(&["--listen", "127.0.0.1:125"]).by(id_of("nobody"));
    chown(case.path("."), case.user, None).unwrap();
    agree("port 125", &case, Err("AmbientCapabilities"));
}

#[test]
fn check_and_start_agree_on_the_spool() {
    let sized = |size, cores| {
        Case::with(&["--spool-size", size, "--max-message-size", "1MiB"]).and(&[
            "--ingress-cores",
            cores,
            "--delivery-cores",
            cores,
        ])
    };
    agree("room for one thread", &sized("20MiB", "0"), Ok(()));
    for cores in ["0", "0,0,0"] {
        let mut alone = Case::with(&["--spool-size", "64MiB"]).and(&[
            "--ingress-cores",
            cores,
            "--delivery-cores",
            cores,
        ]);
        alone.segments_by_default = true;
        agree("a small spool and no more said", &alone, Ok(()));
    }
    agree(
        "no room for three threads",
        &sized("56MiB", "0,0,0"),
        Err("at least 60MiB for 3 threads"),
    );
    let dangling = Case::with(&[]);
    symlink("nowhere", dangling.path("spool")).unwrap();
    agree("a link to nothing", &dangling, Err("is a link to nothing"));
    agree(
        "a segment of odd size",
        &Case::with(&["--segment-size", "5000000"]),
        Err("--segment-size 5000000: must be a multiple of 4096 bytes"),
    );
    let large = Case::with(&["--spool-size", "200MiB", "--max-message-size", "50MiB"]).and(&[
        "--ingress-cores",
        "0,0,0,0",
        "--delivery-cores",
        "0,0,0,0",
    ]);
    agree("no room for a message", &large, Err("at least 272MiB"));
    agree(
        "chunks too large",
        &Case::with(&["--chunk-size", "1MiB"]),
        Err("--chunk-size"),
    );

    let spool = |name: &str, arrange: fn(&Path)| {
        let case = Case::new();
        arrange(&case.path("."));
        let path = case.path(name).display().to_string();
        case.and(&["--spool", &path])
    };
    agree("a deep spool", &spool("a/b/c", |_| {}), Ok(()));
    agree(
        "an empty directory that others may enter",
        &spool("open", |home| {
            fs::create_dir(home.join("open")).unwrap();
            set_mode(&home.join("open"), 0o755);
        }),
        Ok(()),
    );
    for (name, case, complaint) in [
        (
            "a spool in /proc",
            Case::with(&["--spool", "/proc/ringpost/spool"]),
            "/proc/ringpost",
        ),
        (
            "a spool that is a file",
            spool("file", |home| fs::write(home.join("file"), "").unwrap()),
            "file",
        ),
        (
            "a spool below a file",
            spool("file/spool", |home| {
                fs::write(home.join("file"), "").unwrap()
            }),
            "Not a directory",
        ),
        (
            "a spool that others may enter",
            spool("open", |home| {
                fs::create_dir(home.join("open")).unwrap();
                fs::write(home.join("open/something"), "").unwrap();
                set_mode(&home.join("open"), 0o755);
            }),
            "chmod 700",
        ),
        (
            "a spool of a newer relay",
            written("version", "9999\n"),
            "newer ringpost",
        ),
        (
            "a spool without a number",
            written("run", "none\n"),
            "holds no number",
        ),
    ] {
        agree(name, &case, Err(complaint));
    }
}

/// A spool that exists, with this in one of its files.
fn written(name: &str, text: &str) -> Case {
    let case = Case::new();
    assert_eq!(case.start(), End::Good);
    fs::write(case.path("spool").join(name), text).unwrap();
    case
}

#[test]
fn check_and_start_agree_on_a_spool_that_exists() {
    let case = Case::new();
    assert_eq!(case.start(), End::Good);
    agree("a spool with segments", &case, Ok(()));
}

#[test]
fn check_and_start_agree_on_direct_writes() {
    // Memory has had direct writes since Linux 6.6; before that both must refuse.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spool = dir.path().join("spool").display().to_string();
    let case = Case::with(&["--spool", &spool, "--spool-durability", "direct"]);
    assert_eq!(case.check(), case.start());
}

#[test]
fn check_and_start_agree_on_the_log() {
    let at = |path: &str| Case::with(&["--log-file", path]);
    for (path, complaint) in [
        (
            "/nonexistent/ringpost/log",
            "--log-file /nonexistent/ringpost/log: No such file",
        ),
        ("/proc/log", "--log-file /proc/log"),
        ("/proc", "--log-file /proc: Is a directory"),
    ] {
        agree(path, &at(path), Err(complaint));
    }
    let pipe = Case::new();
    let path = pipe.path("pipe");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.is_ok_and(|it| it.success()));
    let path = path.display().to_string();
    let pipe = pipe.and(&["--log-file", &path]);
    agree(
        "a pipe that nobody reads",
        &pipe,
        Err("No such device or address"),
    );
}

#[test]
fn a_log_file_is_made_by_the_start_and_not_by_the_check() {
    let case = Case::new();
    let path = case.path("log").display().to_string();
    let case = case.and(&["--log-file", &path]);
    assert_eq!(case.check(), End::Good);
    assert!(!case.path("log").exists());
    fs::write(case.path("log"), "before\n").unwrap();
    assert_eq!(case.check(), End::Good);
    assert_eq!(fs::read_to_string(case.path("log")).unwrap(), "before\n");
}

#[test]
fn check_and_start_agree_on_users() {
    for (user, complaint) in [
        ("no-such-user", "useradd --system"),
        ("root", "without privileges"),
        ("nobody:no-such-group", "groupadd"),
    ] {
        agree(user, &Case::with(&["--user", user]), Err(complaint));
    }
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let open = Case::with(&["--user", "nobody"]);
    set_mode(&open.path("."), 0o711);
    agree("another user", &open, Ok(()));
    let closed = Case::with(&["--user", "nobody"]);
    set_mode(&closed.path("."), 0o700);
    agree(
        "another user's way is barred",
        &closed,
        Err("may not be accessed"),
    );
    let missing = Case::with(&["--user", "nobody", "--spool", "/proc/ringpost/spool"]);
    agree(
        "a spool that root cannot make",
        &missing,
        Err("making /proc/ringpost"),
    );
    let nobody = id_of("nobody");
    let not_root = Case::with(&["--user", "daemon"]).by(nobody);
    chown(not_root.path("."), Some(nobody), None).unwrap();
    agree(
        "another user without root",
        &not_root,
        Err("only root can become"),
    );
}

#[test]
fn check_and_start_agree_on_places_that_a_user_may_not_write() {
    if !is_root() {
        eprintln!("skipped: only root can start a relay as somebody else");
        return;
    }
    let nobody = id_of("nobody");
    let denied = "ermission denied";
    let case = |name: &str, owner: u32, mode: u32, flag: &str, below: &str| {
        let case = Case::new().by(nobody);
        chown(case.path("."), Some(nobody), None).unwrap();
        let directory = case.path(name);
        fs::create_dir(&directory).unwrap();
        chown(&directory, Some(owner), None).unwrap();
        set_mode(&directory, mode);
        let path = directory.join(below).display().to_string();
        case.and(&[flag, &path])
    };
    for (name, case, complaint) in [
        ("a log", case("d", 0, 0o755, "--log-file", "log"), denied),
        (
            "a new spool",
            case("d", 0, 0o755, "--spool", "new/spool"),
            denied,
        ),
        (
            "a spool of root's",
            case("d", 0, 0o755, "--spool", ""),
            "chown -R nobody",
        ),
        (
            "a spool not to write",
            case("d", nobody, 0o500, "--spool", ""),
            denied,
        ),
        (
            "a certificate",
            case("d", 0, 0o755, "--tls-dir", ""),
            "may not be accessed",
        ),
        (
            "a new certificate",
            case("d", 0, 0o755, "--tls-dir", "a/b"),
            "may not be accessed",
        ),
        ("barred", case("d", 0, 0o700, "--spool", "spool"), denied),
    ] {
        agree(name, &case, Err(complaint));
    }
    let log = Case::new().by(nobody);
    chown(log.path("."), Some(nobody), None).unwrap();
    let path = log.home.file("log", "");
    agree(
        "a log of root's",
        &log.and(&["--log-file", &path]),
        Err(denied),
    );
}

#[test]
fn check_and_start_agree_on_what_the_host_has() {
    let cores = [
        "--pinned",
        "--ingress-cores",
        "1023",
        "--delivery-cores",
        "1023",
    ];
    agree(
        "a CPU that is not there",
        &Case::with(&cores),
        Err("CPU 1023"),
    );
    let mut few = Case::new();
    few.open_files = Some(24);
    agree("too few descriptors", &few, Err("LimitNOFILE"));
    // Whatever this kernel has.
    let landlock = Case::with(&["--require-landlock"]);
    assert_eq!(landlock.check(), landlock.start());
}

#[test]
fn check_and_start_agree_on_an_instance_that_is_good() {
    let case = Case::with(&["--listen-tls", "127.0.0.1:0", "--strict-seccomp"]);
    agree("a good relay", &case, Ok(()));
    let mode = fs::metadata(case.path("spool")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
}
