//! Alternating rounds, and what is made of them.
//!
//! A machine's speed drifts over minutes. Sides that are measured one after the other in each round
//! drift together, so a ratio is taken within a round, and the median of those is reported.

use anyhow::Result;

/// One side of a comparison: measures once and gives a number.
pub type Side<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// What each side gave in each round.
#[derive(Debug)]
pub struct Rounds {
    /// By side, then by round.
    sides: Vec<Vec<f64>>,
}

/// Measures all sides in each round. Each round begins with another side.
pub fn alternate(rounds: usize, mut sides: Vec<Side>) -> Result<Rounds> {
    let mut results = vec![Vec::with_capacity(rounds); sides.len()];
    for round in 0..rounds {
        let count = sides.len();
        for offset in 0..count {
            let side = (round + offset) % count;
            results[side].push(sides[side]()?);
        }
        let row: Vec<String> = results.iter().map(|side| number(side[round])).collect();
        eprintln!("  round {} of {rounds}: {}", round + 1, row.join(" / "));
    }
    Ok(Rounds { sides: results })
}

impl Rounds {
    pub fn median(&self, side: usize) -> f64 {
        median(&self.sides[side])
    }

    /// One side's number in parts of another's, round by round.
    pub fn ratio(&self, side: usize, to: usize) -> Ratio {
        let pairs = self.sides[side].iter().zip(&self.sides[to]);
        let of_rounds: Vec<f64> = pairs.map(|(a, b)| a / b).collect();
        Ratio {
            median: median(&of_rounds),
            least: of_rounds.iter().copied().fold(f64::INFINITY, f64::min),
            most: of_rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Ratio {
    /// The same comparison the other way round.
    pub fn inverse(self) -> Self {
        Self { median: 1.0 / self.median, least: 1.0 / self.most, most: 1.0 / self.least }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// A number with as many digits as mean something, and the thousands apart.
pub fn number(value: f64) -> String {
    if value < 100.0 {
        let decimals = if value < 1.0 { 4 } else { 2 };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
