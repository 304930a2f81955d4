//! A temporary directory that is kept when something went wrong.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::random::fresh_seed;

/// A temporary directory for spools and logs, made when it is first asked for.
#[derive(Default)]
pub struct Scratch(Option<PathBuf>);

impl Scratch {
    pub fn directory(&mut self) -> io::Result<&Path> {
        let path = match self.0.take() {
            Some(path) => path,
            None => scratch_directory()?,
        };
        Ok(self.0.insert(path))
    }

    /// Removes the directory after a clean run; otherwise (also when dropped without this) says
    /// where it is.
    pub fn tidy(&mut self, clean: bool) {
        let Some(path) = self.0.take() else {
            return;
        };
        if clean {
            let _ = fs::remove_dir_all(path);
        } else {
            eprintln!("spool and log of the relay are kept in {}", path.display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.tidy(false);
    }
}

fn scratch_directory() -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("ringpost-loadtest-{:016x}", fresh_seed()));
    fs::create_dir(&path)?;
    Ok(path)
}
