//! The table that is printed, and the page that keeps it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ai_limiter_tests::calls::Session;
use ai_limiter_tests::project_root;
use anyhow::{Context, Error, Result};

use crate::measure::{Ratio, Rounds, number};
use crate::rows::Row;
use crate::stage::Stage;

/// What the results on the page stand between.
const BEGIN: &str = "<!-- results of make bench: begin -->\n";
const END: &str = "<!-- results of make bench: end -->";

/// Which ratios are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// Not more than that much more or less than 1.
    Within(f64),
}

impl Reach {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
            Self::Within(part) => (1.0 - part..=1.0 + part).contains(&ratio),
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {}", factor(least)),
            Self::AtMost(most) => format!("≤ {}", factor(most)),
            Self::Within(part) => format!("1 ± {}%", part * 100.0),
        }
    }
}

/// One comparison.
#[derive(Debug)]
pub struct Line {
    row: String,
    measured: String,
    against: String,
    values: [String; 2],
    ratio: String,
    reach: String,
    verdict: &'static str,
    failed: bool,
}

impl Line {
    /// Side `measured` of some rounds against side `against`.
    pub fn of_rounds(
        row: &str,
        (measured, side): (&str, usize),
        (against, to): (&str, usize),
        rounds: &Rounds,
        unit: &str,
        reach: Reach,
    ) -> Self {
        let values = [side, to].map(|side| format!("{} {unit}", number(rounds.median(side))));
        Self::new(row, measured, against, values, rounds.ratio(side, to), reach)
    }

    /// Where less is better and the ratio says how many times as fast it is.
    pub fn times_as_fast(
        row: &str,
        (measured, side): (&str, usize),
        (against, to): (&str, usize),
        rounds: &Rounds,
        reach: Reach,
    ) -> Self {
        let values = [side, to].map(|side| format!("{} ms", number(rounds.median(side))));
        Self::new(row, measured, against, values, rounds.ratio(side, to).inverse(), reach)
    }

    fn new(
        row: &str,
        measured: &str,
        against: &str,
        values: [String; 2],
        ratio: Ratio,
        reach: Reach,
    ) -> Self {
        let spread = if ratio.least == ratio.most {
            String::new()
        } else {
            format!(" ({} to {})", factor(ratio.least), factor(ratio.most))
        };
        Self {
            ratio: format!("{}{spread}", factor(ratio.median)),
            reach: reach.text(),
            verdict: if reach.is_met(ratio.median) { "yes" } else { "no" },
            ..Self::plain(row, measured, against, values)
        }
    }

    /// Numbers that are not a ratio.
    pub fn plain(row: &str, measured: &str, against: &str, values: [String; 2]) -> Self {
        Self {
            row: row.to_owned(),
            measured: measured.to_owned(),
            against: against.to_owned(),
            values,
            ratio: String::new(),
            reach: String::new(),
            verdict: "",
            failed: false,
        }
    }

    /// With a wish that is not one for a ratio.
    pub fn wanting(self, reach: &str, met: bool) -> Self {
        Self { reach: reach.to_owned(), verdict: if met { "yes" } else { "no" }, ..self }
    }

    /// What could not be measured here, and why.
    pub fn absent(row: &str, against: &str, why: &str) -> Self {
        Self { ratio: why.to_owned(), ..Self::plain(row, "", against, Default::default()) }
    }

    pub fn failed(row: &Row, error: &Error) -> Self {
        let mut why: String = format!("failed: {error:#}").replace(['\n', '|'], " ");
        if let Some((end, _)) = why.char_indices().nth(160) {
            why.truncate(end);
        }
        Self { failed: true, ..Self::absent(row.name, "", &why) }
    }

    fn markdown(&self) -> String {
        let Self { row, measured, against, values: [value, other], ratio, reach, verdict, .. } =
            self;
        format!(
            "| {row} | {measured} | {against} | {value} | {other} | {ratio} | {reach} | {verdict} |\n"
        )
    }
}

/// A ratio with as many digits as mean something.
fn factor(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}") } else { number(ratio.round()) }
}

#[derive(Debug)]
pub struct Report {
    heading: String,
    lines: Vec<Line>,
}

impl Report {
    pub fn new(stage: &Stage) -> Result<Self> {
        Ok(Self { heading: heading(stage)?, lines: Vec::new() })
    }

    pub fn add(&mut self, lines: Vec<Line>) {
        for line in &lines {
            eprint!("  {}", line.markdown());
        }
        self.lines.extend(lines);
    }

    pub fn has_failures(&self) -> bool {
        self.lines.iter().any(|line| line.failed)
    }

    pub fn render(&self, took: Duration) -> String {
        let lines: String = self.lines.iter().map(Line::markdown).collect();
        format!(
            "{}- Took {} minutes.\n\n\
             | row | measured | against | median of measured | median of against | \
             ratio, median (least to most) | reach | reached |\n|---|---|---|---|---|---|---|---|\n{lines}",
            self.heading,
            number(took.as_secs_f64() / 60.0),
        )
    }
}

/// The machine and what ran on it.
fn heading(stage: &Stage) -> Result<String> {
    let plan = stage.plan();
    let cpu = first_value("/proc/cpuinfo", "model name")?;
    let memory: f64 = first_value("/proc/meminfo", "MemTotal")?
        .trim_end_matches(" kB")
        .parse()
        .context("cannot read the size of the memory")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let postgres = stage.cluster().connect().value("SHOW server_version");
    let path =
        if stage.has_shared_counters() { "shared memory" } else { "the tables, at each call" };
    let abridged = if plan.quick { " **Abridged: these numbers mean nothing.**" } else { "" };
    Ok(format!(
        "- Machine: {cpu}, {} cores, {:.0} GiB of memory, Linux {}. \
         Load before: {load}.\n\
         - Postgres {postgres}; counters in {path}. Clients connect by {}.\n\
         - Commit {}.\n\
         - {} rounds, {} s a side of each.{abridged}\n",
        stage.cores(),
        memory / 1024.0 / 1024.0,
        kernel.trim(),
        stage.transport(),
        commit(),
        plan.rounds,
        plan.time.as_secs_f64(),
    ))
}

fn first_value(path: &str, key: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find(|line| line.starts_with(key));
    let value =
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned());
    value.with_context(|| format!("{path} has no {key}"))
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(project_root()).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => format!("{commit}, tree clean"),
        (Some(commit), _) => format!("{commit}, with changes that are not committed"),
        _ => "unknown".to_owned(),
    }
}

/// Puts the results in their place on the page.
pub fn record(page: &Path, results: &str) -> Result<()> {
    let name = page.display();
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {name}"))?;
    let split = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    let (before, after) =
        split.with_context(|| format!("{name} has no block for results, {BEGIN}"))?;
    fs::write(page, format!("{before}{BEGIN}\n{results}\n{END}{after}"))
        .with_context(|| format!("cannot write {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_replace_those_of_last_time_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        fs::write(&page, format!("before\n{BEGIN}old\n{END}\nafter\n")).unwrap();
        for _ in 0..2 {
            record(&page, "new\n").unwrap();
            let text = fs::read_to_string(&page).unwrap();
            assert_eq!(text, format!("before\n{BEGIN}\nnew\n\n{END}\nafter\n"));
        }
    }

    #[test]
    fn a_page_without_a_place_for_results_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        fs::write(&page, "text\n").unwrap();
        assert!(record(&page, "new\n").is_err());
        assert_eq!(fs::read_to_string(&page).unwrap(), "text\n");
    }

    #[test]
    fn a_reach_is_met_at_its_edge_and_not_beyond() {
        for (reach, met, missed) in [
            (Reach::AtLeast(0.85), 0.85, 0.849),
            (Reach::AtMost(1.25), 1.25, 1.251),
            (Reach::Within(0.1), 0.9, 0.899),
            (Reach::Within(0.1), 1.1, 1.101),
        ] {
            assert!(reach.is_met(met) && !reach.is_met(missed), "{reach:?}");
        }
    }
}
