//! What a host gets from `dist/`: the installer into a directory of its own, the unit, the flags.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringpost");

/// A tree as the installer finds it, with the program of these tests as the one that was built.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = |name: &str| tree.path().join(name);
    fs::create_dir_all(place("target/release")).unwrap();
    fs::create_dir(place("dist")).unwrap();
    fs::copy(PROGRAM, place("target/release/ringpost")).unwrap();
    fs::create_dir(place("docs")).unwrap();
    for page in ["README.md", "tuning.md"] {
        fs::copy(here.join(page), place(page)).unwrap();
    }
    for folder in ["dist", "docs"] {
        for entry in fs::read_dir(here.join(folder)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), place(folder).join(entry.file_name())).unwrap();
        }
    }
    tree
}

fn install(tree: &Path, destination: &Path) -> Output {
    Command::new(tree.join("dist/install.sh"))
        .env("DESTDIR", destination)
        .output()
        .expect("the installer runs")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn the_installer_puts_a_stripped_program_units_and_flags_in_place() {
    let (tree, destination) = (tree(), tempfile::tempdir().unwrap());
    let place = |name: &str| -> PathBuf { destination.path().join(name) };
    let output = install(tree.path(), destination.path());
    assert!(output.status.success(), "{}", text(&output));

    let program = place("usr/local/bin/ringpost");
    let metadata = fs::metadata(&program).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    if Command::new("strip").arg("--version").output().is_ok() {
        let built = fs::metadata(PROGRAM).unwrap().len();
        assert!(metadata.len() < built, "{} and {built}", metadata.len());
    }
    let version = Command::new(&program).arg("--version").output().unwrap();
    assert!(
        text(&version).starts_with("ringpost "),
        "{}",
        text(&version)
    );
    let pages = place("usr/local/share/doc/ringpost");
    assert!(pages.join("README.md").is_file() && pages.join("docs/operations.md").is_file());
    assert!(place("etc/systemd/system/ringpost.service").is_file());
    assert!(place("etc/systemd/system/ringpost.socket").is_file());

    // A second installation replaces the program and leaves the flags alone.
    fs::write(place("etc/ringpost/flags"), "--max-hops 50\n").unwrap();
    let output = install(tree.path(), destination.path());
    assert!(output.status.success(), "{}", text(&output));
    let flags = fs::read_to_string(place("etc/ringpost/flags")).unwrap();
    assert_eq!(flags, "--max-hops 50\n");
    let left = fs::read_dir(place("usr/local/bin")).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside the program");
}

#[test]
fn an_installation_without_a_program_says_what_to_do_and_changes_nothing() {
    let (tree, destination) = (tree(), tempfile::tempdir().unwrap());
    fs::remove_file(tree.path().join("target/release/ringpost")).unwrap();
    let output = install(tree.path(), destination.path());
    assert!(!output.status.success());
    assert!(
        text(&output).contains("cargo build --release"),
        "{}",
        text(&output)
    );
    assert_eq!(fs::read_dir(destination.path()).unwrap().count(), 0);
}

#[test]
fn the_installed_flags_are_good_as_they_are() {
    let flags = concat!("@", env!("CARGO_MANIFEST_DIR"), "/dist/flags");
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .args(["--check", flags, "--no-pin", "--ingress-cores", "0"])
        .env_clear()
        .env("STATE_DIRECTORY", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn the_journal_drops_no_line_of_the_service() {
    let unit = include_str!("../dist/ringpost.service");
    assert!(unit.lines().any(|line| line == "LogRateLimitIntervalSec=0"));
}
