//! From MX records to the hosts of a site. Pure.

use super::site::SiteKey;
use crate::domain::Domain;
use crate::io::dns::Record;
use crc32c::crc32c_append;

/// MX hosts that a site's key names; for further ones it has their number and a sum.
const HOSTS_IN_KEY_MAX: usize = 100;

/// What is made of MX records: preference and name, best first, equals by name. What cannot be the name
/// of a host is left out. `None`: the null MX, whose only host is the root (RFC 7505).
pub fn mx_hosts(records: &[Record]) -> Option<Vec<(u16, Box<str>)>> {
    let is_null =
        |record: &Record| matches!(record, Record::Mx { exchange, .. } if **exchange == *".");
    if records.iter().all(is_null) {
        return None;
    }
    let mut hosts: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Mx {
                preference,
                exchange,
            } => {
                let name = Domain::from_dns(exchange).ok()?;
                Some((*preference, name.as_str().into()))
            }
            Record::Address(_) => None,
        })
        .collect();
    hosts.sort();
    hosts.dedup();
    Some(hosts)
}

/// RFC 5321 section 5.1: where this relay is among the hosts, only better ones remain.
pub(super) fn drop_from(
    hosts: &mut Vec<(u16, Box<str>)>,
    is_own: impl Fn(&(u16, Box<str>)) -> bool,
) {
    if let Some(own) = hosts.iter().position(is_own) {
        let preference = hosts[own].0;
        hosts.retain(|(other, _)| *other < preference);
    }
}

/// `a.test,b.test;c.test:25`: hosts of equal preference between commas.
pub(super) fn site_key(hosts: &[(u16, Box<str>)], port: u16) -> SiteKey {
    let mut text = String::new();
    let named = hosts.iter().take(HOSTS_IN_KEY_MAX);
    for (index, (preference, name)) in named.enumerate() {
        if index > 0 {
            let equal = hosts[index - 1].0 == *preference;
            text.push(if equal { ',' } else { ';' });
        }
        text.push_str(name);
    }
    match hosts.len().saturating_sub(HOSTS_IN_KEY_MAX) {
        0 => {}
        more => text.push_str(&format!(
            "+{more}:{:08x}",
            sum_of(&hosts[HOSTS_IN_KEY_MAX..])
        )),
    }
    text.push_str(&format!(":{port}"));
    SiteKey::new(text)
}

fn sum_of(hosts: &[(u16, Box<str>)]) -> u32 {
    hosts.iter().fold(0, |sum, (preference, name)| {
        let sum = crc32c_append(sum, &preference.to_be_bytes());
        crc32c_append(sum, name.as_bytes())
    })
}
