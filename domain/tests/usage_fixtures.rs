//! Every provider's and shape's response body in `tests/fixtures/usage`, against the line items that its
//! comments work out by hand.

mod common;

use common::fixtures;

#[test]
fn every_response_body_gives_the_line_items_worked_out_by_hand() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 35, "{} fixtures", fixtures.len());
    let mut wrong = Vec::new();
    for fixture in &fixtures {
        assert!(fixture.source.is_some(), "{} names no documentation", fixture.name);
        match fixture.read(&fixture.body) {
            Ok(told) if told == fixture.expected => {}
            told => wrong
                .push(format!("{}\n  is  {told:?}\n  not {:?}", fixture.name, fixture.expected)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_usage_object_alone_gives_what_its_body_does() {
    // Searches that only the output shows, and a total that only the rest of the body explains.
    const NEED_THEIR_BODY: [&str; 2] = ["openai_responses_tools", "voyage_embeddings"];
    let mut alone = 0;
    for fixture in fixtures() {
        let usage = fixture.body.get("usage").filter(|usage| usage.is_object());
        let Some(usage) = usage.filter(|_| !NEED_THEIR_BODY.contains(&fixture.name.as_str()))
        else {
            continue;
        };
        let told =
            fixture.read(usage).unwrap_or_else(|error| panic!("{}: {error:?}", fixture.name));
        assert_eq!(told.quantities, fixture.expected.quantities, "{}", fixture.name);
        alone += 1;
    }
    assert!(alone > 20, "{alone}");
}

#[test]
fn the_fixtures_cover_the_providers_that_are_named() {
    let names: Vec<String> = fixtures().into_iter().map(|fixture| fixture.name).collect();
    for provider in [
        "openai_chat",
        "openai_responses",
        "openai_embeddings",
        "openai_image",
        "openai_transcription",
        "openai_speech",
        "anthropic",
        "gemini",
        "vertex",
        "bedrock_converse",
        "bedrock_invoke",
        "mistral",
        "groq",
        "cohere",
        "deepseek",
        "xai",
        "openrouter",
        "azure",
        "opentelemetry",
    ] {
        assert!(names.iter().any(|name| name.starts_with(provider)), "{provider}");
    }
}
