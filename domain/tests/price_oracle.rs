//! 10,000 generated calls over all models, against the Python package `genai-prices`: every cost equal to
//! its decimal, rounded to twelve decimals, and the same calls refused.
//!
//! The cases come from a fixed seed (`AI_LIMITER_PRICE_ORACLE_SEED` takes another). There is no known
//! difference, so none is allowed for.

use ai_limiter_domain::pricing::line_items::line_items;
use ai_limiter_domain::pricing::{Catalog, Class, ModelPrices, PriceSource, Quantities};
use ai_limiter_domain::{Amount, Timestamp};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

const CASES: usize = 10_000;

struct Name {
    provider: String,
    name: String,
    model_id: &'static str,
    prices: &'static ModelPrices,
    /// What its prices depend on: `("processing", "batch")`.
    contexts: Vec<(String, String)>,
}

struct Case {
    context: Vec<(String, String)>,
    at: Timestamp,
    quantities: Quantities,
}

/// SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Up to 10⁹, as often of any length.
    fn quantity(&mut self, class: Class) -> Decimal {
        let limit = 10_usize.pow(u32::try_from(self.below(9)).unwrap() + 1);
        let quantity = Decimal::from(self.below(limit) + 1);
        // Seconds have fractions.
        let fraction = class.name().ends_with("seconds") && self.below(2) == 0;
        if fraction { quantity / Decimal::ONE_THOUSAND } else { quantity }
    }
}

/// For every model a name that finds it; also those that a provider sells for another.
fn names(document: &Value) -> Vec<Name> {
    let providers = document.as_array().unwrap();
    let mut found = Vec::new();
    for provider in providers {
        let id = provider["id"].as_str().unwrap();
        let sold = provider["fallback_model_providers"].as_array().into_iter().flatten();
        let mut seen = BTreeSet::new();
        for maker in std::iter::once(&provider["id"]).chain(sold) {
            let maker = providers.iter().find(|provider| provider["id"] == *maker).unwrap();
            for model in maker["models"].as_array().unwrap() {
                let contexts = contexts(model);
                let mut literals = vec![model["id"].as_str().unwrap()];
                collect(&model["match"], &mut literals);
                for name in literals {
                    let model = Catalog::bundled().find(Some(id), name).unwrap();
                    let Some(model) = model.filter(|model| seen.insert(model.model_id)) else {
                        continue;
                    };
                    found.push(Name {
                        provider: id.into(),
                        name: name.into(),
                        model_id: model.model_id,
                        prices: model.prices,
                        contexts: contexts.clone(),
                    });
                }
            }
        }
    }
    found
}

fn collect<'a>(logic: &'a Value, literals: &mut Vec<&'a str>) {
    for (operation, argument) in logic.as_object().unwrap() {
        match argument {
            Value::String(text) if operation != "regex" => literals.push(text),
            Value::Array(rules) => rules.iter().for_each(|rule| collect(rule, literals)),
            _ => {}
        }
    }
}

fn contexts(model: &Value) -> Vec<(String, String)> {
    let variants = model["price_variants"].as_array().into_iter().flatten();
    variants
        .flat_map(|variant| variant["when"].as_object().unwrap())
        .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

fn case(random: &mut Random, name: &Name, all_contexts: &[(String, String)]) -> Case {
    let prices = name.prices;
    // 2023 to 2028, or the half year of most variants, to the microsecond; sometimes the very moment when
    // a price changes.
    let (from, days) = if random.below(2) == 0 { (725_760_000, 1_825) } else { (844_560_000, 180) };
    let micros = random.next() % (days * 86_400_000_000);
    let mut at = Timestamp(from * 1_000_000 + i64::try_from(micros).unwrap());
    if random.below(5) == 0 {
        at = prices.stand_until(at).unwrap_or(at);
    }
    let mut context = Vec::new();
    while random.below(3) != 0 && context.len() < 3 {
        let own = !name.contexts.is_empty() && random.below(5) != 0;
        context.push(random.pick(if own { &name.contexts } else { all_contexts }).clone());
    }
    // Of what the model prices, and of anything. What is of one class is of all that contain it.
    let mut classes: Vec<Class> =
        prices.at(at, &[]).unwrap().iter().map(|(class, _)| class).collect();
    let others: Vec<Class> = Class::all().collect();
    classes.extend((0..random.below(4)).map(|_| *random.pick(&others)));
    let mut quantities = Quantities::default();
    for class in classes.into_iter().filter(|class| *class != Class::REQUESTS) {
        if random.below(4) == 0 {
            continue;
        }
        let quantity = random.quantity(class);
        for whole in Class::all().filter(|whole| *whole == class || whole.contains(class)) {
            quantities.set(whole, quantities.get(whole).unwrap_or_default() + quantity);
        }
    }
    // At the edge of a tier.
    let list = prices.at(at, &[]).unwrap();
    let tiers = list.get(Class::INPUT_TOKENS).map_or(&[][..], |price| &price.tiers);
    if !tiers.is_empty() && random.below(2) == 0 {
        let tokens = random.pick(tiers).start + i64::try_from(random.below(3)).unwrap() - 1;
        quantities = Quantities::of_tokens(Some(tokens), Some(1 + (tokens >> random.below(9))));
    }
    // One in ten contradicts itself, or may: what is told of one class is changed or left out.
    let told: Vec<_> = quantities.iter().collect();
    if !told.is_empty() && random.below(10) == 0 {
        let (changed, quantity) = *random.pick(&told);
        let keep = random.below(2) == 0;
        let mut contrary = Quantities::default();
        told.iter().filter(|(class, _)| *class != changed).for_each(|(c, q)| contrary.set(*c, *q));
        if keep {
            contrary.set(changed, (quantity / Decimal::TWO).trunc());
        }
        quantities = contrary;
    }
    Case { context, at, quantities }
}

fn ours(case: &Case, prices: &ModelPrices) -> String {
    let context: Vec<(&str, &str)> =
        case.context.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let list = prices.at(case.at, &context).unwrap();
    match line_items(&case.quantities, &list, 1, PriceSource::Catalog) {
        Ok(items) => items.total_usd.to_string(),
        Err(_) => "error".to_owned(),
    }
}

#[test]
#[ignore = "needs the Python package: scripts/price-oracle.sh"]
fn every_cost_is_the_one_that_python_computes_in_decimals() {
    let python = std::env::var("AI_LIMITER_PRICE_ORACLE").expect("scripts/price-oracle.sh sets it");
    let seed = std::env::var("AI_LIMITER_PRICE_ORACLE_SEED").map_or(4, |s| s.parse().unwrap());
    let mut random = Random(seed);
    let document: Value = serde_json::from_str(include_str!("../catalog/prices.json")).unwrap();
    let names = names(&document);
    let all_contexts: BTreeSet<_> = names.iter().flat_map(|name| name.contexts.clone()).collect();
    let all_contexts: Vec<_> = all_contexts.into_iter().collect();

    let (mut lines, mut costs) = (String::new(), Vec::with_capacity(CASES));
    // Every model once, then any of them.
    for index in 0..CASES {
        let name = names.get(index).unwrap_or_else(|| random.pick(&names));
        let case = case(&mut random, name, &all_contexts);
        let quantities: serde_json::Map<String, Value> = case
            .quantities
            .iter()
            .map(|(class, quantity)| (class.name().to_owned(), quantity.to_string().into()))
            .collect();
        let context: serde_json::Map<String, Value> =
            case.context.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let line = json!({
            "provider": name.provider, "name": name.name, "model_id": name.model_id,
            "at": case.at.0, "context": context, "quantities": quantities,
        });
        writeln!(lines, "{line}").unwrap();
        costs.push(ours(&case, name.prices));
    }
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (cases, theirs) = (folder.join("price_cases.jsonl"), folder.join("price_costs.txt"));
    std::fs::write(&cases, &lines).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/price_oracle.py");
    let status = Command::new(&python)
        .args([std::ffi::OsStr::new(script), cases.as_os_str(), theirs.as_os_str()])
        .status()
        .expect("Python starts");
    assert!(status.success());

    let theirs = std::fs::read_to_string(theirs).unwrap();
    assert_eq!(theirs.lines().count(), CASES);
    let same = |ours: &str, theirs: &str| {
        ours == theirs || Amount::parse(ours, "").is_ok_and(|c| Ok(c) == Amount::parse(theirs, ""))
    };
    let different: Vec<String> = costs
        .iter()
        .zip(theirs.lines())
        .zip(lines.lines())
        .filter(|((ours, theirs), _)| !same(ours, theirs))
        .map(|((ours, theirs), case)| format!("{ours} here, {theirs} in Python: {case}"))
        .collect();
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    let priced = costs.iter().filter(|cost| !["error", "0"].contains(&cost.as_str())).count();
    let refused = costs.iter().filter(|cost| *cost == "error").count();
    println!("{priced} calls cost something, {refused} are refused, {} models", names.len());
    assert!(priced > CASES * 8 / 10 && refused > CASES / 100);
    for (provider, model) in Catalog::bundled().models().unwrap() {
        let same = |name: &Name| name.provider == provider && name.model_id == model.id;
        assert!(names.iter().any(same), "{provider} {} was not priced", model.id);
    }
}
