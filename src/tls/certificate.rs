//! The relay's own certificates: given by the operator, or made at the first start and kept.
//!
//! Promise: STARTTLS needs no configuration. Errors say which file is at fault and what to do.
//! Not here: which of several a client gets (`server`).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use ring::digest::{SHA256, digest};
use rustls::SignatureAlgorithm;
use rustls::crypto::ring::{Ticketer, sign::any_supported_type};
use rustls::server::ProducesTickets;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use webpki::EndEntityCert;

use super::der;
use super::server_name::parse_server_name;
use crate::io::file;
use crate::io::whole::{self, Kinds};
use crate::time::WallTime;

/// How long a certificate that we make is valid. Nobody renews it by hand.
const GENERATED_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Made valid from a little earlier, for peers whose clock is behind.
const GENERATED_BACKDATING: Duration = Duration::from_secs(24 * 3600);

/// A kept certificate is made anew this long before it runs out.
const RENEWAL_MARGIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// A PEM file larger than this is none of ours to read.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Where [`load_or_generate`] keeps the private key.
pub fn kept_key(directory: &Path) -> PathBuf {
    directory.join(KEPT_KEY)
}

const KEPT_CERTIFICATE: &str = "generated-cert.pem";
const KEPT_KEY: &str = "generated-key.pem";

/// RFC 5280 appendix A.1, ub-common-name.
const COMMON_NAME_BYTES_MAX: usize = 64;

/// What a server needs to know about itself, shared by all cores: chains, keys, and the keys of
/// the tickets that it hands out.
#[derive(Clone)]
pub struct ServerKeys {
    /// In the order of preference; at least one.
    own: Vec<Own>,
    /// For clients that can use none of these.
    spare: Option<Own>,
    tickets: Arc<dyn ProducesTickets>,
}

#[derive(Clone)]
struct Own {
    key: Arc<CertifiedKey>,
    source: Arc<str>,
}

/// One of the certificates, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub source: Arc<str>,
    /// EC, RSA or Ed25519.
    pub kind: &'static str,
    /// SHA-256 as `AB:CD:...`, as `openssl x509 -fingerprint` prints it.
    pub fingerprint: String,
    /// It is for clients that can use no other.
    pub is_spare: bool,
}

impl ServerKeys {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        certificate_path: &Path,
        key_path: &Path,
    ) -> Result<Self, CertificateError> {
        let complain = |path: &Path, problem| CertificateError {
            path: path.to_owned(),
            problem,
        };
        let key = any_supported_type(&key)
            .map_err(|error| complain(key_path, Problem::BadKey(error.to_string())))?;
        let fields = chain
            .first()
            .and_then(|own| der::fields(own))
            .ok_or_else(|| complain(certificate_path, Problem::BadCertificate))?;
        if key.public_key().is_some_and(|spki| *spki != *fields.spki) {
            let certificate = certificate_path.to_owned();
            return Err(complain(key_path, Problem::KeyDoesNotFit { certificate }));
        }
        let tickets = Ticketer::new()
            .map_err(|error| complain(key_path, Problem::BadKey(error.to_string())))?;
        Ok(ServerKeys {
            own: vec![Own {
                key: Arc::new(CertifiedKey::new(chain, key)),
                source: format!("from {}", certificate_path.display()).into(),
            }],
            spare: None,
            tickets,
        })
    }

    /// For tests that need what [`load`] refuses or makes itself.
    #[cfg(test)]
    pub(super) fn unchecked(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Self {
        let key = any_supported_type(key).unwrap();
        ServerKeys {
            own: vec![Own {
                key: Arc::new(CertifiedKey::new(chain, key)),
                source: "a test".into(),
            }],
            spare: None,
            tickets,
        }
    }

    fn with_source(mut self, source: impl fmt::Display) -> Self {
        let source: Arc<str> = source.to_string().into();
        for own in &mut self.own {
            own.source = source.clone();
        }
        self
    }

    /// For clients that can use none of the others, those of `other` as well.
    #[must_use]
    pub fn followed_by(mut self, other: ServerKeys) -> Self {
        self.own.extend(other.own);
        self
    }

    /// As [`ServerKeys::followed_by`], with one that says nothing of the host: no warning is about it.
    #[must_use]
    pub fn with_spare(mut self, spare: ServerKeys) -> Self {
        self.spare = spare.own.into_iter().next();
        self
    }

    /// In the order of preference; at least one.
    pub(super) fn certified_keys(&self) -> Vec<Arc<CertifiedKey>> {
        let all = self.own.iter().chain(&self.spare);
        all.map(|own| own.key.clone()).collect()
    }

    pub(super) fn ticketer(&self) -> Arc<dyn ProducesTickets> {
        self.tickets.clone()
    }

    /// With the spare one of `previous`, if there is one.
    #[must_use]
    pub fn with_spare_of(self, previous: &ServerKeys) -> Self {
        ServerKeys {
            spare: previous.spare.clone(),
            ..self
        }
    }

    /// These keys with the ticket keys of `previous`: after a reload clients still resume.
    pub fn keeping_tickets_of(self, previous: &ServerKeys) -> Self {
        ServerKeys {
            tickets: previous.tickets.clone(),
            ..self
        }
    }

    /// All certificates, in the order of preference.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = |own: &Own, is_spare| Shown {
            source: own.source.clone(),
            kind: match own.key.key.algorithm() {
                SignatureAlgorithm::ECDSA => "EC",
                SignatureAlgorithm::RSA => "RSA",
                SignatureAlgorithm::ED25519 => "Ed25519",
                _ => "other",
            },
            fingerprint: own.fingerprint(),
            is_spare,
        };
        let own = self.own.iter().map(|own| shown(own, false));
        own.chain(self.spare.iter().map(|own| shown(own, true)))
            .collect()
    }

    /// What the operator should hear at the start: nothing of it keeps the relay from running.
    pub fn warnings(&self, hostname: &str, now: WallTime) -> Vec<String> {
        let own = self.own.iter();
        own.flat_map(|own| own.warnings(hostname, now)).collect()
    }
}

impl Own {
    fn fingerprint(&self) -> String {
        let hash = digest(&SHA256, self.der());
        let bytes: Vec<_> = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        bytes.join(":")
    }

    /// The last second in which it is valid.
    fn valid_until(&self) -> Option<WallTime> {
        let seconds = u64::try_from(der::fields(self.der())?.not_after?).ok()?;
        Some(WallTime(seconds.saturating_mul(1000)))
    }

    /// True if it bears this name (RFC 9525).
    fn is_for(&self, hostname: &str) -> bool {
        let own = CertificateDer::from(self.der());
        let (Ok(parsed), Some(name)) = (EndEntityCert::try_from(&own), parse_server_name(hostname))
        else {
            return false;
        };
        parsed.verify_is_valid_for_subject_name(&name).is_ok()
    }

    fn warnings(&self, hostname: &str, now: WallTime) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(fields) = der::fields(self.der()) else {
            return warnings;
        };
        let now_s = (now.0 / 1000) as i64;
        let margin_s = RENEWAL_MARGIN.as_secs() as i64;
        match (fields.not_before, fields.not_after) {
            (_, Some(end)) if end < now_s => {
                warnings.push(format!("it expired on {}", day(end)));
            }
            (_, Some(end)) if end < now_s.saturating_add(margin_s) => {
                warnings.push(format!("it expires on {}", day(end)));
            }
            (Some(start), _) if start > now_s => {
                warnings.push(format!("it is not valid before {}", day(start)));
            }
            _ => {}
        }
        if !self.is_for(hostname) {
            warnings.push(format!("it is not for {hostname}"));
        }
        let source = &self.source;
        for warning in &mut warnings {
            *warning = format!("the certificate {source}: {warning}");
        }
        warnings
    }

    fn der(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], |own| own.as_ref())
    }
}

/// Leaves the private key out.
impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerKeys")
            .field("certificates", &self.shown())
            .finish_non_exhaustive()
    }
}

fn day(unix_seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .map_or_else(|_| "?".to_owned(), |time| time.date().to_string())
}

/// Which file is at fault, and why.
#[derive(Debug)]
pub struct CertificateError {
    pub path: PathBuf,
    pub problem: Problem,
}

#[derive(Debug)]
pub enum Problem {
    Io(io::Error),
    TooLarge,
    NotPem(String),
    NoCertificate,
    NoKey,
    EncryptedKey,
    /// The first certificate of the file is not X.509.
    BadCertificate,
    BadKey(String),
    KeyDoesNotFit {
        certificate: PathBuf,
    },
    /// The name cannot be put into a certificate.
    Name(String),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => write!(f, "{path} does not exist"),
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "{path} may not be accessed: give the relay's user the permission (to a running \
                     relay what has moved to another directory needs a restart)"
                ),
                _ => write!(f, "{path}: {error}"),
            },
            Problem::TooLarge => write!(f, "{path} is larger than {PEM_BYTES_MAX} bytes: no PEM"),
            Problem::NotPem(why) => write!(
                f,
                "{path} is damaged ({why}): give a PEM file, with -----BEGIN and -----END lines"
            ),
            Problem::NoCertificate => write!(
                f,
                "{path} has no certificate: give a PEM file (-----BEGIN CERTIFICATE-----); for --tls-cert \
                 the host's own comes first, then the intermediate ones"
            ),
            Problem::NoKey => write!(
                f,
                "{path} has no private key that can be used: give an unencrypted PEM file with \
                 -----BEGIN PRIVATE KEY-----, EC PRIVATE KEY or RSA PRIVATE KEY"
            ),
            Problem::EncryptedKey => write!(
                f,
                "{path} is encrypted: nobody gives the relay the passphrase; write the key without one \
                 (openssl pkey -in {path} -out NEW.pem) and keep it from others (chmod 600)"
            ),
            Problem::BadCertificate => {
                write!(f, "{path}: the first certificate is not X.509")
            }
            Problem::BadKey(why) => write!(
                f,
                "{path}: this private key cannot be used ({why}): EC P-256 or P-384, Ed25519 \
                 and RSA of 2048 bits and more can"
            ),
            Problem::KeyDoesNotFit { certificate } => write!(
                f,
                "{path} is not the key of the first certificate in {}: the host's own \
                 certificate comes first, the others after it",
                certificate.display()
            ),
            Problem::Name(why) => write!(f, "no certificate can be made for this name: {why}"),
        }
    }
}

impl std::error::Error for CertificateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            _ => None,
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CertificateError + '_ {
    |error| CertificateError {
        path: path.to_owned(),
        problem: Problem::Io(error),
    }
}

/// The operator's certificate: a PEM chain, the host's own certificate first, and its key as
/// PKCS #8, SEC1 or PKCS #1. Both may be the same file. An expired certificate is used; see
/// [`ServerKeys::warnings`].
pub fn load(
    certificate_path: &Path,
    key_path: &Path,
    kinds: Kinds,
) -> Result<ServerKeys, CertificateError> {
    let chain = parse_chain(certificate_path, &read(certificate_path, kinds)?)?;
    let key = parse_key(key_path, &read(key_path, kinds)?)?;
    ServerKeys::new(chain, key, certificate_path, key_path)
}

/// All certificates of a PEM file; at least one. For a start.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    parse_chain(path, &read(path, Kinds::Any)?)
}

fn parse_chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let complain = |problem| CertificateError {
        path: path.to_owned(),
        problem,
    };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| complain(Problem::NotPem(error.to_string())))?;
    if chain.is_empty() {
        return Err(complain(Problem::NoCertificate));
    }
    Ok(chain)
}

fn parse_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let is_encrypted = ENCRYPTED
        .iter()
        .any(|mark| memmem::find(pem, mark).is_some());
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| CertificateError {
        path: path.to_owned(),
        problem: match error {
            _ if is_encrypted => Problem::EncryptedKey,
            rustls_pki_types::pem::Error::NoItemsFound => Problem::NoKey,
            error => Problem::NotPem(error.to_string()),
        },
    })
}

/// RFC 7468 section 11, and the traditional form (RFC 1421).
const ENCRYPTED: [&[u8]; 2] = [
    b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
    b"Proc-Type: 4,ENCRYPTED",
];

fn read(path: &Path, kinds: Kinds) -> Result<Vec<u8>, CertificateError> {
    whole::read_blocking(path, kinds, PEM_BYTES_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => CertificateError {
            path: path.to_owned(),
            problem: Problem::TooLarge,
        },
        _ => io_error(path)(error),
    })
}

/// Where the certificate of [`load_or_generate`] came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Made at an earlier start.
    Kept,
    /// Made just now, because...
    Generated(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Kept => f.write_str("self-signed, kept from an earlier start"),
            Origin::Generated(why) => write!(f, "self-signed, made now: {why}"),
        }
    }
}

/// The certificate kept in `directory`; a new one (EC P-256, self-signed, for ten years) if there
/// is none for `hostname`, if it is about to run out at `now`, or if it cannot be used.
///
/// Two files, the key with mode 0600, each replaced whole. A crash between the two leaves a pair
/// that does not fit, which the next start replaces.
pub fn load_or_generate(
    directory: &Path,
    hostname: &str,
    now: WallTime,
) -> Result<(ServerKeys, Origin), CertificateError> {
    let certificate_path = directory.join(KEPT_CERTIFICATE);
    let key_path = kept_key(directory);
    let reason = match load_kept(directory, hostname, now) {
        Ok(keys) => return Ok((keys.with_source(Origin::Kept), Origin::Kept)),
        Err(reason) => reason,
    };
    let (certificate, key) = generate_for(directory, hostname, now)?;
    check_is_directory(directory)?;
    create_directory(directory).map_err(io_error(directory))?;
    write_durably(directory, KEPT_KEY, &key, 0o600).map_err(io_error(&key_path))?;
    write_durably(directory, KEPT_CERTIFICATE, &certificate, 0o644)
        .map_err(io_error(&certificate_path))?;
    let keys = load(&certificate_path, &key_path, Kinds::RegularFile)?;
    let origin = Origin::Generated(reason);
    Ok((keys.with_source(&origin), origin))
}

/// As [`load_or_generate`], but what would be written is thrown away. With `is_made_before`
/// whoever starts the relay makes the directory if it is missing.
///
/// # Errors
/// As [`load_or_generate`] would fail.
pub fn check_or_generate(
    directory: &Path,
    hostname: &str,
    now: WallTime,
    is_made_before: bool,
) -> Result<ServerKeys, CertificateError> {
    if let Ok(keys) = load_kept(directory, hostname, now) {
        return Ok(keys);
    }
    let (certificate, key) = generate_for(directory, hostname, now)?;
    check_is_directory(directory)?;
    let key_path = kept_key(directory);
    match (directory.exists(), is_made_before) {
        (true, _) => file::check_writable_blocking(directory).map_err(io_error(&key_path)),
        (false, true) => file::check_enterable_blocking(file::existing_part(directory))
            .map_err(io_error(directory)),
        (false, false) => file::check_makeable_blocking(directory).map_err(io_error(directory)),
    }?;
    let certificate_path = directory.join(KEPT_CERTIFICATE);
    let chain = parse_chain(&certificate_path, certificate.as_bytes())?;
    let key = parse_key(&key_path, key.as_bytes())?;
    ServerKeys::new(chain, key, &certificate_path, &key_path)
}

/// What an earlier start has left, or why it is of no use.
fn load_kept(directory: &Path, hostname: &str, now: WallTime) -> Result<ServerKeys, String> {
    let certificate_path = directory.join(KEPT_CERTIFICATE);
    let key_path = kept_key(directory);
    match load(&certificate_path, &key_path, Kinds::RegularFile) {
        Ok(keys) => match reason_to_renew(&keys, hostname, now) {
            None => Ok(keys),
            Some(reason) => Err(reason),
        },
        Err(error) if !certificate_path.exists() && !key_path.exists() => {
            debug_assert!(matches!(error.problem, Problem::Io(_)));
            Err("there was none".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn generate_for(
    directory: &Path,
    hostname: &str,
    now: WallTime,
) -> Result<(String, String), CertificateError> {
    generate(hostname, now).map_err(|error| CertificateError {
        path: directory.join(KEPT_CERTIFICATE),
        problem: Problem::Name(error.to_string()),
    })
}

fn check_is_directory(path: &Path) -> Result<(), CertificateError> {
    match path.exists() && !path.is_dir() {
        true => Err(io_error(path)(io::ErrorKind::NotADirectory.into())),
        false => Ok(()),
    }
}

fn reason_to_renew(keys: &ServerKeys, hostname: &str, now: WallTime) -> Option<String> {
    let own = &keys.own[0];
    if !own.is_for(hostname) {
        return Some("the host has another name now".to_owned());
    }
    if own
        .valid_until()
        .is_none_or(|end| end < now + RENEWAL_MARGIN)
    {
        return Some("the old one was about to expire".to_owned());
    }
    None
}

/// Certificate and key as PEM.
fn generate(hostname: &str, now: WallTime) -> Result<(String, String), rcgen::Error> {
    let name = hostname.strip_suffix('.').unwrap_or(hostname);
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    let common_name = if name.len() <= COMMON_NAME_BYTES_MAX {
        name
    } else {
        "ringpost"
    };
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let now = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(now.0);
    params.not_before = now - GENERATED_BACKDATING;
    params.not_after = now + GENERATED_VALIDITY;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn create_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Writes beside, syncs, renames over `name`, and syncs the directory: `name` is the old or the
/// new file, whatever happens.
fn write_durably(directory: &Path, name: &str, content: &str, mode: u32) -> io::Result<()> {
    let beside = directory.join(format!("{name}.new"));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_780_000_000_000); // in 2026

    fn kept(directory: &Path) -> (PathBuf, PathBuf) {
        (directory.join(KEPT_CERTIFICATE), directory.join(KEPT_KEY))
    }

    fn origin(directory: &Path, hostname: &str, now: WallTime) -> Origin {
        load_or_generate(directory, hostname, now).unwrap().1
    }

    #[test]
    fn generated_once_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("new/tls");
        let (first, origin) = load_or_generate(&directory, "mx.test", NOW).unwrap();
        assert_eq!(origin, Origin::Generated("there was none".to_owned()));
        let (second, origin) = load_or_generate(&directory, "mx.test", NOW).unwrap();
        assert_eq!(origin, Origin::Kept);
        let (first_shown, second_shown) = (first.shown().remove(0), second.shown().remove(0));
        assert_eq!(first_shown.fingerprint, second_shown.fingerprint);
        assert_eq!(first_shown.fingerprint.len(), 32 * 3 - 1);
        assert_eq!(first_shown.kind, "EC");
        assert!(first_shown.source.contains("made now"));
        assert!(second_shown.source.contains("kept"));
        assert!(first.warnings("mx.test", NOW).is_empty());
        let mode = fs::metadata(kept(&directory).1)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }

    #[test]
    fn made_anew_for_another_name_or_near_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path();
        origin(directory, "mx.test", NOW);
        let Origin::Generated(why) = origin(directory, "mail.test.", NOW) else {
            panic!("kept the certificate of another name");
        };
        assert!(why.contains("another name"));
        let late = NOW + GENERATED_VALIDITY - Duration::from_secs(3600);
        let Origin::Generated(why) = origin(directory, "mail.test", late) else {
            panic!("kept a certificate that is about to expire");
        };
        assert!(why.contains("expire"));
        assert_eq!(origin(directory, "mail.test", late), Origin::Kept);
    }

    #[test]
    fn made_anew_when_damaged_or_half_written() {
        let temp = tempfile::tempdir().unwrap();
        let (certificate, key) = kept(temp.path());
        origin(temp.path(), "mx.test", NOW);
        let old_key = fs::read(&key).unwrap();
        for file in [&certificate, &key] {
            for content in [&b""[..], b"noise", b"-----BEGIN CERTIFICATE-----\n"] {
                fs::write(file, content).unwrap();
                let Origin::Generated(why) = origin(temp.path(), "mx.test", NOW) else {
                    panic!("used a damaged file");
                };
                assert!(why.contains(file.to_str().unwrap()), "{why}");
            }
        }
        fs::write(&key, old_key).unwrap();
        let Origin::Generated(why) = origin(temp.path(), "mx.test", NOW) else {
            panic!("used a key that does not fit");
        };
        assert!(why.contains("not the key"), "{why}");
        fs::remove_file(&key).unwrap();
        let Origin::Generated(why) = origin(temp.path(), "mx.test", NOW) else {
            panic!("there was no key");
        };
        assert!(why.contains("does not exist"), "{why}");
    }

    #[test]
    fn addresses_and_long_names_get_certificates_too() {
        let long = format!("{0}.{0}.example", "m".repeat(63));
        for name in ["192.0.2.1", &long] {
            let temp = tempfile::tempdir().unwrap();
            let (keys, _) = load_or_generate(temp.path(), name, NOW).unwrap();
            assert!(keys.warnings(name, NOW).is_empty(), "{name}");
        }
        let temp = tempfile::tempdir().unwrap();
        let error = load_or_generate(temp.path(), "mäx.test", NOW).unwrap_err();
        assert!(error.to_string().contains("for this name"), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let temp = tempfile::tempdir().unwrap();
        let (certificate, key) = kept(temp.path());
        origin(temp.path(), "mx.test", NOW);
        let missing = temp.path().join("missing.pem");
        let complaint = |certificate: &Path, key: &Path| {
            load(certificate, key, Kinds::Any).unwrap_err().to_string()
        };
        assert!(complaint(&missing, &key).contains("missing.pem does not exist"));
        assert!(complaint(&key, &key).contains("has no certificate"));
        assert!(complaint(&certificate, &certificate).contains("has no private key"));
        let encrypted = temp.path().join("encrypted.pem");
        for text in [
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
             -----END EC PRIVATE KEY-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ] {
            fs::write(&encrypted, text).unwrap();
            let complaint = complaint(&certificate, &encrypted);
            assert!(complaint.contains("is encrypted"), "{complaint}");
        }
        let der = temp.path().join("der");
        fs::write(&der, [0x30, 0x82, 0, 1, 0]).unwrap();
        assert!(complaint(&der, &key).contains("no certificate"));
        let large = temp.path().join("large");
        fs::write(&large, vec![b'x'; PEM_BYTES_MAX as usize + 1]).unwrap();
        assert!(complaint(&large, &key).contains("larger"));
    }

    #[test]
    fn certificate_and_key_may_share_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let (certificate, key) = kept(temp.path());
        origin(temp.path(), "mx.test", NOW);
        let both = temp.path().join("both.pem");
        let content = fs::read_to_string(key).unwrap() + &fs::read_to_string(certificate).unwrap();
        fs::write(&both, content).unwrap();
        load(&both, &both, Kinds::Any).unwrap();
    }

    #[test]
    fn warns_of_the_clock_and_the_name() {
        let temp = tempfile::tempdir().unwrap();
        let (keys, _) = load_or_generate(temp.path(), "mx.test", NOW).unwrap();
        let end = keys.own[0].valid_until().unwrap();
        let warnings = keys.warnings("mail.test", end + Duration::from_secs(1));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("expired on 2036-"), "{warnings:?}");
        assert!(warnings[1].contains("mail.test"));
        let early = NOW.0 - 3 * 24 * 3_600_000;
        assert!(keys.warnings("mx.test", WallTime(early))[0].contains("not valid before"));
        assert!(!format!("{keys:?}").contains("PRIVATE"));
    }
}
