//! Who the process is, and becoming somebody with fewer rights.

use super::{Complaint, process};
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups, setgroups, setresgid,
    setresuid,
};
use std::ffi::CString;
use std::fmt;

/// A user with its groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    name: String,
    group: String,
    uid: Uid,
    gid: Gid,
    supplementary: Vec<Gid>,
}

impl Identity {
    /// Who this process is now.
    pub fn current() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        Identity {
            name: user_name(uid),
            group: group_name(gid),
            uid,
            gid,
            supplementary: getgroups().unwrap_or_default(),
        }
    }

    /// The user `name` of this host, with all groups that it is in; `group` in place of its own
    /// first one.
    ///
    /// # Errors
    /// If there is no such user or group, or if it is root by another name.
    pub fn named(name: &str, group: Option<&str>) -> Result<Self, Complaint> {
        let flag = || format!("--user {name}");
        let user = User::from_name(name)
            .map_err(|error| Complaint::new(flag(), error))?
            .ok_or_else(|| {
                Complaint::new(
                    flag(),
                    format!(
                        "there is no such user on this host; make one with: useradd --system \
                         --no-create-home --shell /usr/sbin/nologin {name}"
                    ),
                )
            })?;
        if user.uid.is_root() {
            return Err(Complaint::new(
                flag(),
                "it must be a user without privileges, and this one has the id 0",
            ));
        }
        let gid = match group {
            None => user.gid,
            Some(group) => group_id(group)?,
        };
        let c_name = CString::new(name).map_err(|error| Complaint::new(flag(), error))?;
        let supplementary =
            getgrouplist(&c_name, gid).map_err(|error| Complaint::new(flag(), error))?;
        Ok(Identity {
            name: user.name,
            group: group_name(gid),
            uid: user.uid,
            gid,
            supplementary,
        })
    }

    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    /// The number of the user.
    pub fn user_id(&self) -> u32 {
        self.uid.as_raw()
    }

    /// True if this process is that user already.
    pub fn is_current(&self) -> bool {
        self.uid == geteuid()
    }

    /// # Errors
    /// If this process can never become that user.
    pub fn check_reachable(&self) -> Result<(), Complaint> {
        match self.is_current() || geteuid().is_root() {
            true => Ok(()),
            false => Err(Complaint::new(
                format!("--user {}", self.name),
                format!(
                    "only root can become another user, and this process was started as {}",
                    user_name(geteuid())
                ),
            )),
        }
    }

    /// Becomes this user, without a way back: real, effective and saved ids, and the bounding set
    /// of capabilities while that may still be changed.
    ///
    /// # Errors
    /// If we are not root, or the kernel refuses.
    pub fn assume(&self) -> Result<(), Complaint> {
        if self.is_current() {
            return Ok(());
        }
        self.check_reachable()?;
        let failed = |error| Complaint::new(format!("becoming {self}"), error);
        process::drop_bounding_set()?;
        setgroups(&self.supplementary).map_err(failed)?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        let root = Uid::from_raw(0);
        assert!(
            setresuid(root, root, root).is_err(),
            "the way back to root is open"
        );
        Ok(())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.group)
    }
}

/// The name of a user; its number if it has none here.
pub(super) fn user_name(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

fn group_name(gid: Gid) -> String {
    match Group::from_gid(gid) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}

fn group_id(name: &str) -> Result<Gid, Complaint> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Complaint::new(
            format!("--user with group {name}"),
            format!("there is no such group on this host; make one with: groupadd --system {name}"),
        )),
        Err(error) => Err(Complaint::new(format!("--user with group {name}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_do_not_exist_or_are_root_are_refused() {
        let complaint = |name, group| Identity::named(name, group).unwrap_err().to_string();
        let none = complaint("no-such-user", None);
        assert!(none.contains("useradd --system"), "{none}");
        assert!(complaint("root", None).contains("without privileges"));
        assert!(complaint("nobody", Some("no-such-group")).contains("groupadd"));
    }

    #[test]
    fn a_group_may_be_named() {
        let nobody = Identity::named("nobody", Some("daemon")).unwrap();
        assert_eq!((nobody.name(), nobody.group()), ("nobody", "daemon"));
        assert!(nobody.supplementary.contains(&nobody.gid));
        assert!(!nobody.is_root());
    }
}
