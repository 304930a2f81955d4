//! Values as they stand in flags and files: no text panics, and what is taken reads back as the same.

use ringpost::config::{ClientNet, CpuList, TlsFor};
use ringpost::domain::Domain;
use ringpost::domain::pattern::DomainPattern;
use ringpost::policy::relaying::KnownRecipient;
use ringpost::remote::route::{NextHop, RouteTable};
use ringpost::text::units::{Bytes, Span};
use std::fmt::{Debug, Display};
use std::str::FromStr;

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    reads_back::<Bytes>(text);
    reads_back::<DomainPattern>(text);
    reads_back::<Domain>(text);
    let _ = text.parse::<KnownRecipient>();
    reads_back::<NextHop>(text);
    reads_back::<Span>(text);
    let _ = text.parse::<ClientNet>();
    if let Ok(cpus) = text.parse::<CpuList>() {
        assert!((1..=1024).contains(&cpus.0.len()));
    }
    if let Ok(tls) = text.parse::<TlsFor>() {
        let end = text.rsplit_once('=').map_or("", |(_, level)| level);
        assert!(!end.is_empty(), "{tls:?}");
    }
    routes(text);
}

fn reads_back<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Debug + PartialEq,
{
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        assert_eq!(written.parse(), Ok(value), "{text:?} became {written:?}");
    }
}

/// A routes file, one entry a line.
fn routes(text: &str) {
    let mut table = RouteTable::default();
    let mut taken = 0;
    for line in text.lines() {
        taken += usize::from(table.add_entry(line, "line").is_ok());
        let domain = line.split(['=', ' ']).next().unwrap_or("");
        if let Ok(domain) = Domain::parse(domain) {
            reads_back::<NextHop>(&table.next_hop(&domain).to_string());
        }
    }
    assert!(table.len() >= taken);
}
