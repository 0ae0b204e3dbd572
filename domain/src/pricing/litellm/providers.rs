//! Providers by the names that LiteLLM has for them.

use crate::pricing::provider_names::without_api;

/// Names that calls give, after OpenTelemetry, the Vercel AI SDK and the providers themselves, and
/// LiteLLM's; in lower case.
const NAMES: [(&str, &str); 31] = [
    ("amazon-bedrock", "bedrock"),
    ("aws", "bedrock"),
    ("aws.bedrock", "bedrock"),
    ("aws_bedrock", "bedrock"),
    ("azure.ai.inference", "azure_ai"),
    ("azure_ai", "azure_ai"),
    ("cloudflare_workers_ai", "cloudflare"),
    ("fireworks", "fireworks_ai"),
    ("fireworks-ai", "fireworks_ai"),
    ("gcp.gemini", "gemini"),
    ("gcp.gen_ai", "gemini"),
    ("gcp.vertex_ai", "vertex_ai"),
    ("google", "gemini"),
    ("google-gla", "gemini"),
    ("google-vertex", "vertex_ai"),
    ("google.generative-ai", "gemini"),
    ("google.vertex", "vertex_ai"),
    ("grok", "xai"),
    ("ibm.watsonx.ai", "watsonx"),
    ("kimi", "moonshot"),
    ("mistral_ai", "mistral"),
    ("mistralai", "mistral"),
    ("moonshotai", "moonshot"),
    ("together", "together_ai"),
    ("togetherai", "together_ai"),
    ("vercel", "vercel_ai_gateway"),
    ("vertexai", "vertex_ai"),
    ("workers-ai", "cloudflare"),
    ("x-ai", "xai"),
    ("x_ai", "xai"),
    ("z.ai", "zai"),
];

/// LiteLLM's name for the provider that a call names, in lower case.
#[must_use]
pub fn provider_named(name: &str) -> &str {
    if let Ok(at) = NAMES.binary_search_by_key(&name, |(known, _)| known) {
        return NAMES[at].1;
    }
    // azure.ai.openai, azure-openai.chat
    if name.starts_with("azure") {
        return "azure";
    }
    // groq.chat, xai.responses
    without_api(name).map_or(name, |provider| {
        match NAMES.iter().find(|(known, _)| *known == provider) {
            Some((_, ours)) => ours,
            None => provider,
        }
    })
}

/// LiteLLM splits some providers by the kind of model in its list: it calls them by one name.
pub(super) fn provider_listed(told: &str) -> String {
    let told = told.trim().to_lowercase();
    let told = told.strip_prefix("text-completion-").unwrap_or(&told);
    let told = told.strip_suffix("-embedding-models").unwrap_or(told);
    match told {
        "azure_text" => "azure",
        "bedrock_converse" => "bedrock",
        "cohere_chat" => "cohere",
        told if told.starts_with("vertex_ai-") => "vertex_ai",
        told => told,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_found_under_the_names_that_calls_give_it() {
        assert!(NAMES.is_sorted());
        for (given, expected) in [
            ("openai", "openai"),
            ("openai.responses", "openai"),
            ("azure.ai.openai", "azure"),
            ("azure_ai", "azure_ai"),
            ("aws.bedrock", "bedrock"),
            ("google.generative-ai", "gemini"),
            ("togetherai.chat", "together_ai"),
            ("acme", "acme"),
        ] {
            assert_eq!(provider_named(given), expected);
        }
    }

    #[test]
    fn the_list_names_a_provider_by_the_kind_of_model() {
        for (told, expected) in [
            ("bedrock_converse", "bedrock"),
            ("text-completion-openai", "openai"),
            ("cohere_chat", "cohere"),
            ("fireworks_ai-embedding-models", "fireworks_ai"),
            ("vertex_ai-language-models", "vertex_ai"),
            ("azure_ai", "azure_ai"),
        ] {
            assert_eq!(provider_listed(told), expected);
        }
    }
}
