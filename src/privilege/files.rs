//! Landlock: the files that the process can reach, whatever its user may do elsewhere.
//!
//! The rules hold for files that are there when they are made, and for whatever is below
//! directories. A file that is replaced by name is therefore granted by its directory.

use super::Complaint;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::fmt;
use std::path::{Path, PathBuf};

/// The newest rules that are asked for; an older kernel gives what it has.
const FILES_ABI: ABI = ABI::V5;
const SCOPES_ABI: ABI = ABI::V6;

/// What may be done with a path, and with all below it if it is a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Files may be read.
    Read,
    /// Files may be made and written, not read.
    Append,
    /// Files may be made, read, written, renamed and removed.
    Keep,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Access::Read => AccessFs::ReadFile.into(),
            Access::Append => AccessFs::WriteFile | AccessFs::MakeReg,
            Access::Keep => {
                AccessFs::ReadFile
                    | AccessFs::ReadDir
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::RemoveFile
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
            }
        }
    }
}

/// One exception from "nothing".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub path: PathBuf,
    pub access: Access,
}

/// How far Landlock holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LandlockOutcome {
    Off,
    /// Built without, or not switched on at boot.
    Absent,
    /// An older kernel: some rights are not restricted.
    Partly(i32),
    /// All that was asked for, by a kernel with this version of Landlock.
    Fully(i32),
}

impl LandlockOutcome {
    pub fn is_complete(self) -> bool {
        matches!(self, LandlockOutcome::Fully(_))
    }
}

impl fmt::Display for LandlockOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LandlockOutcome::Off => f.write_str("off"),
            LandlockOutcome::Absent => f.write_str("none: the kernel has no Landlock"),
            LandlockOutcome::Partly(abi) => write!(f, "partly: the kernel has version {abi}"),
            LandlockOutcome::Fully(abi) => write!(f, "version {abi}"),
        }
    }
}

/// The directory that a file's name is in, and that of the file it leads to by links: a renewed
/// certificate is a new file in one of them.
pub fn directories_of(file: &Path) -> Vec<PathBuf> {
    let lexical = match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut found = vec![lexical];
    if let Ok(real) = file.canonicalize()
        && let Some(parent) = real.parent()
    {
        found.push(parent.to_owned());
    }
    found
}

/// From now on only what is granted can be opened. Files that are open stay so. TCP is left free:
/// a relay connects to everybody.
pub(super) fn restrict(grants: &[Grant]) -> Result<LandlockOutcome, Complaint> {
    let failed = |error: &dyn fmt::Display| Complaint::new("Landlock", error);
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(FILES_ABI))
        .and_then(|rules| rules.scope(Scope::from_all(SCOPES_ABI) & !unscoped()))
        .and_then(Ruleset::create)
        .map_err(|error| failed(&error))?;
    let rules = grants.iter().try_fold(rules, add)?;
    let status = rules.restrict_self().map_err(|error| failed(&error))?;
    let version = match status.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => kernel_abi.unwrap_or(effective_abi as i32),
        _ => 0,
    };
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => LandlockOutcome::Fully(version),
        RulesetStatus::PartiallyEnforced => LandlockOutcome::Partly(version),
        RulesetStatus::NotEnforced => LandlockOutcome::Absent,
    })
}

/// A service manager that listens on an abstract socket must stay reachable.
fn unscoped() -> BitFlags<Scope> {
    let is_abstract = std::env::var_os("NOTIFY_SOCKET")
        .is_some_and(|address| address.as_encoded_bytes().starts_with(b"@"));
    match is_abstract {
        true => Scope::AbstractUnixSocket.into(),
        false => BitFlags::empty(),
    }
}

/// What does not exist needs no exception.
fn add(rules: RulesetCreated, grant: &Grant) -> Result<RulesetCreated, Complaint> {
    let Ok(path) = PathFd::new(&grant.path) else {
        return Ok(rules);
    };
    rules
        .add_rule(PathBeneath::new(path, grant.access.rights()))
        .map_err(|error| Complaint::new(format!("Landlock, {}", grant.path.display()), error))
}
