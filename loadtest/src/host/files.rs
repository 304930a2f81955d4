//! Files that the user names: what goes wrong with one says which.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(named(path))?;
    Ok(bytes)
}

pub fn open(path: &Path) -> io::Result<File> {
    File::open(path).map_err(named(path))
}

pub fn create(path: &Path) -> io::Result<File> {
    File::create(path).map_err(named(path))
}

pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    fs::write(path, bytes).map_err(named(path))
}

/// Fails as [`write()`] would, and leaves everything as it is: asked before a test that takes long.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let was_there = path.exists();
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(named(path))?;
    match was_there {
        true => Ok(()),
        false => fs::remove_file(path).map_err(named(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_named_before_the_test() {
        let dir = std::env::temp_dir().join(format!("loadtest-files-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (good, bad) = (dir.join("page"), dir.join("none/page"));
        check_writable(&good).unwrap();
        assert!(!good.exists());
        let error = check_writable(&bad).unwrap_err().to_string();
        assert!(error.contains("none/page: No such file"), "{error}");
        fs::write(&good, "kept").unwrap();
        check_writable(&good).unwrap();
        assert_eq!(read(&good).unwrap(), b"kept");
        assert!(read(&bad).unwrap_err().to_string().contains("none/page"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
