//! The catalogue: which names find which models, and which documents it takes.

use ai_limiter_domain::pricing::priced::{Call, price};
use ai_limiter_domain::pricing::{Catalog, Quantities};
use ai_limiter_domain::{Amount, Timestamp};

fn found(provider: Option<&str>, model: &str) -> Option<(&'static str, &'static str)> {
    let found = Catalog::bundled().find(provider, model).unwrap();
    found.map(|found| (found.provider_id, found.model_id))
}

#[test]
fn a_model_is_found_under_the_names_that_it_goes_by() {
    let openai = Some(("openai", "gpt-4o"));
    for (provider, model) in [
        (None, "gpt-4o"),
        (None, "GPT-4o "),
        (None, "openai/gpt-4o"),
        (None, "litellm/openai/gpt-4o"),
        (Some("openai"), "gpt-4o"),
        (Some("OpenAI"), "openai/gpt-4o"),
        (Some("openai.chat"), "gpt-4o"),
        (Some("litellm"), "openai/gpt-4o"),
        (Some("gateway"), "openai/gpt-4o"),
    ] {
        assert_eq!(found(provider, model), openai, "{provider:?} {model}");
    }
    for (provider, model) in [
        (None, "azure/gpt-4o"),
        (None, "azure/eu/gpt-4o"),
        (Some("azure.ai.openai"), "gpt-4o"),
        (Some("azure-openai.chat"), "azure/gpt-4o"),
    ] {
        assert_eq!(found(provider, model), Some(("azure", "gpt-4o")), "{provider:?} {model}");
    }
    for (provider, model) in
        [(None, "openrouter/openai/gpt-4o"), (Some("openrouter"), "openai/gpt-4o")]
    {
        let expected = Some(("openrouter", "openai/gpt-4o"));
        assert_eq!(found(provider, model), expected, "{provider:?} {model}");
    }
}

#[test]
fn providers_are_known_by_the_names_of_opentelemetry_litellm_and_the_ai_sdk() {
    for (names, id) in [
        ("openai openai.responses text-completion-openai", Some("openai")),
        ("anthropic anthropic.messages", Some("anthropic")),
        ("azure.ai.openai azure.ai.inference azure_ai azure-openai", Some("azure")),
        ("aws.bedrock bedrock bedrock_converse amazon-bedrock", Some("aws")),
        ("gcp.gemini gcp.vertex_ai gcp.gen_ai gemini vertex_ai", Some("google")),
        ("google.generative-ai google.vertex.chat google-vertex", Some("google")),
        ("cohere cohere_chat cohere.chat", Some("cohere")),
        ("deepseek deepseek.chat", Some("deepseek")),
        ("groq groq.chat", Some("groq")),
        ("mistral mistral_ai mistral.chat codestral", Some("mistral")),
        ("perplexity", Some("perplexity")),
        ("x_ai xai x-ai xai.chat", Some("x-ai")),
        ("together_ai togetherai togetherai.chat", Some("together")),
        ("fireworks_ai fireworks fireworks.chat", Some("fireworks")),
        ("moonshot moonshotai", Some("moonshotai")),
        ("openrouter", Some("openrouter")),
        ("ibm.watsonx.ai watsonx ollama vllm my-own-server", None),
    ] {
        for name in names.split(' ') {
            let calculator = Catalog::bundled().calculator(name);
            assert_eq!(calculator.map(|(_, id)| id), id, "{name}");
        }
    }
}

#[test]
fn a_name_that_only_one_provider_gives_needs_no_provider() {
    for (model, id) in [
        ("claude-sonnet-4-5-20250929", "anthropic"),
        ("text-embedding-3-small", "openai"),
        ("ft:gpt-4o-2024-08-06:org::id", "openai"),
        ("Sonar-pro", "perplexity"),
        ("models/gemini-2.5-pro", "google"),
    ] {
        assert_eq!(found(None, model).map(|(provider, _)| provider), Some(id), "{model}");
    }
}

#[test]
fn an_unknown_provider_or_model_is_not_guessed() {
    for (provider, model) in [
        (Some("my-own-server"), "gpt-4o"),
        (Some("ollama"), "gpt-4o"),
        (None, "ollama/claude-sonnet-4-5"),
        (None, "openai/no-such-model"),
        (None, ""),
        (None, "/"),
        (None, "///"),
        (Some("openai"), " "),
    ] {
        assert_eq!(found(provider, model), None, "{provider:?} {model}");
    }
    assert_eq!(found(Some("openai"), &"gpt-4o".repeat(1_000)), None);
}

#[test]
fn who_sells_anothers_model_has_its_standard_prices_only() {
    let batch = [("processing", "batch")];
    let catalog = Catalog::bundled();
    let [maker, seller] = ["openai", "azure"]
        .map(|provider| catalog.find(Some(provider), "gpt-5.1").unwrap().unwrap().prices);
    let at = Timestamp(850_000_000_000_000);
    assert_ne!(maker.at(at, &batch).unwrap(), maker.at(at, &[]).unwrap());
    assert_eq!(seller.at(at, &batch).unwrap(), maker.at(at, &[]).unwrap());
}

#[test]
fn a_model_without_prices_is_free_only_if_its_name_says_so() {
    let without_prices = |free: bool| {
        let models = Catalog::bundled().models().unwrap();
        let empty =
            models.filter(|(_, model)| model.prices.at(Timestamp(0), &[]).unwrap().is_empty());
        empty.filter(|(_, model)| model.prices.price_calls() == free).collect::<Vec<_>>()
    };
    let (free, unknown) = (without_prices(true), without_prices(false));
    assert!(free.len() > 100 && free.iter().all(|(_, model)| model.id.ends_with(":free")));
    // A subscription, a model that is gone: an own price says what they cost.
    assert!(unknown.iter().any(|(provider, _)| *provider == "github-copilot"));
    assert!(unknown.iter().all(|(_, model)| !model.id.ends_with(":free")));
    let model = free[0].1;
    let quantities = Quantities::of_tokens(Some(10), None);
    let call = Call {
        quantities: &quantities,
        requests: 1,
        at: Timestamp(0),
        context: &[],
        tenant_markup_factor: None,
    };
    let priced = price(&call, &[], Some(&model.prices)).unwrap().unwrap();
    assert_eq!((priced.items.items.len(), priced.cost_usd()), (1, Amount::ZERO));
    assert_eq!(price(&call, &[], Some(&unknown[0].1.prices)).unwrap(), None);
}

#[test]
fn a_response_is_read_without_any_model() {
    let (calculator, id) = Catalog::bundled().calculator("anthropic").unwrap();
    let response = r#"{"model": "m", "usage": {"input_tokens": 3, "output_tokens": 4}}"#;
    let request = genai_prices::ExtractRequest::new(response).with_provider_id(id);
    let read = calculator.extract_provider_usage(&request).unwrap();
    assert_eq!(read.usage.get("input_tokens"), Some(3.0));
}

#[test]
fn a_document_is_taken_whole_or_not_at_all() {
    let document = |models: &str| {
        format!(
            r#"[{{"id": "acme", "name": "Acme", "api_pattern": "acme", "models": [{models}]}}]"#
        )
    };
    let model =
        |prices: &str| format!(r#"{{"id": "m", "match": {{"equals": "m"}}, "prices": {prices}}}"#);
    for json in [
        String::new(),
        "{}".into(),
        "[{}]".into(),
        "[".repeat(100_000),
        document(r#"{"id": "m", "match": {"regex": "("}, "prices": {}}"#),
        document(&model(r#"{"input_mtok": -1}"#)),
        document(&model(r#"{"cache_read_mtok": 1}"#)),
        document(&model(r#"{"input_mtok": 0.00000000000000000000000000000000001}"#)),
        document(&model(r#"[{"prices": {}}, {"prices": {}}]"#)),
    ] {
        let error = Catalog::from_json(&json).err();
        assert!(error.is_some_and(|error| error.hint.is_some()), "{:.200}", json);
    }
    let catalog =
        Catalog::from_json(&document(&model(r#"{"input_mtok": 1, "sighs": 2}"#))).unwrap();
    assert_eq!(catalog.unknown_price_keys().unwrap(), ["acme/m: sighs"]);
    let found = catalog.find(Some("acme"), "m").unwrap();
    assert_eq!(found.map(|found| found.model_id), Some("m"));
}
