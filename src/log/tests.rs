use super::*;
use crate::message::Recipient;
use proptest::prelude::*;
use serde_json::Value as Json;
use std::sync::mpsc::channel;

const E: &Event = &Event::with_any_fields("e");
const DELIVERED: &Event = &Event::with_any_fields("delivered");
const AT: WallTime = WallTime(951_827_696_789);

/// A log and the buffers it hands over.
fn log(format: LogFormat, level: LogLevel) -> (Log, Receiver<Chunk>) {
    let (sender, receiver) = channel();
    let deliver = move |chunk| {
        let _ = sender.send(chunk);
    };
    (Log::new(format, level, Box::new(deliver)), receiver)
}

/// What arrives when `say` has spoken.
fn said(format: LogFormat, say: impl FnOnce(&Log)) -> String {
    let (log, chunks) = log(format, LogLevel::Info);
    say(&log);
    log.flush(AT);
    chunks
        .try_iter()
        .map(|chunk| {
            let text = String::from_utf8(chunk.bytes().to_vec()).unwrap();
            chunk.written();
            text
        })
        .collect()
}

fn text_of(value: &str) -> String {
    said(LogFormat::Text, |log| {
        log.line(LogLevel::Info, E, AT).field("v", value);
    })
}

fn json_of(value: &str) -> String {
    said(LogFormat::Json, |log| {
        log.line(LogLevel::Info, E, AT).field("v", value);
    })
}

fn delivered(log: &Log) {
    let id = MessageId {
        run: 1,
        core: 2,
        sequence: 255,
    };
    log.line(LogLevel::Info, DELIVERED, AT)
        .field("id", id)
        .field("from", "<>")
        .field("to", Mailbox::new("a", "b.test"))
        .field("relay", "192.0.2.1:25".parse::<SocketAddr>().unwrap())
        .field("delay", Duration::from_millis(1_250))
        .field("verdict", CertificateVerdict::NameMismatch)
        .field("tls", None::<&str>)
        .field("bytes", 10_240_u64)
        .field("reused", true)
        .field("reply", "250 2.0.0 Ok: queued as \"7\"");
}

#[test]
fn a_line_for_people() {
    assert_eq!(
        said(LogFormat::Text, delivered),
        "2000-02-29T12:34:56.789Z info delivered id=1-2-FF from=<> to=a@b.test \
         relay=192.0.2.1:25 delay=1.250 verdict=name-mismatch bytes=10240 reused=true \
         reply=\"250 2.0.0 Ok: queued as \\\"7\\\"\"\n"
    );
}

#[test]
fn a_line_for_programs() {
    let line: Json = serde_json::from_str(&said(LogFormat::Json, delivered)).unwrap();
    assert_eq!(line["time"], "2000-02-29T12:34:56.789Z");
    assert_eq!(line["event"], "delivered");
    assert_eq!(line["id"], "1-2-FF");
    assert_eq!(line["delay"], 1.25);
    assert_eq!(line["bytes"], 10_240);
    assert_eq!(line["reused"], true);
    assert_eq!(line["reply"], "250 2.0.0 Ok: queued as \"7\"");
    assert_eq!(line.get("tls"), None);
}

#[test]
fn a_peer_cannot_begin_a_line_or_a_field() {
    let attack = "x\r\n2000-02-29T12:34:56.789Z info delivered id=1\u{1b}[2K to=\"a\"";
    let text = text_of(attack);
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.is_ascii() && text.trim_end().bytes().all(|byte| byte >= b' '));
    assert!(
        text.ends_with(
            "v=\"x\\r\\n2000-02-29T12:34:56.789Z info delivered id=1\\u001b[2K to=\\\"a\\\"\"\n"
        ),
        "{text}"
    );
}

#[test]
fn hidden_and_reordering_characters_are_shown() {
    assert!(text_of("a\u{202e}b").ends_with("v=\"a\\u202eb\"\n"));
    assert!(text_of("a\u{85}b").ends_with("v=\"a\\u0085b\"\n"));
    assert!(text_of("\u{e0041}").ends_with("v=\"\\udb40\\udc41\"\n"));
    assert!(text_of("grün").ends_with("v=\"grün\"\n"));
}

#[test]
fn quotes_only_where_needed() {
    assert!(text_of("a@b.test").ends_with(" v=a@b.test\n"));
    assert!(text_of("").ends_with(" v=\"\"\n"));
    assert!(text_of("a=b").ends_with(" v=\"a=b\"\n"));
    assert!(text_of("a b").ends_with(" v=\"a b\"\n"));
}

#[test]
fn long_values_and_long_lines_are_cut() {
    let long = "ü".repeat(VALUE_BYTES_MAX);
    let line: Json = serde_json::from_str(&json_of(&long)).unwrap();
    let kept = line["v"].as_str().unwrap();
    assert_eq!(kept.len(), VALUE_BYTES_MAX + "...".len());

    let escapes = "\u{1}".repeat(2 * VALUE_BYTES_MAX);
    let text = said(LogFormat::Json, |log| {
        let mut line = log.line(LogLevel::Info, E, AT);
        for _ in 0..50 {
            line.field("v", &escapes);
        }
    });
    assert!(text.len() <= LINE_BYTES_MAX);
    assert!(text.ends_with(",\"cut\":true}\n"));
    serde_json::from_str::<Json>(&text).unwrap();
}

#[test]
fn unwanted_levels_cost_nothing() {
    let (log, chunks) = log(LogFormat::Text, LogLevel::Info);
    assert!(log.wants(LogLevel::Error) && !log.wants(LogLevel::Debug));
    log.line(LogLevel::Debug, E, AT).field("v", "x");
    log.flush(AT);
    assert!(chunks.try_recv().is_err());
}

#[test]
fn errors_do_not_wait_for_a_flush() {
    let (log, chunks) = log(LogFormat::Text, LogLevel::Info);
    log.line(LogLevel::Error, E, AT);
    assert!(chunks.try_recv().is_ok());
}

#[test]
fn a_value_that_logs_while_it_is_shown_gets_nothing() {
    struct Talker<'a>(&'a Log);
    impl fmt::Display for Talker<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.line(LogLevel::Info, E, AT);
            f.write_str("outer")
        }
    }
    let text = said(LogFormat::Text, |log| {
        log.line(LogLevel::Info, E, AT)
            .field("v", Shown(Talker(log)));
    });
    assert!(text.ends_with("info e v=outer\n"), "{text}");
}

/// Numbered lines, and the numbers that a reader finds.
fn flood(log: &Log, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log.line(LogLevel::Info, E, AT).field("number", number);
    }
}

fn dropped_in(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once("lines_dropped=")?.1.parse::<u64>().ok())
        .sum()
}

#[test]
fn a_flood_is_dropped_and_counted_not_waited_for() {
    let (log, chunks) = log(LogFormat::Text, LogLevel::Info);
    flood(&log, 0..100_000);
    assert!(log.dropped_total() > 0);
    let held: Vec<Chunk> = chunks.try_iter().collect();
    assert_eq!(held.len(), SPARE_CHUNKS);
    let mut text = String::new();
    for chunk in held {
        text.push_str(std::str::from_utf8(chunk.bytes()).unwrap());
        chunk.written();
    }
    log.flush(AT);
    for chunk in chunks.try_iter() {
        text.push_str(std::str::from_utf8(chunk.bytes()).unwrap());
        chunk.written();
    }
    let lines = text
        .lines()
        .filter(|line| line.contains(" number="))
        .count() as u64;
    assert_eq!(dropped_in(&text), log.dropped_total());
    assert_eq!(lines + log.dropped_total(), 100_000);
}

#[test]
fn a_warning_has_room_where_a_flood_of_other_lines_is_dropped() {
    let (log, chunks) = log(LogFormat::Text, LogLevel::Info);
    flood(&log, 0..100_000);
    let dropped = log.dropped_total();
    assert!(dropped > 0);
    for level in [LogLevel::Warn, LogLevel::Error] {
        log.line(level, event::HINT, AT).field("text", "urgent");
    }
    assert_eq!(log.dropped_total(), dropped);
    flood(&log, 0..1);
    assert_eq!(log.dropped_total(), dropped + 1);
    // With a buffer come home, what was kept for them is handed over.
    let mut text = String::new();
    for _ in 0..2 {
        for chunk in chunks.try_iter() {
            text.push_str(std::str::from_utf8(chunk.bytes()).unwrap());
            chunk.written();
        }
        log.flush(AT);
    }
    assert_eq!(text.matches("urgent").count(), 2);
}

#[test]
fn what_the_writer_cannot_write_counts_as_dropped() {
    let (log, chunks) = log(LogFormat::Text, LogLevel::Info);
    flood(&log, 0..3);
    log.flush(AT);
    drop(chunks.try_recv().unwrap());
    for _ in 0..=SPARE_CHUNKS {
        log.flush(AT);
    }
    let text: String = chunks
        .try_iter()
        .map(|chunk| String::from_utf8(chunk.bytes().to_vec()).unwrap())
        .collect();
    assert_eq!(dropped_in(&text), 3);
    assert_eq!(log.dropped_total(), 3);
}

proptest! {
    #[test]
    fn any_text_survives_json(value in any::<String>()) {
        prop_assume!(value.len() <= VALUE_BYTES_MAX);
        let line: Json = serde_json::from_str(&json_of(&value)).unwrap();
        prop_assert_eq!(line["v"].as_str(), Some(value.as_str()));
    }

    #[test]
    fn any_text_stays_one_line(value in any::<String>()) {
        let text = text_of(&value);
        prop_assert_eq!(text.matches('\n').count(), 1);
        prop_assert!(!text.trim_end_matches('\n').contains(char::is_control));
    }
}

#[test]
#[should_panic(expected = "number")]
#[cfg(debug_assertions)]
fn a_field_that_its_event_does_not_declare_is_a_bug() {
    said(LogFormat::Text, |log| {
        log.line(LogLevel::Info, event::STOPPING, AT)
            .field("number", 1_u64);
    });
}

fn recipients(names: &[&str]) -> Vec<Recipient> {
    let named = |name| Recipient::new(Mailbox::new(name, "b.test"));
    names.iter().copied().map(named).collect()
}

fn to(format: LogFormat, names: &[&str]) -> String {
    let line = said(format, |log| {
        log.line(LogLevel::Info, E, AT)
            .recipients(&recipients(names));
    });
    let at = line.find("recipients").expect("how many");
    line[at..].trim_end().to_owned()
}

#[test]
fn recipients_are_named_as_far_as_they_fit() {
    let to = |names: &[&str]| to(LogFormat::Text, names);
    assert_eq!(to(&[]), "recipients=0");
    assert_eq!(to(&["n0"]), "recipients=1 to=n0@b.test");
    assert_eq!(to(&["n0", "n1"]), "recipients=2 to=n0@b.test,n1@b.test");
    let many = to(&["n"; 1000]);
    assert_eq!(many.matches("n@b.test").count(), 10);
    assert!(many.ends_with(",n@b.test to_left_out=990"), "{many}");
    let long = "x".repeat(590);
    assert!(to(&[&long, "y", "z"]).ends_with("@b.test to_left_out=2"));
    let endless = to(&[&"x".repeat(5000), "y"]);
    assert!(
        endless.len() < 1100 && endless.ends_with("... to_left_out=1"),
        "{endless}"
    );
}

#[test]
fn a_program_gets_recipients_one_by_one_whatever_they_hold() {
    let json = |names: &[&str]| -> Json {
        let fields = to(LogFormat::Json, names);
        serde_json::from_str(&format!("{{\"{fields}")).expect(&fields)
    };
    let two = json(&["\"a, b\"", "c"]);
    let names = serde_json::json!(["\"a, b\"@b.test", "c@b.test"]);
    assert_eq!(
        two,
        serde_json::json!({"recipients": 2, "to": names.clone()})
    );
    let many = json(&["n"; 500]);
    assert_eq!(many["to"].as_array().map(Vec::len), Some(10));
    assert_eq!(many["to_left_out"], 490);
    assert_eq!(json(&[]), serde_json::json!({"recipients": 0}));
    // The worst that a line may meet has room in a field.
    let worst = "\u{1}".repeat(5000);
    let fields = to(LogFormat::Json, &[&worst, "y"]);
    assert!(fields.len() < FIELD_BYTES_MAX, "{}", fields.len());
    let short = "\u{1}".repeat(50);
    assert!(to(LogFormat::Json, &[&*short; 20]).len() < FIELD_BYTES_MAX);
    let one = said(LogFormat::Json, |log| {
        log.line(LogLevel::Info, E, AT)
            .field("to", Addressee(Some("x, y")))
            .field("none", Addressee(None));
    });
    assert!(one.ends_with(",\"to\":[\"x, y\"]}\n"), "{one}");
}

#[test]
fn octets_that_are_no_text_are_shown_as_such() {
    let line = said(LogFormat::Text, |log| {
        log.line(LogLevel::Info, E, AT)
            .field("v", b"<a\xff@b\n>".as_slice());
    });
    assert!(line.ends_with(" v=\"<a\u{fffd}@b\\n>\"\n"), "{line}");
}

#[test]
fn a_line_for_a_terminal_has_level_and_event_set_off() {
    let (log, chunks) = log(LogFormat::Text, LogLevel::Info);
    let log = log.with_colours(true);
    log.line(LogLevel::Warn, E, AT).field("v", "\x1b[31mred");
    log.flush(AT);
    let chunk = chunks.try_recv().unwrap();
    assert_eq!(
        chunk.bytes(),
        b"2000-02-29T12:34:56.789Z \x1b[33mwarn\x1b[0m \x1b[1me\x1b[0m v=\"\\u001b[31mred\"\n"
    );
}

#[test]
fn an_object_has_no_colours() {
    let (log, chunks) = log(LogFormat::Json, LogLevel::Info);
    let log = log.with_colours(true);
    log.line(LogLevel::Warn, E, AT);
    log.flush(AT);
    assert!(!chunks.try_recv().unwrap().bytes().contains(&0x1b));
}
