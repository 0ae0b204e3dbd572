//! The bundled catalogue against the `genai-prices` crate itself: the same document, the same models
//! under the same names, the same totals as far as floats go.

use ai_limiter_domain::Timestamp;
use ai_limiter_domain::pricing::line_items::line_items;
use ai_limiter_domain::pricing::{Catalog, Class, PriceSource, Quantities};
use genai_prices::{Calculator, PriceRequest, Usage};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

fn document() -> Value {
    serde_json::from_str(include_str!("../catalog/prices.json")).unwrap()
}

/// Every text that a model's patterns compare a name with, and its id.
fn names(model: &Value) -> Vec<String> {
    fn literals(logic: &Value, names: &mut Vec<String>) {
        for (operation, argument) in logic.as_object().unwrap() {
            match argument {
                Value::String(text) if operation != "regex" => names.push(text.clone()),
                Value::Array(rules) => rules.iter().for_each(|rule| literals(rule, names)),
                _ => {}
            }
        }
    }
    let mut names = vec![model["id"].as_str().unwrap().to_owned()];
    literals(&model["match"], &mut names);
    names
}

#[test]
fn the_copy_has_every_model_of_the_crate() {
    let ours: Vec<_> = Catalog::bundled()
        .models()
        .unwrap()
        .map(|(provider, model)| (provider, &model.id))
        .collect();
    let theirs: Vec<_> = Calculator::bundled()
        .providers()
        .flat_map(|provider| provider.models().map(move |model| (provider.id(), model.id())))
        .collect();
    assert!(ours.iter().map(|(provider, id)| (*provider, id.as_str())).eq(theirs.iter().copied()));
    assert_eq!(Catalog::bundled().unknown_price_keys().unwrap(), Vec::<String>::new());
}

#[test]
fn every_name_finds_the_model_that_the_crate_finds() {
    let (catalog, usage) = (Catalog::bundled(), Usage::new());
    let document = document();
    let providers = document.as_array().unwrap();
    let mut found = 0;
    for provider in providers {
        let id = provider["id"].as_str().unwrap();
        // Azure and Google sell others' models under their makers' names.
        let sold = provider["fallback_model_providers"].as_array().into_iter().flatten();
        let sellers = std::iter::once(&provider["id"]).chain(sold);
        let models = sellers.flat_map(|maker| {
            let maker = providers.iter().find(|provider| provider["id"] == *maker).unwrap();
            maker["models"].as_array().unwrap()
        });
        for name in models.flat_map(names) {
            for name in [name.clone(), format!("{name}-20250929"), name.to_uppercase()] {
                let request = PriceRequest::new(&name, &usage).with_provider_id(id);
                let Ok(theirs) = Calculator::bundled().calculate(&request) else { continue };
                let ours = catalog.find(Some(id), &name).unwrap();
                let ours = ours.map(|model| (model.provider_id, model.model_id));
                assert_eq!(ours, Some((id, theirs.model_id.as_str())), "{id} {name}");
                found += 1;
            }
        }
    }
    assert!(found > 5_000, "{found}");
}

#[test]
fn every_model_costs_what_the_crate_says() {
    let catalog = Catalog::bundled();
    // A day with most conditions behind it, at an hour with and one without a discount.
    let times = [1_791_000_000_u64, 1_794_970_800, 1_794_990_000];
    let contexts: [&[(&str, &str)]; 4] = [
        &[],
        &[("processing", "batch")],
        &[("service_tier", "flex")],
        &[("service_tier", "priority"), ("search_type", "fast")],
    ];
    let mut compared = 0;
    for provider in document().as_array().unwrap() {
        let id = provider["id"].as_str().unwrap();
        let mut seen = BTreeSet::new();
        for name in provider["models"].as_array().unwrap().iter().flat_map(names) {
            let model = catalog.find(Some(id), &name).unwrap();
            let Some(model) = model.filter(|model| seen.insert(model.model_id)) else { continue };
            for ((time, context), tokens) in
                times.iter().zip(contexts).flat_map(|at| [(at, 1_000_i64), (at, 777_777)])
            {
                let mut quantities = Quantities::default();
                // Half of what contains it, so that no part exceeds its whole.
                for class in Class::all().filter(|class| *class != Class::REQUESTS) {
                    let share = tokens >> (2 * (class.depth() - 1));
                    quantities.set(class, share.into());
                }
                let usage: Usage = quantities
                    .iter()
                    .map(|(class, quantity)| (class.name(), quantity.to_f64().unwrap()))
                    .collect();
                let mut request = PriceRequest::new(&name, &usage)
                    .with_provider_id(id)
                    .with_timestamp(UNIX_EPOCH + Duration::from_secs(*time));
                request.price_context = context.to_vec();
                let at = Timestamp((i64::try_from(*time).unwrap() - 946_684_800) * 1_000_000);
                let list = model.prices.at(at, context).unwrap();
                let ours = line_items(&quantities, &list, 1, PriceSource::Catalog);
                match (Calculator::bundled().calculate(&request), ours) {
                    (Ok(theirs), Ok(ours)) => {
                        let total = Decimal::from_i128_with_scale(ours.total_usd.pico(), 12);
                        let (theirs, ours) = (theirs.total_price, total.to_f64().unwrap());
                        let near = (theirs - ours).abs() <= 1e-9 * theirs.abs() + 1e-12;
                        assert!(near, "{id} {name} {context:?}: {theirs} {ours}");
                        compared += 1;
                    }
                    (Err(_), Err(_)) => {}
                    (theirs, ours) => panic!("{id} {name}: {theirs:?} {ours:?}"),
                }
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}
