//! The Postgres under test: where it lies, and how its programs are started.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::account::Account;
use crate::guardian::Guardian;
use crate::{EXTENSION, target_dir};

/// The folder of a copy, beside the data.
const COPY: &str = "postgres";

/// An unpacked Postgres with the extension in it.
///
/// `PG` says which version (17 if unset); `AI_LIMITER_POSTGRES_PREFIX` where it lies, else it is
/// what `scripts/postgres.sh` unpacks under `target/`.
#[derive(Clone, Debug)]
pub struct Postgres {
    version: u32,
    prefix: PathBuf,
    account: Account,
}

impl Postgres {
    /// The one that `PG` and `AI_LIMITER_POSTGRES_PREFIX` name, where it is installed.
    pub fn installed() -> Result<Self> {
        let version = std::env::var("PG").unwrap_or_else(|_| "17".to_owned());
        let version = version.parse().with_context(|| {
            format!("PG must be a major version of Postgres, not \"{version}\"")
        })?;
        let prefix = std::env::var_os("AI_LIMITER_POSTGRES_PREFIX")
            .map_or_else(|| target_dir().join(format!("postgres/{version}")), PathBuf::from);
        ensure!(
            prefix.join("bin/postgres").exists(),
            "there is no Postgres in {}; scripts/build.sh {version} puts one there",
            prefix.display()
        );
        Ok(Self { version, prefix, account: Account::for_servers()? })
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The folder that holds `bin`, `lib` and `share`.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The path of a program, as `pg_dump`.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.prefix.join("bin").join(name)
    }

    /// The extension's shared library.
    pub fn library(&self) -> PathBuf {
        self.prefix.join(format!("lib/{EXTENSION}.so"))
    }

    pub(crate) fn account(&self) -> Account {
        self.account
    }

    /// Whether the server's user gets to the programs and to `dir`.
    pub(crate) fn can_run_in(&self, dir: &Path) -> bool {
        self.account.reaches(&self.bin("postgres")) && self.account.reaches(dir)
    }

    /// The same Postgres, copied into `dir`.
    pub(crate) fn copied_to(self, dir: &Path) -> Result<Self> {
        let copy = dir.join(COPY);
        let status = Command::new("cp")
            .args(["-rH", "--no-target-directory", "--preserve=mode,timestamps,links"])
            .args([&self.prefix, &copy])
            .status()
            .context("cannot run cp")?;
        ensure!(status.success(), "cannot copy {} to {}", self.prefix.display(), copy.display());
        self.account.give(dir)?;
        Ok(Self { prefix: copy, ..self })
    }

    pub(crate) fn already_copied_to(self, dir: &Path) -> Self {
        Self { prefix: dir.join(COPY), ..self }
    }

    /// What changes when another build of the extension is installed.
    pub(crate) fn extension_build(&self) -> Result<String> {
        let metadata = std::fs::metadata(self.library()).with_context(|| {
            format!("the extension is not installed in {}", self.prefix.display())
        })?;
        Ok(format!("{} {:?} {}", self.prefix.display(), metadata.modified()?, metadata.len()))
    }

    /// A program that talks to a server, run as the user of this process, so that it can write
    /// where the test wants its files.
    pub(crate) fn client_program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            // PGHOST, PGOPTIONS and the like of the one who runs the tests would lead astray.
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        // pg_regress and some modules would load the system's libpq, which may be older or absent.
        command.env("LD_LIBRARY_PATH", self.prefix.join("lib"));
        // Else pgrx would add a backtrace to the DETAIL of every error.
        command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// A program that owns data files, run as the server's user.
    pub(crate) fn server_program(&self, name: &str, dir: &Path) -> Command {
        let mut command = self.client_program(self.bin(name));
        // It may not even be allowed to stand where this process stands.
        command.current_dir(dir);
        self.account.apply(&mut command);
        command
    }
}

/// The Postgres of this process's servers, and the folder that their folders go to.
#[derive(Debug)]
pub struct Site {
    pub postgres: Postgres,
    pub run_dir: PathBuf,
    /// Removes the copy when this process ends; a static is never dropped, but a guardian knows.
    _copy: Option<Guardian>,
}

impl Site {
    pub fn of_this_process() -> Result<&'static Self> {
        static SITE: OnceLock<Result<Site>> = OnceLock::new();
        let site = SITE.get_or_init(Self::find);
        site.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))
    }

    fn find() -> Result<Self> {
        let postgres = Postgres::installed()?;
        let run_dir = target_dir().join("test-servers");
        std::fs::create_dir_all(&run_dir)
            .with_context(|| format!("cannot create {}", run_dir.display()))?;
        if postgres.can_run_in(&run_dir) {
            return Ok(Self { postgres, run_dir, _copy: None });
        }
        let run_dir = std::env::temp_dir();
        let (guardian, copy) = Guardian::for_new_dir(&run_dir, "ai_limiter-postgres-")?;
        Ok(Self { postgres: postgres.copied_to(&copy)?, run_dir, _copy: Some(guardian) })
    }
}
