//! The bundled catalogue, as the reader asks for it.

use ai_limiter_domain::usage::Extractors;
use genai_prices::Calculator;

pub struct Bundled;

impl Extractors for Bundled {
    fn calculator(&self, provider: &str) -> Option<(&Calculator, &str)> {
        let found = Calculator::bundled().find_provider(Some(provider), None).ok().flatten()?;
        Some((Calculator::bundled(), found.id()))
    }
}

/// Decodes it, once.
pub fn decode() {
    let _ = Calculator::bundled();
}
