//! In which order the process gives up what: who it becomes, and which files it can still reach.
//!
//! ```text
//! Standing::harden -> (log, ports) -> Confinement::begin -> (spool, certificate) -> Confinement::finish
//! ```
//!
//! A relay within another program leaves that program as it is.

use super::plan::Intent;
use super::{ErrorContext, StartError};
use crate::config::Config;
use crate::privilege::{
    Access, Grant, Identity, Landlock, Loose, Sealed, Seccomp, Wishes, check_directory,
    check_kept_key, check_key, check_make_directory, directories_of, make_directory, seal,
};
use crate::tls::certificate;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// What the resolver reads. The first is often a link to what another service writes.
const RESOLVER_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// Whose process this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    /// Ours, to be confined.
    Own,
    /// Somebody else's, who has started a relay in it.
    Host,
}

/// On the way from the user that started us to one that can do little.
pub struct Confinement {
    process: Process,
    identity: Identity,
    /// Who started us is somebody else, and makes the directories for `identity`.
    makes_directories: bool,
    hints: Vec<String>,
}

impl Confinement {
    /// Becomes `--user`, once all that needs root is done: what its spool and keys are to stand in
    /// has been made and given to it.
    pub fn begin(config: &Config, process: Process, intent: Intent) -> Result<Self, StartError> {
        let identity = future_identity(config, process)?;
        let makes_directories = !identity.is_current();
        if makes_directories {
            identity.check_reachable().context("giving up privileges")?;
            let make = |path: &Path| match intent {
                Intent::Start => make_directory(path, &identity),
                Intent::Check => check_make_directory(path),
            };
            make(&config.spool.dir).context("the spool")?;
            if let Some(dir) = &config.tls.certificates.kept_in {
                make(dir).context("the directory of the certificate")?;
            }
            identity.assume().context("giving up privileges")?;
        }
        let if_empty = match intent {
            Intent::Start => Loose::Close,
            Intent::Check => Loose::Leave,
        };
        check_directory("the spool", &config.spool.dir, &identity, if_empty).context("refused")?;
        let hints = match process {
            Process::Own => hints(config, &identity),
            Process::Host => Vec::new(),
        };
        Ok(Confinement {
            process,
            identity,
            makes_directories,
            hints,
        })
    }

    /// The rest, for ever. `None` in another program's process.
    pub fn finish(&self, config: &Config) -> Result<Option<Sealed>, StartError> {
        if self.process == Process::Host {
            return Ok(None);
        }
        let privileges = &config.privileges;
        let wishes = Wishes {
            landlock: match (privileges.landlock, privileges.require_landlock) {
                (false, _) => Landlock::Off,
                (true, false) => Landlock::Try,
                (true, true) => Landlock::Require,
            },
            seccomp: match (privileges.seccomp, privileges.strict_seccomp) {
                (false, _) => Seccomp::Off,
                (true, false) => Seccomp::On,
                (true, true) => Seccomp::Strict,
            },
            core_dumps: privileges.core_dumps,
        };
        seal(wishes, &grants(config))
            .map(Some)
            .context("giving up privileges")
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is missing of spool and certificate is made for [`Confinement::identity`].
    pub fn makes_directories(&self) -> bool {
        self.makes_directories
    }

    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// Who serves mail in the end.
pub fn future_identity(config: &Config, process: Process) -> Result<Identity, StartError> {
    match &config.privileges.user {
        Some(name) if process == Process::Own => {
            Identity::named(&name.user, name.group.as_deref()).context("refused")
        }
        _ => Ok(Identity::current()),
    }
}

/// The private keys that are given may be read by those only who should.
pub fn check_given_keys(config: &Config, identity: &Identity) -> Result<(), StartError> {
    let given = &config.tls.certificates.given;
    let mut checked = given.iter().map(|files| check_key(&files.key, identity));
    checked.try_for_each(|checked| checked.context("refused"))
}

/// As [`check_given_keys`], of the key that is generated and kept in `dir`.
pub fn check_generated_key(dir: &Path, identity: &Identity) -> Result<(), StartError> {
    check_kept_key(&certificate::kept_key(dir), identity).context("refused")
}

fn hints(config: &Config, identity: &Identity) -> Vec<String> {
    let mut hints = Vec::new();
    if identity.is_root() {
        hints.push(
            "this relay stays root, although without root's capabilities: create a user for it (useradd \
             --system --no-create-home --shell /usr/sbin/nologin ringpost) and start it with \
             --user ringpost"
                .to_owned(),
        );
    }
    let log = config.log.file.iter();
    let cannot_append = |log: &&PathBuf| {
        let opened = OpenOptions::new().append(true).open(log);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    hints.extend(log.filter(cannot_append).map(|log| {
        format!(
            "{} cannot open {}: after a rotation (SIGHUP) the old file would stay in use, unless the new one is made \
             for that user (logrotate: create 0640 {} {})",
            identity.name(),
            log.display(),
            identity.name(),
            identity.group(),
        )
    }));
    let unreadable = |path: &Path| File::open(path).is_err();
    hints.extend(config.lists.files().filter(|list| unreadable(list.path)).map(|list| {
        format!(
            "{} cannot read {list}: a new version will need a restart instead of SIGHUP, unless that user may read it \
             and its directory",
            identity.name(),
        )
    }));
    let keys = config.tls.certificates.given.iter().map(|files| &files.key);
    hints.extend(keys.filter(|key| unreadable(key)).map(|key| {
        format!(
            "{} cannot read {}: a new key will need a restart instead of SIGHUP, unless you run \
             chgrp {group} {key} && chmod 640 {key}, and that group may enter its directory",
            identity.name(),
            key.display(),
            group = identity.group(),
            key = key.display(),
        )
    }));
    hints
}

/// All that can be reached from now on. Files that are replaced by name are granted by directory.
fn grants(config: &Config) -> Vec<Grant> {
    let grant = |path: &Path, access| Grant {
        path: path.to_owned(),
        access,
    };
    let mut grants = vec![grant(&config.spool.dir, Access::Keep)];
    let certificates = &config.tls.certificates;
    let kept_in = certificates.kept_in.iter();
    grants.extend(kept_in.map(|dir| grant(dir, Access::Keep)));
    let given = certificates.given.iter();
    let given = given.flat_map(|files| [files.chain.as_path(), &files.key]);
    for file in given.chain(config.lists.files().map(|list| list.path)) {
        let directories = directories_of(file).into_iter();
        grants.extend(directories.map(|directory| grant(&directory, Access::Read)));
    }
    if let Some(file) = &config.log.file {
        let directories = directories_of(file);
        grants.extend(directories.iter().map(|path| grant(path, Access::Append)));
    }
    for file in RESOLVER_FILES.map(Path::new) {
        grants.push(grant(file, Access::Read));
        // What other services write is replaced; what is in /etc itself is read once.
        let elsewhere = directories_of(file).into_iter().skip(1);
        let elsewhere = elsewhere.filter(|path| path.starts_with("/run"));
        grants.extend(elsewhere.map(|directory| grant(&directory, Access::Read)));
    }
    if let Some(path) = &config.tls.roots {
        grants.push(grant(path, Access::Read));
    }
    grants
}
