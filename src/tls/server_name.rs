//! Whom a certificate has to name.

use crate::domain::Domain;
use rustls_pki_types::ServerName;
use std::net::IpAddr;

/// A host name without its final dot, or an address with or without the brackets of an address
/// literal (RFC 5321 section 4.1.3). `None`: neither.
pub fn parse_server_name(text: &str) -> Option<ServerName<'static>> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let bare = bare.strip_prefix("IPv6:").unwrap_or(bare);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(ServerName::IpAddress(address.into()));
    }
    let name = Domain::from_dns(text).ok()?;
    ServerName::try_from(name.as_str().to_owned()).ok()
}
