//! The benchmark runs from end to end, so that it does not rot. What it measures here means nothing.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use ai_limiter_tests::project_root;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ai_limiter_bench"));
    command.args(arguments).output().unwrap()
}

fn rows() -> Vec<String> {
    let output = bench(&["--list"]);
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().map(str::to_owned).collect()
}

/// The rows that a table has lines of.
fn rows_of_table(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| line.starts_with("| "));
    let names = lines.filter_map(|line| line.split('|').nth(1)).map(|name| name.trim().to_owned());
    names.filter(|name| name != "row").collect()
}

#[test]
fn every_row_runs_and_did_what_it_says() {
    let output = bench(&["--quick"]);
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(!table.contains("failed"), "{table}");
    assert_eq!(rows_of_table(&table), rows().into_iter().collect(), "{table}");
    for fact in ["- Machine: ", "- Postgres ", "- Commit ", "Abridged"] {
        assert!(table.contains(fact), "\"{fact}\" is missing:\n{table}");
    }
}

#[test]
fn what_is_abridged_does_not_get_onto_the_page() {
    for abridged in ["--quick", "--rows=within", "--rounds=4"] {
        let output = bench(&[abridged, "--record", "/nowhere/page.md"]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("takes all rows"), "{complaint}");
    }
}

#[test]
fn an_unknown_row_is_refused_with_those_that_there_are() {
    let output = bench(&["--rows", "within,nothing"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{complaint}");
    assert!(complaint.contains("\"nothing\"") && complaint.contains("reserve"), "{complaint}");
}

#[test]
fn the_page_explains_every_row_and_has_its_result() {
    let page = fs::read_to_string(project_root().join("docs/benchmarks.md")).unwrap();
    let (before, after) = page.split_once("<!-- results of make bench: begin -->").unwrap();
    let (results, _) = after.split_once("<!-- results of make bench: end -->").unwrap();
    let rows: BTreeSet<String> = rows().into_iter().collect();
    let explained: BTreeSet<String> =
        rows_of_table(before).iter().map(|name| name.trim_matches('`').to_owned()).collect();
    assert_eq!(explained, rows, "the rows that are explained");
    assert_eq!(rows_of_table(results), rows, "the rows that have a result");
}
