//! Certificates of a peer: no bytes panic, and none are believed but those that the operator trusts.

use ringpost::message::CertificateVerdict;
use ringpost::time::WallTime;
use ringpost::tls::policy::{Judge, TrustAnchors};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

use super::option;

/// In the time of validity of what the corpus holds.
const NOW: WallTime = WallTime(1_800_000_000_000);

pub fn run(mut input: &[u8]) {
    let split = usize::from(option(&mut input)) * 4;
    let (own, other) = input.split_at(split.min(input.len()));
    let chain = match other.is_empty() {
        true => vec![CertificateDer::from(own)],
        false => vec![CertificateDer::from(other), CertificateDer::from(own)],
    };
    let nobody = Judge::new(Arc::new(TrustAnchors::none()));
    for name in ["mx.test", "192.0.2.1", "[IPv6:2001:db8::1]", ""] {
        let verdict = nobody.judge(&chain, name, NOW);
        let is_believed = matches!(
            verdict,
            CertificateVerdict::Verified | CertificateVerdict::NameMismatch
        );
        assert!(!is_believed, "{verdict}");
        assert_eq!(
            nobody.judge(&chain, name, NOW),
            verdict,
            "as it was remembered"
        );
    }
    trusted(&chain);
}

/// The peer's own certificate is one that the operator named.
fn trusted(chain: &[CertificateDer<'_>]) {
    let mut anchors = TrustAnchors::none();
    anchors.add(&chain[0], NOW);
    let judge = Judge::new(Arc::new(anchors));
    let verdict = judge.judge(chain, "mx.test", NOW);
    assert_ne!(verdict, CertificateVerdict::Unasked);
}
