//! Runs the files of a folder through Postgres's own `pg_regress`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::database::Database;
use crate::{Cluster, SUPERUSER, target_dir};

/// Runs every `sql/*.sql` of `dir` and compares with `expected/*.out`, each file in a database of
/// its own that `database` makes.
///
/// With `REGRESS_ACCEPT=1` in the environment, what came out becomes what is expected.
///
/// # Panics
/// With the differences, if a file's output is not as expected; if there is no file to run; and
/// if an expected output belongs to no file.
#[track_caller]
pub fn run(cluster: &Cluster, dir: &Path, database: impl Fn() -> Database) {
    let accept = std::env::var("REGRESS_ACCEPT").is_ok_and(|value| value == "1");
    crate::expect(try_run(cluster, dir, database, accept));
}

fn try_run(
    cluster: &Cluster,
    dir: &Path,
    database: impl Fn() -> Database,
    accept: bool,
) -> Result<()> {
    let files = names(&dir.join("sql"), "sql")?;
    ensure!(!files.is_empty(), "there is nothing to run in {}", dir.join("sql").display());

    let mut differences = String::new();
    let mut failed = Vec::new();
    for file in &files {
        if let Err(difference) = run_file(cluster, dir, file, &database()) {
            if accept {
                accept_file(cluster, dir, file)?;
                continue;
            }
            differences.push_str(&format!("{difference:#}\n"));
            failed.push(file.as_str());
        }
    }
    if !failed.is_empty() {
        bail!(
            "{differences}{} of {} files differ: {}\nREGRESS_ACCEPT=1 accepts what came out",
            failed.len(),
            files.len(),
            failed.join(", ")
        );
    }
    for name in names(&dir.join("expected"), "out")? {
        // pg_regress takes name_1.out and so on for other expected outputs of one file.
        let alternative = name.rsplit_once('_').filter(|(_, number)| number.parse::<u8>().is_ok());
        let file = alternative.map_or(name.as_str(), |(file, _)| file);
        ensure!(
            files.iter().any(|known| known == file || *known == name),
            "expected/{name}.out belongs to no file in sql/"
        );
    }
    Ok(())
}

fn output_dir(cluster: &Cluster, file: &str) -> std::path::PathBuf {
    target_dir().join(format!("regress/{}/{file}", cluster.postgres().version()))
}

fn run_file(cluster: &Cluster, dir: &Path, file: &str, database: &Database) -> Result<()> {
    let output_dir = output_dir(cluster, file);
    if output_dir.exists() {
        // The differences of an earlier run are not this one's.
        fs::remove_dir_all(&output_dir)?;
    }
    fs::create_dir_all(&output_dir)?;
    let postgres = cluster.postgres();
    let pg_regress = postgres.prefix().join("lib/pgxs/src/test/regress/pg_regress");
    let output = postgres
        .client_program(&pg_regress)
        .args(["--use-existing", "--host", "127.0.0.1", "--user", SUPERUSER])
        .args(["--port", &cluster.port().to_string(), "--dbname", database.name()])
        .args([Path::new("--bindir"), &postgres.prefix().join("bin")])
        .args([Path::new("--inputdir"), dir, Path::new("--outputdir"), &output_dir])
        .arg(file)
        // It writes a scratch file or two where it stands.
        .current_dir(&output_dir)
        .output()
        .with_context(|| format!("cannot run {}", pg_regress.display()))?;
    if output.status.success() {
        return Ok(());
    }
    match fs::read_to_string(output_dir.join("regression.diffs")) {
        Ok(differences) if !differences.is_empty() => bail!("{file}:\n{differences}"),
        _ => bail!(
            "{file}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn accept_file(cluster: &Cluster, dir: &Path, file: &str) -> Result<()> {
    let result = output_dir(cluster, file).join(format!("results/{file}.out"));
    let expected = dir.join(format!("expected/{file}.out"));
    fs::create_dir_all(dir.join("expected"))?;
    fs::copy(&result, &expected)
        .with_context(|| format!("cannot copy {} to {}", result.display(), expected.display()))?;
    eprintln!("accepted what {file}.sql gives now; look at the difference before it is committed");
    Ok(())
}

/// The names of the files with an extension, without it, in order.
fn names(dir: &Path, extension: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension)
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A folder with one file, and what a run of it says.
    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            let scratch = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(scratch.0.path().join("sql")).unwrap();
            fs::create_dir_all(scratch.0.path().join("expected")).unwrap();
            scratch
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.0.path().join(path), text).unwrap();
        }

        fn run(&self, accept: bool) -> Result<()> {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let cluster = Cluster::shared();
            let database = || cluster.create_database(&format!("regress_{number}"));
            try_run(cluster, self.0.path(), database, accept)
        }
    }

    #[test]
    fn accepts_what_comes_out_and_then_expects_it() {
        let scratch = Scratch::new();
        scratch.write("sql/harness_accept.sql", "SELECT 'once' AS word;\n");
        assert!(scratch.run(false).is_err());
        scratch.run(true).unwrap();
        scratch.run(false).unwrap();
    }

    #[test]
    fn shows_the_difference() {
        let scratch = Scratch::new();
        scratch.write("sql/harness_differs.sql", "SELECT 'new' AS word;\n");
        let expected = "SELECT 'new' AS word;\n word \n------\n old\n(1 row)\n\n";
        scratch.write("expected/harness_differs.out", expected);
        let message = scratch.run(false).unwrap_err().to_string();
        assert!(message.contains("- old"), "{message}");
        assert!(message.contains("+ new"), "{message}");
        assert!(message.contains("1 of 1 files differ: harness_differs"), "{message}");
    }

    #[test]
    fn does_not_pass_with_nothing_to_run() {
        let message = Scratch::new().run(false).unwrap_err().to_string();
        assert!(message.contains("nothing to run"), "{message}");
    }

    #[test]
    fn finds_expected_output_that_is_left_over() {
        let scratch = Scratch::new();
        scratch.write("sql/harness_left.sql", "");
        scratch.write("expected/harness_left.out", "");
        scratch.write("expected/harness_gone.out", "");
        let message = scratch.run(false).unwrap_err().to_string();
        assert!(message.contains("harness_gone.out belongs to no file"), "{message}");
    }
}
