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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // A machine that is twice as slow in the second and third round.
        let rounds = Rounds { sides: vec![vec![90.0, 40.0, 45.0], vec![100.0, 50.0, 50.0]] };
        let ratio = rounds.ratio(0, 1);
        assert_eq!((ratio.median, ratio.least, ratio.most), (0.9, 0.8, 0.9));
        let inverse = rounds.ratio(1, 0).inverse();
        assert!((inverse.median - 0.9).abs() < 1e-9 && (inverse.least - 0.8).abs() < 1e-9);
        assert_eq!(rounds.median(0), 45.0);
    }

    #[test]
    fn sides_take_turns_and_each_goes_first() {
        let order = std::cell::RefCell::new(Vec::new());
        let side = |name: f64| -> Side {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(name);
                Ok(name)
            })
        };
        let rounds = alternate(2, vec![side(1.0), side(2.0)]).unwrap();
        assert_eq!(*order.borrow(), [1.0, 2.0, 2.0, 1.0]);
        assert_eq!((rounds.median(0), rounds.median(1)), (1.0, 2.0));
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let texts = [0.01234, 1.5, 99.994, 123.4, 12_345.6, 1_234_567.0].map(number);
        assert_eq!(texts, ["0.0123", "1.50", "99.99", "123", "12,346", "1,234,567"]);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
