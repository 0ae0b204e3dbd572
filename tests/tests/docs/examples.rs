//! A page's blocks of `sql` run in order, in one session of `psql` by the superuser, in a database
//! of the page's own. A block of `text` right after one is its output. A block that shall fail says
//! so in a comment: `-- ERROR: 42501`. `DOCS_ACCEPT=1` writes what came out into the pages.

use std::fs;
use std::io::Write;
use std::path::Path;

use ai_limiter_tests::Cluster;
use postgres::Client;
use regex::Regex;

use crate::pages::{Block, blocks, page_name, pages};

/// What `psql` prints for each block, and the SQLSTATE of the block's last error.
fn run(cluster: &Cluster, database: &str, sql: &[&Block]) -> Vec<(String, String)> {
    let mut script = tempfile::NamedTempFile::new().unwrap();
    for block in sql {
        let text = &block.text;
        write!(script, "\\set LAST_ERROR_SQLSTATE 00000\n\\echo @begin\n{text}").unwrap();
        writeln!(script, "\n\\echo @end :LAST_ERROR_SQLSTATE").unwrap();
    }
    // Both kinds of output into one file, in the order in which they come; psql flushes each.
    let output = tempfile::NamedTempFile::new().unwrap();
    let shared = fs::File::options().append(true).open(output.path()).unwrap();
    let mut psql = std::process::Command::new(cluster.bin("psql"));
    psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", database])
        .args(["-p", &cluster.port().to_string(), "-v", "SHOW_CONTEXT=never"])
        .env("PGTZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .stdin(script.reopen().unwrap())
        .stdout(shared.try_clone().unwrap())
        .stderr(shared);
    let ended = psql.status().unwrap();
    let all = fs::read_to_string(output.path()).unwrap();
    assert!(ended.success(), "psql ended early, after\n{all}");
    all.split("@begin\n")
        .skip(1)
        .map(|part| {
            let (text, state) = part.rsplit_once("@end ").expect("a block ends what it begins");
            (text.trim_end().to_owned() + "\n", state.trim().to_owned())
        })
        .collect()
}

/// Hides what differs from run to run: ids, the time of now, and the widths of columns.
fn masked(text: &str) -> String {
    // Dates before 2026 are examples, and compared.
    let masks = [
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
        (r"20(2[6-9]|[3-9]\d)-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d+)?(\+00)?)?", "<time>"),
        (r"(\d+ days? )?\d\d:\d\d:\d\d\.\d+", "<interval>"),
        (r"20(2[6-9]|[3-9]\d)_\d\d", "<month>"),
        (r"-{2,}", "-"),
        (r"[ \t]+", " "),
        (r"(?m)^ | $", ""),
    ];
    masks.iter().fold(text.trim_end().to_owned(), |text, (mask, by)| {
        Regex::new(mask).unwrap().replace_all(&text, *by).into_owned()
    })
}

/// Checks a page; gives what is wrong, or writes it into the page if `accept`.
fn check(cluster: &Cluster, page: &Path, database: &str, accept: bool) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let all = blocks(&text);
    let sql: Vec<&Block> = all.iter().filter(|b| b.language == "sql").collect();
    let outputs = run(cluster, database, &sql);
    assert_eq!(outputs.len(), sql.len(), "{}: a block has no end", page_name(page));

    let (mut wrong, mut accepted) = (Vec::new(), text.clone());
    let expected_error = Regex::new(r"-- ERROR: (\w{5})").unwrap();
    for (block, (output, state)) in sql.iter().zip(&outputs).rev() {
        let line = text[..block.outer.start].lines().count() + 1;
        let place = format!("{}:{line}", page_name(page));
        let expected =
            expected_error.captures(&block.text).map_or("00000", |c| c.get(1).unwrap().as_str());
        if state != expected {
            wrong.push(format!("{place}: SQLSTATE {state} instead of {expected}\n{output}"));
        }
        let follows = |b: &&Block| {
            b.language == "text"
                && b.outer.start >= block.outer.end
                && text[block.outer.end..b.outer.start].trim().is_empty()
        };
        let Some(shown) = all.iter().find(follows) else { continue };
        if masked(&shown.text) == masked(output) {
            continue;
        }
        if accept {
            let lines: Vec<&str> = output.trim_matches('\n').lines().map(str::trim_end).collect();
            let fresh = format!("{}\n", lines.join("\n"));
            let first = shown.outer.start + "```text\n".len();
            let range = if shown.text.is_empty() { first..first } else { shown.range.clone() };
            accepted.replace_range(range, &fresh);
        } else {
            let expected = &shown.text;
            wrong.push(format!("{place}: shows\n{expected}instead of\n{output}"));
        }
    }
    if accepted != text {
        fs::write(page, accepted).unwrap();
    }
    wrong.reverse();
    wrong
}

/// Roles belong to the server, and the next page makes its own.
fn drop_roles(client: &mut Client) {
    for row in
        client.query("SELECT rolname::text FROM pg_roles WHERE rolname ~ '^app_'", &[]).unwrap()
    {
        let role: String = row.get(0);
        client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
    }
}

#[test]
fn the_sql_of_every_page_runs_and_gives_what_the_page_shows() {
    let accept = std::env::var("DOCS_ACCEPT").is_ok_and(|value| value == "1");
    let cluster = Cluster::builder().preloaded().supabase_roles().setting("fsync", "off").start();
    let mut wrong = Vec::new();
    for (number, page) in pages().iter().enumerate() {
        let database = cluster.create_database(&format!("page_{number}"));
        wrong.extend(check(&cluster, page, database.name(), accept));
        drop_roles(&mut database.connect());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
