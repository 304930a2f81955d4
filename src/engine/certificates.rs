//! The certificates for clients at a start, at its check, and at a reload.

use super::confinement::{self, Confinement};
use super::{ErrorContext as _, StartError};
use crate::config::Config;
use crate::io::clock;
use crate::io::whole::Kinds;
use crate::log::{Begin, Log, LogLevel, Shown, event};
use crate::privilege::Identity;
use crate::time::WallTime;
use crate::tls::{CertificateError, ServerKeys, certificate};
use std::path::Path;

/// What only root may be able to read is read before root is given up. `None`: no certificate is given.
pub fn load_given(
    config: &Config,
    owner: &Identity,
    kinds: Kinds,
) -> Result<Option<ServerKeys>, StartError> {
    confinement::check_given_keys(config, owner)?;
    let given = config.tls.certificates.given.iter();
    let loaded = given
        .map(|files| certificate::load(&files.chain, &files.key, kinds))
        .collect::<Result<Vec<_>, _>>()
        .context("the certificate for clients")?;
    Ok(loaded.into_iter().reduce(ServerKeys::followed_by))
}

/// `given`, and what an earlier start has left or this one makes.
pub fn with_generated(
    config: &Config,
    owner: &Identity,
    given: Option<ServerKeys>,
) -> Result<ServerKeys, StartError> {
    let load_or_generate = |dir: &Path, hostname: &str, now| {
        certificate::load_or_generate(dir, hostname, now).map(|(keys, _)| keys)
    };
    add_kept(config, owner, given, load_or_generate)
}

/// As [`with_generated`], with what this start would make.
pub fn check_generated(
    config: &Config,
    confinement: &Confinement,
    given: Option<ServerKeys>,
) -> Result<ServerKeys, StartError> {
    let check_or_generate = |dir: &Path, hostname: &str, now| {
        certificate::check_or_generate(dir, hostname, now, confinement.makes_directories())
    };
    add_kept(config, confinement.identity(), given, check_or_generate)
}

/// `given`, and what `kept` finds in the directory of the generated one, if there is such a directory.
fn add_kept(
    config: &Config,
    owner: &Identity,
    given: Option<ServerKeys>,
    kept: impl FnOnce(&Path, &str, WallTime) -> Result<ServerKeys, CertificateError>,
) -> Result<ServerKeys, StartError> {
    let Some(dir) = &config.tls.certificates.kept_in else {
        return Ok(given.expect("one is given, or a directory is known"));
    };
    confinement::check_generated_key(dir, owner)?;
    let generated =
        kept(dir, &config.hostname, clock::wall_time()).context("the generated certificate")?;
    Ok(match given {
        Some(given) => given.with_spare(generated),
        None => generated,
    })
}

/// All certificates again, in the running relay. A spare one that cannot be had leaves that of `before` in use; why is
/// given beside.
pub fn reload(
    config: &Config,
    owner: &Identity,
    before: &ServerKeys,
) -> Result<(ServerKeys, Option<StartError>), StartError> {
    let given = load_given(config, owner, Kinds::RegularFile)?;
    match (with_generated(config, owner, given.clone()), given) {
        (Ok(keys), _) => Ok((keys, None)),
        (Err(error), Some(given)) => Ok((given.with_spare_of(before), Some(error))),
        (Err(error), None) => Err(error),
    }
}

/// A line for each, and what is wrong with it.
pub fn log_certificates(keys: &ServerKeys, hostname: &str, log: &Log, begin: Begin) {
    let now = clock::wall_time();
    for shown in keys.shown() {
        let mut line = begin(log, LogLevel::Info, event::CERTIFICATE, now);
        line.field("source", &*shown.source)
            .field("kind", shown.kind)
            .field("sha256", &*shown.fingerprint);
        if shown.is_spare {
            line.field("for", "clients that can use no other");
        }
    }
    for warning in keys.warnings(hostname, now) {
        begin(log, LogLevel::Warn, event::CERTIFICATE, now).field("warning", Shown(warning));
    }
}
