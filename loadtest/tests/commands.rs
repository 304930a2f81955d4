//! The commands that start relays by themselves, as a shell would call them.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringpost-loadtest");

/// Runs the program; its words are split at blanks, `PROXY`, `PLAIN` and `SINK` stand for relays.
fn loadtest(line: &str) -> (Output, Value) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("commands-{call}.json"));
    let proxy = format!("{PROGRAM} proxy --listen {{listen}} --to {{sink}}");
    let sink = format!("{PROGRAM} sink {{listen}}");
    let words = line
        .split_whitespace()
        .map(|word| word.replace("PLAIN", "PROXY --tls none"))
        .map(|word| word.replace("PROXY", &proxy).replace("SINK", &sink));
    let output = Command::new(PROGRAM)
        .args(words)
        .args(["--quiet", "--connections", "4"])
        .args(
            (!line.starts_with("hold"))
                .then_some(["--linger-ms", "50"])
                .into_iter()
                .flatten(),
        )
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let figures = std::fs::read(&json).unwrap_or_default();
    let _ = std::fs::remove_file(&json);
    (output, serde_json::from_slice(&figures).unwrap_or_default())
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn two_relays_and_the_floor_are_compared() {
    let (output, figures) = loadtest(
        "compare --relay-cmd a=PROXY --relay-cmd b=PROXY --floor --messages 60 --rounds 2 \
         --source-tls implicit --sink-implicit-tls --workload cold,large",
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let names: Vec<&str> = figures["relays"]
        .as_array()
        .unwrap()
        .iter()
        .map(|relay| relay["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "floor"]);
    let [cold, large] = &figures["workloads"].as_array().unwrap()[..] else {
        panic!("{figures}");
    };
    let order = |workload: &Value| -> Vec<u64> {
        let runs = workload["runs"].as_array().unwrap().iter();
        runs.map(|run| run["relay"].as_u64().unwrap()).collect()
    };
    // The warm-up had the turn that begins with a.
    assert_eq!(order(cold), [1, 2, 0, 2, 0, 1]);
    assert_eq!(order(large), order(cold));
    let handshakes = cold["figures"].as_array().unwrap().iter();
    let handshakes = handshakes
        .filter(|figure| figure["key"] == "handshakes_out")
        .map(|figure| figure["relays"][1]["spread"]["median"].clone());
    assert_eq!(handshakes.collect::<Vec<_>>(), [1.0]);
}

#[test]
fn canary_a_relay_that_keeps_everything_fails_the_comparison() {
    let (output, figures) = loadtest(&format!(
        "compare --relay-cmd good=PLAIN --relay-cmd bad=SINK --messages 20 --rounds 1 --warm-up 0 \
         --source-tls none --sink-tls none --settle 0.5 --spool {}",
        env!("CARGO_TARGET_TMPDIR")
    ));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let runs = &figures["workloads"][0]["runs"];
    assert_eq!(runs[0]["clean"], true, "{}", text(&output));
    assert_eq!(runs[1]["report"]["ledger"]["lost"], 20, "{}", text(&output));
    assert_eq!(runs[1]["clean"], false);
    assert!(
        text(&output).contains("NOT CLEAN   bad"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_ramp_climbs_to_its_highest_rate_or_says_why_not() {
    let (output, figures) = loadtest(
        "ramp --relay-cmd PROXY --source-tls implicit --sink-implicit-tls --p99-ms 60000 \
         --from 40 --to 80 --step 0.5 --warm-up 0",
    );
    let steps = figures["steps"].as_array().unwrap();
    assert_eq!(steps[0]["rate"], 40.0, "{}", text(&output));
    let best = figures["best"].as_u64();
    assert_eq!(output.status.success(), best.is_some(), "{}", text(&output));
    for step in steps {
        assert_eq!(step["report"]["ledger"]["lost"], 0);
    }
    if let Some(best) = best {
        assert_eq!(steps[best as usize]["reasons"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn a_ramp_in_which_all_is_refused_ends_at_its_first_step() {
    let (output, figures) = loadtest(
        "ramp --relay-cmd PLAIN --source-tls none --sink-tls none --fault-5xx 1 --p99-ms 100 \
         --from 20 --to 40 --step 0.3 --warm-up 0",
    );
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(figures["steps"].as_array().map(Vec::len), Some(1), "{text}");
    assert!(
        text.contains("NOT CLEAN   the ramp ended at 20 messages/s"),
        "{text}"
    );
}

#[test]
fn a_relay_that_is_not_there_is_told_with_what_to_look_at() {
    let (output, _) = loadtest("run --relay 127.0.0.1:1 --relay-start 0.2 --messages 5");
    let said = text(&output);
    assert!(said.contains("nobody listens there (ss -ltn"), "{said}");
    let (output, _) = loadtest("run --relay-cmd true --messages 5");
    assert!(text(&output).contains("{listen}"), "{}", text(&output));
    let alone = ["source", "127.0.0.1:1", "--messages", "5"];
    let output = Command::new(PROGRAM).args(alone).output().unwrap();
    assert!(text(&output).contains("nobody listens there"));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_ramp_without_a_bound_or_with_a_rate_is_refused() {
    for line in [
        "ramp --relay-cmd PROXY",
        "ramp --relay-cmd PROXY --p99-ms 10 --rate 5",
        "ramp --relay-cmd PROXY --p99-ms 10 --messages 5",
    ] {
        let (output, _) = loadtest(line);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    }
}

#[test]
fn held_connections_have_a_page() {
    let page = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("hold.html");
    let (output, figures) = loadtest(&format!(
        "hold --relay-cmd PLAIN --source-tls none --hold 0.2 --html {}",
        page.display()
    ));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(figures["opened"], 4);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("Open connections") && html.contains("role=\"img\""));
    let json = page.with_extension("json");
    std::fs::write(&json, figures.to_string()).unwrap();
    let again = Command::new(PROGRAM)
        .arg("html")
        .arg(&json)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again));
}

#[test]
fn a_kill_test_that_put_nothing_to_the_test_is_not_clean() {
    // The proxy says 250 only once the sink has the mail: no kill can meet any that is outstanding.
    let (output, figures) = loadtest(
        "kill-test --relay-cmd PLAIN --source-tls none --sink-tls none --rounds 2 \
         --kill-after-ms 50-60 --settle 1",
    );
    assert_eq!(figures["kills"]["kills"], 2, "{}", text(&output));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("NOT CLEAN   none of 2 kills met"),
        "{}",
        text(&output)
    );
}

#[test]
fn when_all_is_refused_the_reply_is_shown() {
    let (output, figures) = loadtest(
        "run --relay-cmd PLAIN --source-tls none --sink-tls none --messages 5 --fault-5xx 1",
    );
    let reply = figures["source"]["first_refusal"].as_str().unwrap();
    assert!(reply.starts_with('5'), "{reply}");
    assert!(text(&output).contains(reply), "{}", text(&output));
}

#[test]
fn the_help_shows_all_placeholders_of_an_address() {
    let output = Command::new(PROGRAM)
        .args(["run", "--help"])
        .output()
        .unwrap();
    let help = text(&output)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for placeholder in ["{m} message", "{i} recipient", "{d} domain", "{run} run"] {
        assert!(help.contains(placeholder), "{placeholder} in {help}");
    }
}
