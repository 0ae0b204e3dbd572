//! Which rows a list of entries makes.

use super::*;

fn rows(json: &str) -> Vec<String> {
    let row = |row: &Row| format!("{}|{} {}", row.provider, row.model, row.unit_prices);
    read(json).unwrap().iter().flat_map(|entry| entry.rows.iter().map(row)).collect()
}

fn told(json: &str) -> BTreeMap<String, String> {
    let told = |entry: Entry| Some((entry.name, entry.not_represented.get(WHOLE)?.clone()));
    read(json).unwrap().into_iter().filter_map(told).collect()
}

#[test]
fn a_name_without_a_provider_is_also_for_calls_that_name_none() {
    assert_eq!(
        rows(r#"{"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06}}"#),
        [r#"|gpt-4o {"input_mtok":2.5}"#, r#"openai|gpt-4o {"input_mtok":2.5}"#]
    );
    assert_eq!(rows(r#"{"mine": {"input_cost_per_token": 1e-06}}"#), [r#"|mine {"input_mtok":1}"#]);
}

#[test]
fn the_provider_in_front_is_a_column_and_what_follows_is_the_model() {
    for (name, told, provider, model) in [
        ("azure/eu/GPT-4o", "azure", "azure", "eu/gpt-4o"),
        ("groq/openai/gpt-oss-20b", "groq", "groq", "openai/gpt-oss-20b"),
        ("amazon-nova/nova-lite", "amazon_nova", "amazon_nova", "nova-lite"),
        (
            "vertex_ai/claude-3@20240229",
            "vertex_ai-anthropic_models",
            "vertex_ai",
            "claude-3@20240229",
        ),
        ("high/1024-x-1024/gpt-image-1", "openai", "openai", "high/1024-x-1024/gpt-image-1"),
        ("gemini/gemini-2.5-pro", "gemini", "gemini", "gemini-2.5-pro"),
    ] {
        let json = format!(
            r#"{{"{name}": {{"litellm_provider": "{told}", "input_cost_per_token": 1e-06}}}}"#
        );
        assert_eq!(rows(&json), [format!(r#"{provider}|{model} {{"input_mtok":1}}"#)], "{name}");
    }
}

#[test]
fn of_two_names_for_one_model_the_one_with_its_provider_counts() {
    let json = r#"{"deepseek-chat": {"litellm_provider": "deepseek", "input_cost_per_token": 1e-06},
        "deepseek/deepseek-chat": {"litellm_provider": "deepseek", "input_cost_per_token": 2e-06}}"#;
    assert_eq!(
        rows(json),
        [r#"|deepseek-chat {"input_mtok":1}"#, r#"deepseek|deepseek-chat {"input_mtok":2}"#]
    );
    let reason =
        r#"calls that name the provider "deepseek" cost what "deepseek/deepseek-chat" says"#;
    assert_eq!(told(json)["deepseek-chat"], reason);
    assert!(told(&json.replace("2e-06", "0.000001")).is_empty());
}

#[test]
fn an_alias_costs_what_it_stands_for() {
    let json = r#"{"azure/latest": {"alias_of": "azure/newest"}, "azure/newest": {"alias_of": "azure/m-2"},
        "azure/m-2": {"litellm_provider": "azure", "input_cost_per_token": 1e-06},
        "lost": {"alias_of": "nowhere"}, "round": {"alias_of": "about"}, "about": {"alias_of": "round"}}"#;
    assert_eq!(
        rows(json),
        [
            r#"azure|latest {"input_mtok":1}"#,
            r#"azure|m-2 {"input_mtok":1}"#,
            r#"azure|newest {"input_mtok":1}"#
        ]
    );
    assert_eq!(told(json).keys().collect::<Vec<_>>(), ["about", "lost", "round"]);
}

#[test]
fn the_sample_and_what_would_be_a_pattern_are_no_models() {
    let json = r#"{"sample_spec": {"input_cost_per_token": 1}, "bedrock/*/m": {"input_cost_per_token": 1e-06}, "azure/": {"input_cost_per_token": 1e-06}}"#;
    assert_eq!(rows(json), Vec::<String>::new());
    assert_eq!(told(json).keys().collect::<Vec<_>>(), ["azure/", "bedrock/*/m"]);
}

#[test]
fn what_is_no_object_of_objects_is_refused_with_the_cure() {
    for json in [
        "[]",
        "7",
        "null",
        "{}",
        r#"{"sample_spec": {}}"#,
        r#"{"m": 7}"#,
        r#"{"m": null}"#,
        "{",
        r#"{"m": []}"#,
    ] {
        let error = read(json).unwrap_err();
        assert!(error.hint.is_some() && error.kind == crate::Kind::InvalidParameter, "{json}");
    }
}
