//! What becomes of a name server's answer: hosts that are names, sorted, each once, bounded.

use ringpost::remote::resolve::mx_hosts_in;

pub fn run(message: &[u8]) {
    let Some(hosts) = mx_hosts_in(message) else {
        return;
    };
    assert!(hosts.len() <= 100);
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
