//! What the relay expects of files and names, asked of the kernel, and with the feature `simulate` of the simulated
//! host: where the two differ a simulation proves nothing.

use ringpost::io::buffer::{AlignedBuf, BLOCK_BYTES};
use ringpost::io::file::{
    Durability, File, allocate_blocking, check_writable_blocking, existing_part,
    free_bytes_blocking, open_blocking, open_unnamed_blocking, total_bytes_blocking,
};
use ringpost::io::fs::{self, DirBuilderExt, FileExt, OpenOptionsExt};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

/// Asks the kernel, in a directory of its own.
#[cfg(not(feature = "simulate"))]
fn on_a_host(ask: impl AsyncFnOnce(&Path)) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    ringpost::io::runtime::run(ask(directory.path())).expect("a ring");
}

/// Asks some worlds.
#[cfg(feature = "simulate")]
fn on_a_host(ask: impl AsyncFnOnce(&Path) + Copy + 'static) {
    use ringpost::io::simulated::{Order, Owner, World};
    for seed in 0..20 {
        let world = World::begin(seed, false);
        world.set_order(Order::Any);
        let has_ended = std::rc::Rc::new(std::cell::Cell::new(false));
        let ended = has_ended.clone();
        world.spawn(Owner::Outside, async move {
            let directory = Path::new("/asked");
            fs::DirBuilder::new()
                .create(directory)
                .expect("a directory");
            ask(directory).await;
            ended.set(true);
        });
        while !has_ended.get() {
            assert!(world.step(), "it waits for ever");
        }
    }
}

fn options() -> fs::OpenOptions {
    fs::OpenOptions::new()
}

fn create(path: &Path) -> fs::File {
    let mut options = options();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).expect("it can be made")
}

fn content(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path).expect("it is there");
    file.read_to_end(&mut bytes).expect("it reads");
    bytes
}

fn block(byte: u8) -> AlignedBuf {
    let mut block = AlignedBuf::new(BLOCK_BYTES);
    block.fill(byte);
    block
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn what_is_written_at_a_place_is_read_there_and_holes_are_zeros() {
    on_a_host(async |directory| {
        let file = create(&directory.join("a"));
        file.write_all_at(b"end", 9000).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        let mut bytes = vec![7; 9003];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes[..5], &bytes[9000..]), (&b"begin"[..], &b"end"[..]));
        assert!(bytes[5..9000].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_read_ends_with_the_file() {
    on_a_host(async |directory| {
        let file = create(&directory.join("a"));
        file.write_all_at(b"12345", 0).unwrap();
        let mut bytes = [0; 8];
        assert_eq!(file.read_at(&mut bytes, 3).unwrap(), 2);
        assert_eq!(file.read_at(&mut bytes, 5).unwrap(), 0);
        assert_eq!(file.read_at(&mut bytes, 500).unwrap(), 0);
        let result = file.read_exact_at(&mut bytes, 0);
        assert_eq!(kind(result), Some(ErrorKind::UnexpectedEof));
    });
}

#[test]
fn a_file_that_is_written_on_goes_on_where_it_was() {
    on_a_host(async |directory| {
        let mut file = create(&directory.join("a"));
        write!(file, "one,").unwrap();
        write!(file, "two").unwrap();
        file.sync_all().unwrap();
        assert_eq!(content(&directory.join("a")), b"one,two");
    });
}

#[test]
fn a_name_that_is_there_is_not_made_anew() {
    on_a_host(async |directory| {
        let path = directory.join("a");
        create(&path).write_all_at(b"old", 0).unwrap();
        let again = options().write(true).create_new(true).open(&path);
        assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
        let kept = options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        drop(kept.unwrap());
        assert_eq!(content(&path), b"old");
        let emptied = options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        drop(emptied.unwrap());
        assert_eq!(content(&path), b"");
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    on_a_host(async |directory| {
        let missing = directory.join("missing");
        let not_found = Some(ErrorKind::NotFound);
        assert_eq!(kind(fs::File::open(&missing)), not_found);
        assert_eq!(kind(fs::remove_file(&missing)), not_found);
        assert_eq!(kind(fs::rename(&missing, directory.join("b"))), not_found);
        assert_eq!(kind(fs::read_dir(&missing)), not_found);
        assert_eq!(kind(fs::symlink_metadata(&missing)), not_found);
        let within = missing.join("a");
        let made = options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&within);
        assert_eq!(kind(made), not_found);
        assert_eq!(
            kind(fs::DirBuilder::new().mode(0o700).create(&within)),
            not_found
        );
        assert!(!fs::exists(&missing).unwrap());
        assert_eq!(existing_part(&within), directory);
    });
}

#[test]
fn a_name_takes_the_place_of_another() {
    on_a_host(async |directory| {
        let (new, old) = (directory.join("new"), directory.join("old"));
        create(&old).write_all_at(b"old", 0).unwrap();
        create(&new).write_all_at(b"new", 0).unwrap();
        fs::rename(&new, &old).unwrap();
        fs::File::open(directory).unwrap().sync_all().unwrap();
        assert_eq!(content(&old), b"new");
        assert!(!fs::exists(&new).unwrap());
    });
}

#[test]
fn a_file_without_a_name_can_still_be_used() {
    on_a_host(async |directory| {
        let path = directory.join("a");
        let file = create(&path);
        file.write_all_at(b"kept", 0).unwrap();
        fs::remove_file(&path).unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, fs::exists(&path).unwrap()), (b"kept", false));
        if let Some(unnamed) = open_unnamed_blocking(directory, Durability::Buffered).unwrap() {
            unnamed.write_all_at(b"x", 0).unwrap();
        }
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        check_writable_blocking(directory).unwrap();
    });
}

#[test]
fn a_directory_is_made_once_and_lists_its_names() {
    on_a_host(async |directory| {
        let within = directory.join("d");
        fs::DirBuilder::new().mode(0o700).create(&within).unwrap();
        let again = fs::DirBuilder::new().mode(0o700).create(&within);
        assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
        for name in ["b", "a"] {
            create(&within.join(name));
        }
        let names = fs::read_dir(&within)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    });
}

#[test]
fn a_lock_is_held_by_one_until_it_is_closed() {
    on_a_host(async |directory| {
        let path = directory.join("lock");
        let first = create(&path);
        let second = fs::File::open(&path).unwrap();
        first.try_lock().unwrap();
        assert!(matches!(
            second.try_lock(),
            Err(fs::TryLockError::WouldBlock)
        ));
        drop(first);
        second.try_lock().unwrap();
    });
}

#[test]
fn a_file_is_cut_to_a_length() {
    on_a_host(async |directory| {
        let path = directory.join("a");
        let file = create(&path);
        file.write_all_at(b"123456", 0).unwrap();
        file.set_len(2).unwrap();
        file.write_all_at(b"z", 4).unwrap();
        assert_eq!(content(&path), b"12\0\0z");
    });
}

#[test]
fn space_is_claimed_before_it_is_used() {
    on_a_host(async |directory| {
        let path = directory.join("a");
        let file = create(&path);
        allocate_blocking(&file, 3 * BLOCK_BYTES as u64).unwrap();
        assert_eq!(content(&path), vec![0; 3 * BLOCK_BYTES]);
        let (free, all) = (
            free_bytes_blocking(directory),
            total_bytes_blocking(directory),
        );
        assert!(free.unwrap() <= all.unwrap());
    });
}

async fn write_on_the_ring(directory: &Path, durability: Durability) {
    let path = directory.join("a");
    drop(create(&path));
    let Ok(opened) = open_blocking(&path, true, durability) else {
        // Not every file system has direct I/O.
        return assert_eq!(durability, Durability::Direct);
    };
    let file = File::new(opened, durability);
    file.blocking().write_all_at(&block(1), 0).unwrap();
    let (written, buffer) = file
        .write_all_at(block(2), BLOCK_BYTES, BLOCK_BYTES as u64)
        .await;
    written.unwrap();
    file.sync_data().await.unwrap();
    let (read, buffer) = file.read_at(buffer, BLOCK_BYTES, 0).await;
    assert_eq!((read.unwrap(), buffer[17]), (BLOCK_BYTES, 1));
    let (read, buffer) = file.read_at(buffer, BLOCK_BYTES, BLOCK_BYTES as u64).await;
    assert_eq!((read.unwrap(), buffer[17]), (BLOCK_BYTES, 2));
    let (read, _) = file
        .read_at(buffer, BLOCK_BYTES, 9 * BLOCK_BYTES as u64)
        .await;
    assert_eq!(read.unwrap(), 0);
    file.blocking().sync_all().unwrap();
    fs::remove_file(&path).unwrap();
}

#[test]
fn what_the_ring_writes_is_what_blocking_calls_read() {
    on_a_host(async |directory| {
        write_on_the_ring(directory, Durability::Buffered).await;
        write_on_the_ring(directory, Durability::Direct).await;
    });
}

/// The operation goes on, and what holds its memory with it.
#[test]
fn an_operation_that_nobody_waits_for_does_no_harm() {
    on_a_host(async |directory| {
        let path = directory.join("a");
        let file = File::new(create(&path), Durability::Buffered);
        {
            let mut write = std::pin::pin!(file.write_all_at(block(3), BLOCK_BYTES, 0));
            let once = std::future::poll_fn(|context| {
                let _ = write.as_mut().poll(context);
                std::task::Poll::Ready(())
            });
            once.await;
        }
        let (written, _) = file
            .write_all_at(block(4), BLOCK_BYTES, BLOCK_BYTES as u64)
            .await;
        written.unwrap();
        let content = content(&path);
        assert!(content[BLOCK_BYTES..].iter().all(|byte| *byte == 4));
        assert_eq!(content.len(), 2 * BLOCK_BYTES);
    });
}
