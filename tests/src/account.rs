//! The operating-system account that server programs run as.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::unistd::{Gid, Uid, User};

/// Whom to become before a server program starts: nobody else, unless this process is root's.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    other: Option<(Uid, Gid)>,
}

impl Account {
    pub fn for_servers() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("cannot look up a user")? {
                return Ok(Self { other: Some((user.uid, user.gid)) });
            }
        }
        Err(anyhow!(
            "Postgres does not run as root, and there is neither a user postgres nor nobody"
        ))
    }

    /// Makes `command` run as this account. The standard library drops root's further groups too.
    pub fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.other {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
    }

    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.other {
            chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("cannot give {} to the server's user", path.display()))?;
        }
        Ok(())
    }

    /// Whether this account gets as far as `path`: a clone under `/root`, say, is closed to others.
    ///
    /// Asking the kernel by trying is the one way that knows of access lists and mounts too.
    pub fn reaches(&self, path: &Path) -> bool {
        let mut command = Command::new("test");
        command.arg("-x").arg(path).current_dir("/").stdin(Stdio::null());
        self.apply(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}
