//! What becomes of a name server's answer: hosts that are names, sorted, each once.

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RecordType;
use ringpost::io::dns::Record;
use ringpost::remote::resolve::mx_hosts;

pub fn run(message: &[u8]) {
    let Ok(message) = Message::from_vec(message) else {
        return;
    };
    let of_mx =
        |record: &&hickory_resolver::proto::rr::Record| record.record_type() == RecordType::MX;
    let records: Vec<Record> = message
        .answers
        .iter()
        .filter(of_mx)
        .filter_map(|record| Record::of(&record.data))
        .collect();
    let Some(hosts) = mx_hosts(&records) else {
        return;
    };
    // How many are used is drawn by lot later.
    assert!(hosts.len() <= records.len());
    assert!(hosts.is_sorted() && hosts.windows(2).all(|pair| pair[0] != pair[1]));
    for (_, name) in &hosts {
        assert!(!name.is_empty() && name.len() <= 253, "{name}");
        let is_of_name = |octet: u8| {
            octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-_.".contains(&octet)
        };
        assert!(name.bytes().all(is_of_name), "{name}");
        assert!(
            name.split('.').all(|label| (1..=63).contains(&label.len())),
            "{name}"
        );
    }
}
