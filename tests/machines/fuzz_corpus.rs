//! The corpora of the fuzz targets, run through the same functions as `cargo fuzz` runs.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn corpus(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{directory:?} is empty");
    files
}

/// A panic names the file: `cargo fuzz run NAME FILE` repeats it.
fn run_corpus(name: &str) {
    for file in corpus(name) {
        let input = fs::read(&file).expect("readable");
        let result = std::panic::catch_unwind(|| targets::run(name, &input));
        assert!(result.is_ok(), "{name} fails on {}", file.display());
    }
}

macro_rules! corpora {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run_corpus(stringify!($name));
        })*

        /// No target is without its test.
        #[test]
        fn each_target_is_here() {
            let here = [$(stringify!($name)),*];
            assert_eq!(targets::TARGETS.map(|(name, _)| name), here);
        }
    };
}

corpora! {
    address
    certificate
    command
    config
    content
    mx
    reply
    smtp_client
    smtp_server
    spool
    spool_record
    tls
}
