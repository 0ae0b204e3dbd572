//! LiteLLM's list of prices, `model_prices_and_context_window.json`, as rows of `ai_prices`.
//!
//! An object of entries by the names under which LiteLLM calls models: `gpt-4o`, `azure/eu/gpt-4o`. The
//! provider in front of a name goes to its own column. A name without one is what a call means that
//! names no provider: it is also a row with the provider `''`, beside that of the provider it stands for.

mod complete;
mod entry;
mod keys;
mod providers;

use super::listing;
use super::price_list::PriceList;
use crate::error::{Error, Result};
pub use entry::Reasons;
use entry::{Fields, WHOLE};
pub use providers::provider_named;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the list names it.
    pub name: String,
    /// None when it is not taken.
    pub rows: Vec<Row>,
    /// By key, what could not be taken and why; under `entry` what is about all of it.
    pub not_represented: Reasons,
}

/// A row of `ai_prices` for all tenants, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Empty for calls that name none.
    pub provider: String,
    pub model: String,
    /// JSON.
    pub unit_prices: String,
}

/// Describes the list's keys instead of a model.
const SAMPLE: &str = "sample_spec";

/// As many aliases as may lead from a name to its prices.
const LONGEST_CHAIN: usize = 8;

/// Reads a whole list, in the order of its names.
///
/// # Errors
/// 22023 when it is no object of objects, or empty.
pub fn read(document: &str) -> Result<Vec<Entry>> {
    const HINT: &str =
        "Give LiteLLM's model_prices_and_context_window.json: an object with an object per model.";
    let refused = |message: String| Error::invalid(message).hint(HINT);
    let all: BTreeMap<String, &RawValue> = serde_json::from_str(document)
        .map_err(|_| refused("prices must be a JSON object".to_owned()))?;
    let mut list: BTreeMap<&str, Fields<'_>> = BTreeMap::new();
    for (name, json) in all.iter().filter(|(name, _)| *name != SAMPLE) {
        let fields = serde_json::from_str(json.get()).map_err(|_| {
            let name: String = name.chars().take(100).collect();
            refused(format!("entry \"{name}\" of prices must be a JSON object"))
        })?;
        list.insert(name, fields);
    }
    if list.is_empty() {
        return Err(refused("prices has no entry".to_owned()));
    }
    Ok(without_duplicates(list.keys().map(|name| converted(name, &list)).collect()))
}

/// An entry before it is known which others name the same.
struct Converted {
    name: String,
    provider: Option<String>,
    model: String,
    prices: Option<PriceList>,
    reasons: Reasons,
}

fn converted(name: &str, list: &BTreeMap<&str, Fields<'_>>) -> Converted {
    let mut fields = &list[name];
    let mut unresolved = None;
    for _ in 0..LONGEST_CHAIN {
        let Some(of) = text(fields, "alias_of") else { break };
        match list.get(of.as_str()) {
            Some(other) => fields = other,
            None => {
                unresolved = Some(format!("is an alias of \"{of}\", which is not in the list"));
                break;
            }
        }
    }
    if unresolved.is_none() && fields.contains_key("alias_of") {
        unresolved = Some("is an alias of an alias without end".to_owned());
    }
    let (provider, model) = names(name, text(fields, "litellm_provider").as_deref());
    let (mut prices, mut reasons) = match &unresolved {
        None => entry::prices(fields),
        Some(_) => (None, Reasons::new()),
    };
    let nameless = model.is_empty().then_some("has no name");
    let pattern = model.contains('*').then_some("its name would be a pattern in ai_prices");
    let refused = unresolved.or(nameless.or(pattern).map(str::to_owned));
    if let Some(reason) = refused {
        prices = None;
        reasons.insert(WHOLE.to_owned(), reason);
    }
    Converted { name: name.to_owned(), provider, model, prices, reasons }
}

fn text(fields: &Fields<'_>, key: &str) -> Option<String> {
    serde_json::from_str(fields.get(key)?.get()).ok()
}

/// Provider and model, in lower case.
fn names(name: &str, told: Option<&str>) -> (Option<String>, String) {
    let name = name.trim().to_lowercase();
    let told = told.map(providers::provider_listed).filter(|provider| !provider.is_empty());
    let Some((first, rest)) = name.split_once('/') else { return (told, name) };
    let same = |provider: &str| provider.replace('-', "_") == first.replace('-', "_");
    match told {
        Some(told) if same(&told) => (Some(told), rest.to_owned()),
        // What stands first is then a size or a quality: `high/1024-x-1024/gpt-image-1`.
        Some(told) => (Some(told), name),
        None => (Some(first.to_owned()), rest.to_owned()),
    }
}

/// The entries, where each provider and model has one row: of a name with its provider before one
/// without, else of the first.
fn without_duplicates(entries: Vec<Converted>) -> Vec<Entry> {
    let is_bare = |entry: &Converted| !entry.name.trim().contains('/');
    let mut owners: BTreeMap<(String, String), usize> = BTreeMap::new();
    let by_rank = |bare: bool| {
        let fits = move |(_, entry): &(usize, &Converted)| is_bare(entry) == bare;
        entries.iter().enumerate().filter(fits)
    };
    for (index, entry) in by_rank(false).chain(by_rank(true)) {
        if entry.prices.is_none() {
            continue;
        }
        let own = entry.provider.clone();
        let none = is_bare(entry).then(String::new);
        for provider in own.into_iter().chain(none) {
            owners.entry((provider, entry.model.clone())).or_insert(index);
        }
    }
    let mut result: Vec<Entry> = entries
        .iter()
        .map(|entry| Entry {
            name: entry.name.clone(),
            rows: Vec::new(),
            not_represented: entry.reasons.clone(),
        })
        .collect();
    for ((provider, model), index) in &owners {
        if let Some(prices) = &entries[*index].prices {
            result[*index].rows.push(Row {
                provider: provider.clone(),
                model: model.clone(),
                unit_prices: listing::list(prices),
            });
        }
    }
    for (index, entry) in entries.iter().enumerate() {
        let Some(prices) = &entry.prices else { continue };
        let key = (entry.provider.clone().unwrap_or_default(), entry.model.clone());
        let owner = owners.get(&key).map(|owner| &entries[*owner]);
        let Some(owner) = owner.filter(|owner| owner.name != entry.name) else { continue };
        if owner.prices.as_ref() != Some(prices) {
            let provider = &key.0;
            let reason = format!(
                "calls that name the provider \"{provider}\" cost what \"{}\" says",
                owner.name
            );
            result[index].not_represented.insert(WHOLE.to_owned(), reason);
        }
    }
    result
}

#[cfg(test)]
mod tests;
