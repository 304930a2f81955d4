//! Files of an operator that are read from beginning to end: certificates, keys, lists. They lie on the host's own disk
//! in the simulation, too.
//!
//! Promise: no file is read beyond its bound, and of a regular one neither opening nor reading waits for anybody
//! but the disk. What some editors write before the first character is no part of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// U+FEFF in UTF-8, with which some editors begin a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What may stand at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kinds {
    /// A pipe as well, whose writer is waited for: at a start.
    Any,
    /// What can be read again.
    RegularFile,
}

/// A file that ends with an error where its bound is.
struct Bounded {
    file: File,
    bytes_max: u64,
    bytes_left: u64,
}

/// Opens `path`, of which at most `bytes_max` octets will be read. Blocks.
///
/// # Errors
/// It cannot be opened or read, is of another kind, or is known to be longer (`FileTooLarge`).
pub fn open_blocking(path: &Path, kinds: Kinds, bytes_max: u64) -> io::Result<impl Read> {
    let mut options = OpenOptions::new();
    options.read(true);
    if kinds == Kinds::RegularFile {
        // A pipe without a writer would be waited for before its kind is known.
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    let found = file.metadata()?;
    if kinds == Kinds::RegularFile && !found.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no regular file",
        ));
    }
    if found.is_file() && found.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    let mut file = Bounded {
        file,
        bytes_max,
        bytes_left: bytes_max,
    };
    let mut start = Vec::new();
    let most = BYTE_ORDER_MARK.len() as u64;
    file.by_ref().take(most).read_to_end(&mut start)?;
    if start == BYTE_ORDER_MARK {
        start.clear();
    }
    Ok(Cursor::new(start).chain(file))
}

/// All of it. Blocks.
///
/// # Errors
/// As [`open_blocking`], and if it grows beyond its bound meanwhile.
pub fn read_blocking(path: &Path, kinds: Kinds, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_blocking(path, kinds, bytes_max)?.read_to_end(&mut content)?;
    Ok(content)
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.bytes_left.checked_sub(count as u64);
        self.bytes_left = left.ok_or_else(|| too_large(self.bytes_max))?;
        Ok(count)
    }
}

fn too_large(bytes_max: u64) -> io::Error {
    let why = format!("larger than {bytes_max} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_no_further() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "12345").unwrap();
        for kinds in [Kinds::Any, Kinds::RegularFile] {
            assert_eq!(read_blocking(&path, kinds, 5).unwrap(), b"12345");
            let error = read_blocking(&path, kinds, 4).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(error.to_string().contains("larger than 4 bytes"));
        }
        // It has no length, and no end.
        let error = read_blocking(Path::new("/dev/zero"), Kinds::Any, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        for (written, read) in [
            ("", ""),
            ("a", "a"),
            ("\u{feff}", ""),
            ("\u{feff}entry", "entry"),
            // One is taken off, and only where the file begins.
            ("\u{feff}\u{feff}", "\u{feff}"),
            ("entry\u{feff}", "entry\u{feff}"),
        ] {
            fs::write(&path, written).unwrap();
            let content = read_blocking(&path, Kinds::RegularFile, 16).unwrap();
            assert_eq!(content, read.as_bytes(), "{written:?}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let pipe = temp.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [&pipe, temp.path(), Path::new("/dev/zero")] {
            let error = read_blocking(path, Kinds::RegularFile, 1 << 20).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
    }
}
