//! The spool on a file system of its own, on a loop device over a file in a tmpfs that is just large
//! enough. Take the room behind a block away, and the kernel fails its next write.

use crate::Gate;
use crate::load::{Load, Told};
use crate::support::client::{CONTENT, Client, send_mail};
use crate::support::next_hop::{Answer, NextHop, StartTls};
use crate::support::relay::{Home, PROGRAM, Relay, set_mode};
use crate::support::relay_by;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const BLOCK_BYTES: usize = 4096;
const MIB: u64 = 1 << 20;
const CLIENTS: usize = 8;

/// Mounts, then stays for as long as its input is open: the mounts live in its namespace.
const HOLD: &str = r#"
mount -t tmpfs -o size=$((MIB + 1))m none "$BACK"
fallocate -l ${MIB}m "$BACK/image"
mkfs.ext4 -q -F -b 4096 -m 0 -E lazy_itable_init=0,lazy_journal_init=0,nodiscard "$BACK/image"
# Where mkfs wants zeros it leaves holes.
fallocate -l ${MIB}m "$BACK/image"
mount -o loop "$BACK/image" "$DISK"
echo mounted
exec cat
"#;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from here on everything is an input/output
/// error, and what the journal had not yet on the disk is lost as in a power cut.
const PULL_THE_PLUG: &str = r#"
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))
"#;

/// A file system in a mount namespace that only its relays see.
struct Disk {
    holder: Child,
    back: PathBuf,
    disk: PathBuf,
}

impl Disk {
    /// Of so many MiB. `None`, and a word on standard error, where it cannot be had.
    fn new(home: &Home, mebibytes: u64) -> Option<Self> {
        let (back, disk) = (home.path("back"), home.path("disk"));
        for directory in [&back, &disk] {
            fs::create_dir(directory).expect("our own directory");
        }
        let mut holder = Command::new("unshare");
        holder
            .args(["--mount", "sh", "-ec", HOLD])
            .env("MIB", mebibytes.to_string())
            .env("BACK", &back)
            .env("DISK", &disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = holder.spawn().expect("unshare runs");
        let mut line = String::new();
        let output = holder.stdout.take().expect("it was asked for");
        BufReader::new(output).read_line(&mut line).expect("text");
        if line != "mounted\n" {
            let _ = holder.wait();
            eprintln!("skipped: no file system of our own can be mounted here");
            return None;
        }
        Some(Disk { holder, back, disk })
    }

    /// A path on it, as those who do not live in its namespace see it.
    fn outside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        PathBuf::from(root + path.to_str().expect("an ordinary path"))
    }

    fn spool(&self) -> PathBuf {
        self.disk.join("spool")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        command.args([&namespace, "--", program]);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.command(program).args(arguments).output();
        let output = output.expect("nsenter runs");
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        output
    }

    fn start(&self, home: &Home, hop: &NextHop, more: &[&str]) -> Relay {
        let spool = self.spool();
        let spool = ["--spool", spool.to_str().expect("a path")];
        relay_by(home, self.command(PROGRAM), hop, &[more, &spool].concat())
    }

    /// Nothing that the spool has prepared for its next writes can be written any more. The relay stands
    /// still meanwhile: what it wrote would be taken away with the rest.
    fn break_what_is_prepared(&self, relay: &Relay) {
        relay.signal("STOP");
        for (file, used) in self.used_blocks() {
            for Extent {
                first,
                on_disk,
                blocks,
            } in self.extents(&file)
            {
                let spared = used.saturating_sub(first).min(blocks);
                self.take_away(on_disk + spared, blocks - spared);
            }
        }
        let fill = self.back.join("fill");
        let fill = fs::File::create(self.outside(&fill)).expect("a file");
        let left = std::iter::repeat_with(|| std::io::Write::write(&mut &fill, &[1; BLOCK_BYTES]));
        assert!(
            left.take(1 << 20).any(|written| written.is_err()),
            "it fills"
        );
        relay.signal("CONT");
    }

    fn repair(&self) {
        let fill = self.outside(&self.back.join("fill"));
        fs::remove_file(fill).expect("it is there");
    }

    /// How far each segment is written, once what the kernel had in hand has landed.
    fn used_blocks(&self) -> Vec<(PathBuf, u64)> {
        let is_used = |block: &[u8]| block.iter().any(|&byte| byte != 0);
        let used = |file: &PathBuf| {
            let bytes = fs::read(self.outside(file)).expect("a segment");
            let blocks = bytes.chunks(BLOCK_BYTES);
            blocks.rev().skip_while(|block| !is_used(block)).count() as u64
        };
        let look = || {
            let mut files = self.segments();
            files.sort();
            let used: Vec<u64> = files.iter().map(used).collect();
            files.into_iter().zip(used).collect::<Vec<_>>()
        };
        let mut before = look();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            let now = look();
            if now == before {
                return now;
            }
            before = now;
        }
        panic!("a relay that stands still goes on writing");
    }

    fn segments(&self) -> Vec<PathBuf> {
        let directory = self.spool().join("segments");
        let entries = fs::read_dir(self.outside(&directory)).expect("the spool");
        let entries = entries.map(|entry| entry.expect("an entry"));
        let large = entries.filter(|e| e.metadata().is_ok_and(|m| m.len() >= MIB));
        large
            .map(|entry| directory.join(entry.file_name()))
            .collect()
    }

    fn extents(&self, file: &Path) -> Vec<Extent> {
        let text = self
            .run("filefrag", &["-v", file.to_str().expect("a path")])
            .stdout;
        let text = String::from_utf8(text).expect("text");
        let extents: Vec<Extent> = text.lines().filter_map(Extent::of_line).collect();
        assert!(!extents.is_empty(), "{text}");
        extents
    }

    fn take_away(&self, block: u64, blocks: u64) {
        if blocks > 0 {
            let (from, length) = (block * BLOCK_BYTES as u64, blocks * BLOCK_BYTES as u64);
            let (from, length) = (from.to_string(), length.to_string());
            let image = self.back.join("image");
            let image = image.to_str().expect("a path");
            let hole = [
                "--punch-hole",
                "--offset",
                &from,
                "--length",
                &length,
                image,
            ];
            self.run("fallocate", &hole);
        }
    }

    fn pull_the_plug(&self) {
        let disk = self.disk.to_str().expect("a path");
        self.run("python3", &["-c", PULL_THE_PLUG, disk]);
    }

    /// As after a start of the machine.
    fn mount_again(&self) {
        let [image, disk] = [self.back.join("image"), self.disk.clone()];
        let [image, disk] = [&image, &disk].map(|path| path.to_str().expect("a path"));
        self.run("umount", &[disk]);
        self.run("mount", &["-o", "loop", image, disk]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Blocks of a file that follow each other on the disk.
struct Extent {
    first: u64,
    on_disk: u64,
    blocks: u64,
}

impl Extent {
    /// `   0:        0..    1023:      34816..     35839:   1024:             last,eof`
    fn of_line(line: &str) -> Option<Self> {
        let mut columns = line.split(':');
        columns.next()?.trim().parse::<u64>().ok()?;
        let mut start = || columns.next()?.split("..").next()?.trim().parse().ok();
        let (first, on_disk) = (start()?, start()?);
        let blocks = columns.next()?.trim().parse().ok()?;
        Some(Extent {
            first,
            on_disk,
            blocks,
        })
    }
}

fn is_refusal(told: Told) -> bool {
    matches!(told, Told::Reply(451 | 452))
}

#[test]
fn a_write_that_fails_is_no_250_and_the_next_one_goes_elsewhere() {
    let home = Home::new();
    let Some(disk) = Disk::new(&home, 96) else {
        return;
    };
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        match occasion.command.contains("later@") {
            true => Answer::Say("450 4.2.1 not now"),
            false => Answer::Usual,
        }
    });
    let relay = disk.start(&home, &hop, &[]);
    let address = relay.address();
    send_mail(address, "a@sender.test", &["later@example.test"], CONTENT);
    relay.wait_for_count("deferred", 2, |_| true);
    let load = Load::new(address, 20_000);
    load.during(CLIENTS, || {
        load.wait_for_accepted(20, 0);
        disk.break_what_is_prepared(&relay);
        load.wait(1, 0, is_refusal);
        load.wait_for_accepted(200, load.next());
    });
    let told = load.told(0);
    assert!(
        told.iter()
            .all(|&told| told == Told::Reply(250) || is_refusal(told)),
        "{told:?}"
    );
    // Mail and outcomes are in logs of their own, and each has met it.
    relay.wait_for_count("spool-segment-failed", 2, |_| true);
    assert_eq!(load.wait_until_delivered(&hop), 0);
    // The outcomes that could not be written where they were meant to be are on the disk by then.
    let before = relay.events("deferred").len();
    relay.wait_for_count("deferred", before + 2, |_| true);
    relay.kill();
    disk.repair();
    let hop = NextHop::start();
    let relay = disk.start(&home, &hop, &[]);
    let mails = hop.wait_for_mail(1);
    relay.stop();
    assert_eq!(hop.mails().len(), 1, "{mails:?}");
    assert!(mails[0].to[0].contains("later@"), "{:?}", mails[0].to);
}

#[test]
fn a_disk_that_goes_away_loses_nothing_that_got_a_250() {
    let home = Home::new();
    let Some(disk) = Disk::new(&home, 96) else {
        return;
    };
    let gate = Gate::closed();
    let mut relay = disk.start(&home, &gate.hop, &["--drain-timeout", "1s"]);
    let load = Load::new(relay.address(), 20_000);
    load.during(CLIENTS, || {
        load.wait_for_accepted(300, 0);
        disk.pull_the_plug();
        let after = load.next();
        load.wait(50, after, is_refusal);
        assert!(
            load.told(after).into_iter().all(is_refusal),
            "{:?}",
            load.told(after)
        );
    });
    relay.wait_for("spool-segment-failed", |_| true);
    relay.signal("TERM");
    assert!(relay.wait().success());
    disk.mount_again();
    let hop = NextHop::start();
    let relay = disk.start(&home, &hop, &[]);
    assert_eq!(load.wait_until_delivered(&hop), 0);
    relay.stop();
}

#[test]
fn a_disk_that_others_have_filled_says_452_until_there_is_room() {
    let home = Home::new();
    let Some(disk) = Disk::new(&home, 96) else {
        return;
    };
    let gate = Gate::closed();
    let relay = disk.start(&home, &gate.hop, &[]);
    let load = Load::new(relay.address(), 20_000);
    let foreign = disk.outside(&disk.disk.join("foreign"));
    load.during(CLIENTS, || {
        load.wait_for_accepted(20, 0);
        let file = fs::File::create(&foreign).expect("a file");
        let piece = vec![1; MIB as usize];
        while std::io::Write::write_all(&mut &file, &piece).is_ok() {}
        // A file that is open keeps its room when it is removed.
        drop(file);
        load.wait(1, 0, is_refusal);
        // By now all that was prepared before is in use.
        load.wait(50, load.next(), is_refusal);
        gate.open();
        fs::remove_file(&foreign).expect("it is there");
        load.wait_for_accepted(200, load.next());
    });
    let told = load.told(0);
    let known = [Told::Reply(250), Told::Reply(452)];
    assert!(told.iter().all(|told| known.contains(told)), "{told:?}");
    relay.wait_for("spool-full", |_| true);
    relay.wait_for("spool-has-room", |_| true);
    assert_eq!(load.wait_until_delivered(&gate.hop), 0);
    relay.stop();
}

#[test]
fn a_killed_relay_starts_and_delivers_on_a_disk_without_a_free_byte() {
    let home = Home::new();
    let Some(disk) = Disk::new(&home, 96) else {
        return;
    };
    for durability in ["auto", "buffered"] {
        let options = ["--spool-durability", durability, "--retry-min", "1s"];
        let gate = Gate::closed();
        let relay = disk.start(&home, &gate.hop, &options);
        let load = Load::new(relay.address(), 20_000);
        load.during(CLIENTS, || load.wait_for_accepted(20, 0));
        drop(relay);
        let foreign = disk.outside(&disk.disk.join("foreign"));
        fill_up(&foreign);
        gate.open();
        let relay = disk.start(&home, &gate.hop, &options);
        assert_eq!(load.wait_until_delivered(&gate.hop), 0, "{durability}");
        relay.stop();
        fs::remove_file(foreign).expect("it is there");
    }
}

/// Up to the last block.
fn fill_up(path: &Path) {
    let file = fs::File::create(path).expect("a file");
    for piece in [MIB as usize, BLOCK_BYTES] {
        while std::io::Write::write_all(&mut &file, &vec![1; piece]).is_ok() {}
    }
}

/// A message that takes a quarter of a segment.
fn long_content() -> String {
    format!("{CONTENT}{}", "0123456789abcdef\r\n".repeat(1 << 16))
}

/// What a client is told in the end.
fn said_to(address: SocketAddr, content: &str) -> u16 {
    let mut client = Client::connect(address);
    client.expect("EHLO client.test", 250);
    let reply = client.command("MAIL FROM:<a@sender.test>");
    if reply.code != 250 {
        return reply.code;
    }
    client.expect("RCPT TO:<b@example.test>", 250);
    client.expect("DATA", 354);
    client.command(&format!("{content}\r\n.")).code
}

#[test]
fn a_spool_whose_directory_is_gone_takes_no_mail() {
    let home = Home::new();
    let gate = Gate::closed();
    let mut relay = relay_by(
        &home,
        Command::new(PROGRAM),
        &gate.hop,
        &["--drain-timeout", "1s"],
    );
    let code = || said_to(relay.address(), CONTENT);
    let (spool, aside) = (home.path("spool"), home.path("aside"));
    assert_eq!(code(), 250);
    fs::rename(&spool, &aside).expect("our own directory");
    relay.wait_for("spool-gone", |line| line["messages"] == 1);
    assert_eq!(code(), 451);
    fs::rename(&aside, &spool).expect("our own directory");
    relay.wait_for("spool-there-again", |_| true);
    assert_eq!(code(), 250);
    fs::remove_dir_all(&spool).expect("our own directory");
    relay.wait_for("spool-gone", |line| line["messages"] == 2);
    assert_eq!(code(), 451);
    relay.signal("TERM");
    relay.wait();
    let last = relay.events("spool-gone").pop().expect("some");
    assert!(
        last["effect"]
            .as_str()
            .expect("text")
            .starts_with("no start"),
        "{last}"
    );
    assert_eq!(last["messages"], 2);
}

#[test]
fn segments_that_are_removed_take_no_mail() {
    segments_take_no_mail_after(|segment| fs::remove_file(segment).expect("a segment"));
}

#[test]
fn segments_that_are_cut_take_no_mail() {
    segments_take_no_mail_after(|segment| _ = fs::File::create(segment).expect("it is cut"));
}

/// After this is done to each of them.
fn segments_take_no_mail_after(spoil: impl Fn(&Path)) {
    let home = Home::new();
    let gate = Gate::closed();
    let relay = relay_by(&home, Command::new(PROGRAM), &gate.hop, &[]);
    for segment in fs::read_dir(home.path("spool/segments")).expect("our own directory") {
        spoil(&segment.expect("an entry").path());
    }
    relay.wait_for("spool-gone", |_| true);
    assert_eq!(said_to(relay.address(), CONTENT), 451);
}

#[test]
fn a_forbidden_spool_directory_is_451_and_a_line() {
    let home = Home::new();
    let gate = Gate::closed();
    let relay = relay_by(&home, Command::new(PROGRAM), &gate.hop, &[]);
    let content = long_content();
    let code = || said_to(relay.address(), &content);
    let spool = home.path("spool");
    set_mode(&spool, 0o000);
    relay.wait_for("spool-disk-fails", |line| {
        line["error"]
            .as_str()
            .is_some_and(|text| text.contains("/spool/"))
    });
    let refused = (0..30).map(|_| code()).find(|&code| code != 250);
    set_mode(&spool, 0o700);
    assert_eq!(refused, Some(451));
    relay.wait_for("spool-disk-works", |_| true);
    assert_eq!(code(), 250);
    assert!(relay.events("spool-full").is_empty());
    assert_eq!(relay.events("spool-disk-fails").len(), 1);
}
