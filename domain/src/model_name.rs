//! One canonical name for a model: without the provider's prefix, without the release date.
//!
//! `openai/gpt-4o-2024-08-06` and `gpt-4o` are one model to a rule. Prices look at the name as it
//! was given first, since a dated release can cost something else.

/// A model as rules know it, with the provider that its prefix named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    pub provider: Option<String>,
    pub model: String,
}

/// Model and provider as rules look at them and the ledger has them: the canonical name, and the
/// given provider in lower case, else the prefix's.
pub fn with_provider(
    model: Option<&str>,
    provider: Option<&str>,
) -> (Option<String>, Option<String>) {
    let canonical = model.map(canonicalize);
    let (model, prefix) = canonical.map(|c| (c.model, c.provider)).unzip();
    (model, provider.map(str::to_lowercase).or(prefix.flatten()))
}

/// Lower-cases, takes a `provider/` prefix off and cuts a trailing date (`-2024-08-06`,
/// `-20240806`, `@20240806`). Patterns with `*` keep their tail.
pub fn canonicalize(name: &str) -> ModelName {
    let name = name.trim().to_lowercase();
    let (prefix, model) = match name.rsplit_once('/') {
        Some((prefix, model)) if !model.is_empty() => (prefix.split('/').next(), model),
        _ => (None, name.as_str()),
    };
    let provider = prefix.filter(|p| !p.is_empty() && !p.contains('*')).map(str::to_owned);
    let model = if model.contains('*') { model } else { strip_date(model) };
    ModelName { provider, model: model.to_owned() }
}

/// The name in lower case without its provider's prefix, the release date kept.
pub fn without_prefix(name: &str) -> String {
    let name = name.trim().to_lowercase();
    match name.rsplit_once('/') {
        Some((_, model)) if !model.is_empty() => model.to_owned(),
        _ => name,
    }
}

/// Cuts every trailing date, so that a canonical name is its own canonical name.
fn strip_date(mut model: &str) -> &str {
    model = model.trim();
    while let Some(shorter) = strip_one_date(model) {
        model = shorter.trim_end();
    }
    model
}

fn strip_one_date(model: &str) -> Option<&str> {
    for length in [10, 8] {
        let Some(cut) = model.len().checked_sub(length + 1) else { continue };
        let (Some(head), Some(tail)) = (model.get(..cut), model.get(cut..)) else { continue };
        let separator_fits = tail.starts_with('-') || (length == 8 && tail.starts_with('@'));
        if !head.is_empty() && separator_fits && is_date(&tail[1..]) {
            return Some(head);
        }
    }
    None
}

fn is_date(text: &str) -> bool {
    let compact: String = match text.len() {
        10 if text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-' => text.replace('-', ""),
        _ => text.to_owned(),
    };
    compact.len() == 8
        && compact.bytes().all(|b| b.is_ascii_digit())
        && jiff::civil::Date::strptime("%Y%m%d", &compact)
            .is_ok_and(|d| (2000..2100).contains(&d.year()))
}

/// Whether `name` matches `pattern`, in which `*` stands for any run of characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The same pattern for SQL's `LIKE` with its default escape.
pub fn like_pattern(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len() + 4);
    for c in pattern.chars() {
        match c {
            '*' => like.push('%'),
            '%' | '_' | '\\' => {
                like.push('\\');
                like.push(c);
            }
            c => like.push(c),
        }
    }
    like
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_and_dates_resolve_to_one_name() {
        for name in [
            "gpt-4o",
            "openai/gpt-4o",
            "GPT-4o-2024-08-06",
            "openai/gpt-4o-20240806",
            "openrouter/openai/gpt-4o",
            "gpt-4o@20240806",
        ] {
            assert_eq!(canonicalize(name).model, "gpt-4o", "{name}");
        }
        assert_eq!(canonicalize("openai/gpt-4o").provider.as_deref(), Some("openai"));
        assert_eq!(
            canonicalize("openrouter/openai/gpt-4o").provider.as_deref(),
            Some("openrouter")
        );
        assert_eq!(canonicalize("gpt-4o").provider, None);
    }

    #[test]
    fn what_is_no_date_stays() {
        for name in
            ["gpt-4-0613", "model-20241399", "gemini-1.5-pro-002", "-20240806", "x-2024-13-01"]
        {
            assert_eq!(canonicalize(name).model, name);
        }
    }

    #[test]
    fn a_star_matches_any_run_of_characters() {
        assert!(matches("gpt-4*", "gpt-4o-mini"));
        assert!(matches("*-mini", "gpt-4o-mini"));
        assert!(matches("g*-4*i", "gpt-4o-mini"));
        assert!(matches("*", ""));
        assert!(!matches("gpt-4", "gpt-4o"));
        assert!(!matches("gpt*mini", "gpt-4o"));
        assert!(!matches("a*a", "a"));
    }

    proptest! {
        #[test]
        fn a_canonical_name_is_its_own_canonical_name(
            name in "[a-zA-Z@/. -]{0,8}(-20240806|@20251231|-2024-08-06|/){0,3}[a-z]{0,2}",
        ) {
            let once = canonicalize(&name).model;
            prop_assert_eq!(&canonicalize(&once).model, &once);
        }

        #[test]
        fn a_name_matches_itself_and_any_prefix_with_a_star(name in "[a-z0-9.-]{1,20}", cut in 0usize..20) {
            prop_assert!(matches(&name, &name));
            let cut = cut.min(name.len());
            let pattern = format!("{}*", &name[..cut]);
            prop_assert!(matches(&pattern, &name));
        }
    }
}
