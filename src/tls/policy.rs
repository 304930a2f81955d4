//! What a peer's certificate is worth, and what a destination demands.
//!
//! Judged after every handshake, resumed or not: a resumed session brings the chain of the first
//! one along, and the clock and the name may have changed since.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256, digest};
use rustls::crypto::ring::default_provider;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::cache::Generations;
use super::certificate::{CertificateError, read_chain};
use super::der;
use super::server_name::parse_server_name;
use crate::message::CertificateVerdict;
use crate::time::WallTime;

/// Chains whose verdict is remembered, per core; 100 bytes each. Checking one costs 53 us,
/// hashing it 2 us.
pub const VERDICTS_MAX: usize = 8192;

/// For how long a verdict is believed, unless a certificate of the chain runs out before.
pub const VERDICT_LIFETIME: Duration = Duration::from_secs(3600);

/// How much TLS a destination demands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum TlsLevel {
    /// Never TLS.
    None,
    /// TLS if it works (RFC 7435): plaintext if it is not offered or fails.
    #[default]
    May,
    /// TLS with whoever answers, never plaintext.
    Encrypt,
    /// TLS with the host that was meant, proven by a certificate.
    Verify,
}

impl TlsLevel {
    pub const ALL: [TlsLevel; 4] = [
        TlsLevel::None,
        TlsLevel::May,
        TlsLevel::Encrypt,
        TlsLevel::Verify,
    ];

    /// True if mail may go out without TLS, also after TLS was tried and failed.
    pub fn allows_plaintext(self) -> bool {
        self <= TlsLevel::May
    }

    /// True if STARTTLS is used where it is offered.
    pub fn wants_tls(self) -> bool {
        self != TlsLevel::None
    }

    /// True if mail may go over TLS with a peer judged so.
    pub fn accepts(self, verdict: CertificateVerdict) -> bool {
        self < TlsLevel::Verify || verdict == CertificateVerdict::Verified
    }

    fn as_str(self) -> &'static str {
        match self {
            TlsLevel::None => "none",
            TlsLevel::May => "may",
            TlsLevel::Encrypt => "encrypt",
            TlsLevel::Verify => "verify",
        }
    }
}

impl fmt::Display for TlsLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TlsLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        TlsLevel::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("{text:?} is none of none, may, encrypt, verify"))
    }
}

/// The certificates that are trusted; loaded once, shared by all cores.
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    /// SHA-256 of certificates that the operator named: trusted also where they are not CAs, as
    /// self-signed certificates of internal hosts are.
    named: HashSet<[u8; 32]>,
    /// Certificates of the system's store that are none: expired, or without CA:TRUE.
    left_out: usize,
}

impl TrustAnchors {
    /// Nobody is trusted: every chain is [`CertificateVerdict::Untrusted`] at best.
    pub fn none() -> Self {
        TrustAnchors {
            anchors: Vec::new(),
            named: HashSet::new(),
            left_out: 0,
        }
    }

    /// The system's store (or what `SSL_CERT_FILE` and `SSL_CERT_DIR` say), unless only the others are
    /// wanted, and the PEM file `extra`. Also returns what could not be used, for the log: that is
    /// no error, since a host may have no store at all.
    pub fn load(
        extra: Option<&Path>,
        only_extra: bool,
        now: WallTime,
    ) -> Result<(Self, Vec<String>), CertificateError> {
        let mut trusted = Self::none();
        let mut complaints = Vec::new();
        if !only_extra {
            let system = rustls_native_certs::load_native_certs();
            complaints.extend(system.errors.iter().map(ToString::to_string));
            let certificates = system.certs.iter();
            let left_out = certificates.filter(|certificate| !trusted.add_anchor(certificate, now));
            trusted.left_out = left_out.count();
        }
        if let Some(path) = extra {
            for (index, certificate) in read_chain(path)?.iter().enumerate() {
                if is_over(certificate, now) {
                    complaints.push(format!(
                        "certificate {} of {} has expired and is not trusted",
                        index + 1,
                        path.display()
                    ));
                    continue;
                }
                trusted.add(certificate, now);
            }
        }
        Ok((trusted, complaints))
    }

    /// Trusts one certificate that the operator named: one that says CA:TRUE for all that it has signed,
    /// any other for itself alone. (Of version 1 is for itself: it says nothing.)
    pub fn add(&mut self, certificate: &CertificateDer<'_>, now: WallTime) {
        self.named.insert(sha256(certificate));
        self.add_anchor(certificate, now);
    }

    /// Certificates of the system's store that are not trusted: expired, or without CA:TRUE.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    pub fn len(&self) -> usize {
        self.anchors.len().max(self.named.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add_anchor(&mut self, certificate: &CertificateDer<'_>, now: WallTime) -> bool {
        if !der::is_ca(certificate) || is_over(certificate, now) {
            return false;
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate);
        let anchor = anchor.map(|anchor| self.anchors.push(anchor.to_owned()));
        anchor.is_ok()
    }
}

fn is_over(certificate: &CertificateDer<'_>, now: WallTime) -> bool {
    let end = der::fields(certificate).and_then(|fields| fields.not_after);
    end.is_some_and(|end| end < (now.0 / 1000) as i64)
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAnchors")
            .field("anchors", &self.anchors.len())
            .field("named", &self.named.len())
            .finish()
    }
}

/// Judges certificates and remembers its verdicts. One per core.
pub struct Judge {
    trusted: Arc<TrustAnchors>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    memory: RefCell<Generations<[u8; 32], Remembered>>,
}

struct Remembered {
    verdict: CertificateVerdict,
    from: WallTime,
    until: WallTime,
}

impl Judge {
    pub fn new(trusted: Arc<TrustAnchors>) -> Self {
        Judge {
            trusted,
            algorithms: default_provider().signature_verification_algorithms.all,
            memory: RefCell::new(Generations::new(VERDICTS_MAX)),
        }
    }

    /// Whether `peer_certificates` (the chain as it was sent, the peer's own first) proves that
    /// the peer is `server_name`, a host name or an address, at `now`. RFC 5280 for the chain,
    /// RFC 9525 for the name; revocation is not looked at. An empty chain is `Unasked`.
    pub fn judge(
        &self,
        peer_certificates: &[CertificateDer<'_>],
        server_name: &str,
        now: WallTime,
    ) -> CertificateVerdict {
        if peer_certificates.is_empty() {
            return CertificateVerdict::Unasked;
        }
        let key = memory_key(peer_certificates, server_name);
        let mut memory = self.memory.borrow_mut();
        if let Some(remembered) = memory.get(&key)
            && (remembered.from..remembered.until).contains(&now)
        {
            return remembered.verdict;
        }
        let verdict = self.judge_uncached(peer_certificates, server_name, now);
        let until = (now + VERDICT_LIFETIME).min(next_expiry(peer_certificates, now));
        memory.insert(
            key,
            Remembered {
                verdict,
                from: now,
                until,
            },
        );
        verdict
    }

    fn judge_uncached(
        &self,
        peer_certificates: &[CertificateDer<'_>],
        server_name: &str,
        now: WallTime,
    ) -> CertificateVerdict {
        let (own, others) = (&peer_certificates[0], &peer_certificates[1..]);
        let Ok(parsed) = EndEntityCert::try_from(own) else {
            return CertificateVerdict::Unparsable;
        };
        let chain = if self.trusted.named.contains(&sha256(own)) {
            judge_validity(own, now)
        } else {
            self.judge_chain(&parsed, others, now)
        };
        if chain != CertificateVerdict::Verified {
            return chain;
        }
        if der::fields(own).is_none_or(|fields| fields.key_kind.is_weak_rsa()) {
            return CertificateVerdict::Untrusted;
        }
        match parse_server_name(server_name) {
            Some(name) if parsed.verify_is_valid_for_subject_name(&name).is_ok() => {
                CertificateVerdict::Verified
            }
            _ => CertificateVerdict::NameMismatch,
        }
    }

    fn judge_chain(
        &self,
        own: &EndEntityCert<'_>,
        others: &[CertificateDer<'_>],
        now: WallTime,
    ) -> CertificateVerdict {
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        let path = own.verify_for_usage(
            self.algorithms,
            &self.trusted.anchors,
            others,
            time,
            KeyUsage::server_auth(),
            None,
            None,
        );
        match path {
            Ok(_) => CertificateVerdict::Verified,
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => {
                CertificateVerdict::Expired
            }
            Err(_) => CertificateVerdict::Untrusted,
        }
    }
}

/// For a certificate that is trusted by itself: only the clock can speak against it.
fn judge_validity(certificate: &CertificateDer<'_>, now: WallTime) -> CertificateVerdict {
    let now = (now.0 / 1000) as i64;
    let validity = der::fields(certificate).and_then(|f| Some((f.not_before?, f.not_after?)));
    match validity {
        Some((from, to)) if from <= now && now <= to => CertificateVerdict::Verified,
        Some(_) => CertificateVerdict::Expired,
        None => CertificateVerdict::Untrusted,
    }
}

/// The first moment after `now` at which a certificate starts or ceases to be valid.
fn next_expiry(certificates: &[CertificateDer<'_>], now: WallTime) -> WallTime {
    certificates
        .iter()
        .filter_map(|certificate| der::fields(certificate))
        .flat_map(|fields| [fields.not_before, fields.not_after.map(|last| last + 1)])
        .flatten()
        .filter_map(|seconds| u64::try_from(seconds).ok()?.checked_mul(1000))
        .filter(|&change| change > now.0)
        .min()
        .map_or(WallTime(u64::MAX), WallTime)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// SHA-256 over the chain and the name, each with its length in front.
fn memory_key(certificates: &[CertificateDer<'_>], server_name: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in certificates
        .iter()
        .map(|certificate| certificate.as_ref())
        .chain([server_name.as_bytes()])
    {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    const NOW: WallTime = WallTime(1_780_000_000_000); // in 2026

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: CertificateDer<'static>,
        pem: String,
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let made = params.self_signed(&key).unwrap();
        let (certificate, pem) = (made.der().clone(), made.pem());
        let issuer = Issuer::new(params, key);
        Authority {
            issuer,
            certificate,
            pem,
        }
    }

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params
    }

    fn issue(authority: &Authority, params: &CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &authority.issuer).unwrap();
        signed.der().clone()
    }

    fn judge_trusting(certificate: &CertificateDer<'_>) -> Judge {
        let mut trusted = TrustAnchors::none();
        trusted.add(certificate, NOW);
        Judge::new(Arc::new(trusted))
    }

    #[test]
    fn names_are_names_or_addresses() {
        let ca = authority();
        let leaf = [issue(
            &ca,
            &params(&["mx.test", "*.wild.test", "192.0.2.1"]),
        )];
        let judge = judge_trusting(&ca.certificate);
        for (name, verdict) in [
            ("mx.test", CertificateVerdict::Verified),
            ("MX.test.", CertificateVerdict::Verified),
            ("a.wild.test", CertificateVerdict::Verified),
            ("[192.0.2.1]", CertificateVerdict::Verified),
            ("192.0.2.2", CertificateVerdict::NameMismatch),
            ("a.b.wild.test", CertificateVerdict::NameMismatch),
            ("other.test", CertificateVerdict::NameMismatch),
            ("no name", CertificateVerdict::NameMismatch),
            ("", CertificateVerdict::NameMismatch),
        ] {
            assert_eq!(judge.judge(&leaf, name, NOW), verdict, "{name}");
        }
    }

    #[test]
    fn strangers_are_untrusted() {
        let leaf = [issue(&authority(), &params(&["mx.test"]))];
        let nobody = Judge::new(Arc::new(TrustAnchors::none()));
        let another = judge_trusting(&authority().certificate);
        assert_eq!(
            nobody.judge(&leaf, "mx.test", NOW),
            CertificateVerdict::Untrusted
        );
        assert_eq!(
            another.judge(&leaf, "mx.test", NOW),
            CertificateVerdict::Untrusted
        );
        assert_eq!(
            nobody.judge(&[], "mx.test", NOW),
            CertificateVerdict::Unasked
        );
        let noise = CertificateDer::from(vec![0x30; 20]);
        assert_eq!(
            nobody.judge(&[noise], "mx.test", NOW),
            CertificateVerdict::Unparsable
        );
    }

    #[test]
    fn a_remembered_verdict_ends_with_the_certificate() {
        let ca = authority();
        let leaf = [issue(&ca, &params(&["mx.test"]))];
        let judge = judge_trusting(&ca.certificate);
        let end = WallTime(1_893_456_000_000); // 2030-01-01, still valid in that second
        let just_before = WallTime(end.0 - 60_000);
        assert_eq!(
            judge.judge(&leaf, "mx.test", just_before),
            CertificateVerdict::Verified
        );
        assert_eq!(
            judge.judge(&leaf, "mx.test", end),
            CertificateVerdict::Verified
        );
        let after = WallTime(end.0 + 1000);
        assert_eq!(
            judge.judge(&leaf, "mx.test", after),
            CertificateVerdict::Expired
        );
        // The clock was set back: what was remembered for later does not count.
        assert_eq!(
            judge.judge(&leaf, "mx.test", NOW),
            CertificateVerdict::Verified
        );
        let early = WallTime(1_500_000_000_000);
        assert_eq!(
            judge.judge(&leaf, "mx.test", early),
            CertificateVerdict::Expired
        );
    }

    /// With its key anybody could else be signed for.
    #[test]
    fn a_named_leaf_is_no_ca() {
        let key = KeyPair::generate().unwrap();
        let own = params(&["exchange.test"]);
        let named = own.self_signed(&key).unwrap().der().clone();
        let judge = judge_trusting(&named);
        let leaf = Authority {
            issuer: Issuer::new(own, key),
            certificate: named.clone(),
            pem: String::new(),
        };
        let forged = issue(&leaf, &params(&["mx.test"]));
        let chain = [forged, named.clone()];
        assert_eq!(
            judge.judge(&chain, "mx.test", NOW),
            CertificateVerdict::Untrusted
        );
        assert_eq!(
            judge.judge(&[named], "exchange.test", NOW),
            CertificateVerdict::Verified
        );
    }

    #[test]
    fn an_expired_root_is_refused_when_it_is_loaded() {
        let ca = authority();
        let pem = ca.pem;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        let load = |now| TrustAnchors::load(Some(file.path()), true, now).unwrap();
        let (trusted, complaints) = load(NOW);
        assert_eq!((trusted.len(), complaints.len()), (1, 0));
        let (trusted, complaints) = load(WallTime(u64::MAX / 2));
        assert!(trusted.is_empty());
        assert!(complaints[0].contains("has expired"), "{complaints:?}");
    }

    #[test]
    fn a_named_self_signed_certificate_is_verified() {
        let key = KeyPair::generate().unwrap();
        let own = params(&["exchange.test"]).self_signed(&key).unwrap();
        let chain = [own.der().clone()];
        let judge = judge_trusting(own.der());
        assert_eq!(
            judge.judge(&chain, "exchange.test", NOW),
            CertificateVerdict::Verified
        );
        assert_eq!(
            judge.judge(&chain, "mx.test", NOW),
            CertificateVerdict::NameMismatch
        );
        let late = WallTime(1_900_000_000_000);
        assert_eq!(
            judge.judge(&chain, "exchange.test", late),
            CertificateVerdict::Expired
        );
        let nobody = Judge::new(Arc::new(TrustAnchors::none()));
        assert_eq!(
            nobody.judge(&chain, "exchange.test", NOW),
            CertificateVerdict::Untrusted
        );
    }

    #[test]
    fn levels_read_back_and_demand_more_and_more() {
        for level in TlsLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("Verify".parse::<TlsLevel>().is_err());
        assert!(TlsLevel::May.allows_plaintext() && !TlsLevel::Encrypt.allows_plaintext());
        assert!(!TlsLevel::None.wants_tls() && TlsLevel::May.wants_tls());
        assert!(TlsLevel::Encrypt.accepts(CertificateVerdict::Untrusted));
        assert!(!TlsLevel::Verify.accepts(CertificateVerdict::NameMismatch));
        assert!(!TlsLevel::Verify.accepts(CertificateVerdict::Unasked));
        assert!(TlsLevel::Verify.accepts(CertificateVerdict::Verified));
    }
}
