//! How far a long job is: a bar on a terminal, a line now and then anywhere else.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanCount, ProgressBar, ProgressState, ProgressStyle};

const BETWEEN_LINES: Duration = Duration::from_secs(10);

pub struct Progress {
    bar: Option<ProgressBar>,
    done: AtomicU64,
    total: u64,
    started: Instant,
    last_line: Mutex<Instant>,
}

impl Progress {
    /// On standard error: standard output belongs to the story.
    pub fn new(total: u64) -> Self {
        let now = Instant::now();
        Self {
            bar: std::io::stderr().is_terminal().then(|| bar(total)),
            done: AtomicU64::new(0),
            total,
            started: now,
            last_line: Mutex::new(now),
        }
    }

    pub fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None => self.line(done),
        }
    }

    fn line(&self, done: u64) {
        // Whoever does not get the lock need not print: another does.
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() < BETWEEN_LINES {
            return;
        }
        *last = Instant::now();
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let left = self.total.saturating_sub(done) as f64 / rate;
        eprintln!(
            "    {} of {} calls, {rate:.0} a second, {} left",
            HumanCount(done),
            HumanCount(self.total),
            FormattedDuration(Duration::from_secs_f64(left))
        );
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let template =
        "    [{bar:30}] {human_pos} of {human_len} calls, {rate} a second, {eta_precise} left";
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A formatter has nobody to tell of an error.
        let _ = write!(out, "{:.0}", state.per_sec());
    };
    let style = ProgressStyle::with_template(template).expect("a valid template");
    let style = style.with_key("rate", rate).progress_chars("=> ");
    let bar = ProgressBar::new(total).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
