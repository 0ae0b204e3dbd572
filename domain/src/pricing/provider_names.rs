//! Which provider of the catalogue a name means: OpenTelemetry's, LiteLLM's and the Vercel AI SDK's.
//!
//! The catalogue knows its own ids and some patterns (`provider_match`), of which "contains openai" also
//! fits `azure.ai.openai`: so this table is asked first.

/// Names that the catalogue doesn't know, or takes for another's; in lower case.
const NAMES: [(&str, &str); 26] = [
    // OpenTelemetry: gen_ai.provider.name, gen_ai.system.
    ("gcp.gen_ai", "google"),
    ("x_ai", "x-ai"),
    // LiteLLM.
    ("cloudflare_workers_ai", "cloudflare"),
    ("codestral", "mistral"),
    ("cohere_chat", "cohere"),
    ("fireworks_ai", "fireworks"),
    ("palm", "google"),
    ("text-completion-codestral", "mistral"),
    ("z_ai", "zai"),
    ("z.ai", "zai"),
    ("zhipu", "zhipuai"),
    // Vercel AI SDK.
    ("fireworks-ai", "fireworks"),
    ("togetherai", "together"),
    ("workersai", "cloudflare"),
    // Sell others' models, or serve what one hosts: their prices are not the makers'.
    ("deepinfra", ""),
    ("hosted_vllm", ""),
    ("ibm.watsonx.ai", ""),
    ("ollama", ""),
    ("openai_like", ""),
    ("replicate", ""),
    ("sagemaker", ""),
    ("vllm", ""),
    ("watsonx", ""),
    // Spoken of otherwise.
    ("grok", "x-ai"),
    ("kimi", "moonshotai"),
    ("workers-ai", "cloudflare"),
];

/// Who only passes calls on: the provider is in the model's name.
const PROXIES: [&str; 6] =
    ["litellm", "litellm_proxy", "gateway", "ai-gateway", "vercel", "vercel_ai_gateway"];

/// How names begin that only one provider gives, and that the catalogue doesn't know without its name.
/// Not those of open models: many sell them, each at a price of its own.
const MAKERS: [(&str, &str); 6] = [
    ("chatgpt-", "openai"),
    ("codex-", "openai"),
    ("embed-", "cohere"),
    ("ft:gpt-", "openai"),
    ("sonar", "perplexity"),
    ("text-embedding-3-", "openai"),
];

/// What a provider's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderName<'a> {
    /// As if none were given.
    Proxy,
    /// Known not to be in the catalogue, whatever its patterns say.
    NotPriced,
    /// To be looked up in the catalogue under this name.
    Named(&'a str),
}

/// What this name, trimmed and in lower case, says.
#[must_use]
pub fn meaning(name: &str) -> ProviderName<'_> {
    if PROXIES.contains(&name) {
        return ProviderName::Proxy;
    }
    // azure.ai.openai, azure-openai.chat, azure_openai: not OpenAI's own.
    if name.starts_with("azure") {
        return ProviderName::Named("azure");
    }
    let entry = NAMES.iter().find(|(known, _)| *known == name);
    match entry {
        Some((_, "")) => ProviderName::NotPriced,
        Some((_, id)) => ProviderName::Named(id),
        None => ProviderName::Named(name),
    }
}

/// The Vercel AI SDK names the API after the provider: `groq.chat`, `xai.responses`.
#[must_use]
pub fn without_api(name: &str) -> Option<&str> {
    name.split_once('.').map(|(provider, _)| provider).filter(|provider| !provider.is_empty())
}

/// The provider that a model's name, without one, can only be of.
#[must_use]
pub fn maker(model: &str) -> Option<&'static str> {
    let begins = |start: &str| {
        let head = model.get(..start.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    MAKERS.iter().find(|(start, _)| begins(start)).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azure_is_not_openai() {
        for name in
            ["azure", "azure.ai.openai", "azure.ai.inference", "azure_ai", "azure-openai.chat"]
        {
            assert_eq!(meaning(name), ProviderName::Named("azure"), "{name}");
        }
        assert_eq!(meaning("openai"), ProviderName::Named("openai"));
    }

    #[test]
    fn a_proxy_is_no_provider() {
        assert_eq!(meaning("litellm"), ProviderName::Proxy);
        assert_eq!(without_api("groq.chat"), Some("groq"));
    }
}
