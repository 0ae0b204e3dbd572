//! Nothing outlives the tests: a small process that cleans up when this one is gone.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Waits for the end of its input, then stops the server in a folder and removes the folder.
///
/// The other end of its input is in this process alone, so it ends with the process, however
/// that dies: by a panic in a thread, by SIGKILL, or by a static that is never dropped.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
}

/// `postmaster.pid` may be stale after a crash, and its number given to another process: only
/// one that stands in the data directory is the server.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
is_server() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if is_server "$1" && kill -INT "$pid"; then
    tries=0
    while [ -e "$1/data/postmaster.pid" ] && is_server "$1"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 600 ]; then kill -QUIT "$pid"; sleep 2; break; fi
        sleep 0.05
    done
fi
rm -rf "$1"
"#;

impl Guardian {
    /// Makes a folder of a new name in `parent`, and guards it.
    pub fn for_new_dir(parent: &Path, name: &str) -> Result<(Self, PathBuf)> {
        let dir = private_dir(parent, name)?;
        let process = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is sent to the tests' whole group, and must not end the one who cleans up.
            .process_group(0)
            .spawn()
            .context("cannot start the process that cleans up")?;
        Ok((Self { process }, dir))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // `wait` closes the input first, which is the sign to begin.
        let _ = self.process.wait();
    }
}

/// A folder that only this user can enter, with every link on the way resolved: the server's
/// own idea of where it is must be the same.
pub fn private_dir(parent: &Path, name: &str) -> Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix(name)
        .tempdir_in(parent)
        .with_context(|| format!("cannot create a folder in {}", parent.display()))?
        .keep();
    dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))
}
