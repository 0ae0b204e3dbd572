//! The bundled catalogue, and the fixtures of usage, for the tests that read them.
//!
//! A fixture opens with comments: `source: URL`, `hint provider = …`, `class: a + b = quantity`,
//! `model = …`, `provider = …`, `context key = …`, `cost = …`, `partial`; other lines explain.

#![allow(dead_code, reason = "each test uses its part")]

use ai_limiter_domain::error::Result;
use ai_limiter_domain::pricing::Class;
use ai_limiter_domain::usage::{Extractors, Hint, ReportedUsage, read};
use genai_prices::Calculator;
use rust_decimal::Decimal;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The catalogue of the crate's release.
pub struct Bundled;

impl Extractors for Bundled {
    fn calculator(&self, provider: &str) -> Option<(&Calculator, &str)> {
        let found = Calculator::bundled().find_provider(Some(provider), None).ok().flatten()?;
        Some((Calculator::bundled(), found.id()))
    }
}

#[derive(Default, Debug)]
pub struct Fixture {
    pub name: String,
    pub body: Value,
    pub source: Option<String>,
    hint_provider: Option<String>,
    hint_model: Option<String>,
    pub expected: ReportedUsage,
}

impl Fixture {
    /// Reads a body with the fixture's hints.
    pub fn read(&self, body: &Value) -> Result<ReportedUsage> {
        let hint =
            Hint { provider: self.hint_provider.as_deref(), model: self.hint_model.as_deref() };
        read(body, hint, &Bundled)
    }
}

/// `a + b = sum`, which must add up; a lone number is its own sum.
fn sum(text: &str) -> Decimal {
    let (terms, stated) = text.split_once('=').unwrap_or((text, ""));
    let sum: Decimal = terms.split('+').map(|term| term.trim().parse::<Decimal>().unwrap()).sum();
    assert!(stated.is_empty() || sum == stated.trim().parse().unwrap(), "{text}");
    sum
}

fn fixture(path: &Path) -> Fixture {
    let text = std::fs::read_to_string(path).unwrap();
    let (comments, body): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("//"));
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let body = serde_json::from_str(&body.join("\n")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut fixture = Fixture { name, body, ..Fixture::default() };
    for line in comments {
        let line = line.trim_start_matches("//").trim();
        let expected = &mut fixture.expected;
        if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains(':')) {
            let value = value.to_owned();
            match key.split(' ').collect::<Vec<_>>()[..] {
                ["hint", "provider"] => fixture.hint_provider = Some(value),
                ["hint", "model"] => fixture.hint_model = Some(value),
                ["model"] => expected.model = Some(value),
                ["provider"] => expected.provider = Some(value),
                ["context", key] => drop(expected.context.insert(key.to_owned(), value)),
                ["cost"] => expected.reported_cost_usd = Some(value.parse().unwrap()),
                _ => {}
            }
        } else if line == "partial" {
            expected.is_partial = true;
        } else if let Some((key, value)) = line.split_once(": ") {
            if key == "source" {
                fixture.source = Some(value.to_owned());
            } else if let Some(class) = Class::named(key) {
                expected.quantities.set(class, sum(value));
            }
        }
    }
    fixture
}

/// All files of a folder of the repository, in the order of their names.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

pub fn fixtures() -> Vec<Fixture> {
    files("tests/fixtures/usage").iter().map(|path| fixture(path)).collect()
}
