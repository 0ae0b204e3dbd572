//! The reference has what exists, and nothing else.

use std::collections::BTreeMap;
use std::fs;

use ai_limiter_tests::{Cluster, Database, project_root};
use postgres::Client;
use regex::Regex;

use crate::pages::{blocks, pages};

/// The sections of the reference's pages, by the names of what they describe.
fn sections() -> BTreeMap<String, String> {
    let heading = Regex::new(r"(?m)^#{1,2} (.+)$").unwrap();
    let mut sections = BTreeMap::new();
    for page in pages().iter().filter(|p| p.to_str().unwrap().contains("docs/reference/")) {
        let text = fs::read_to_string(page).unwrap();
        let starts: Vec<_> = heading.captures_iter(&text).collect();
        for (i, start) in starts.iter().enumerate() {
            let end = starts.get(i + 1).map_or(text.len(), |next| next.get(0).unwrap().start());
            let body = text[start.get(0).unwrap().end()..end].to_owned();
            let twice = sections.insert(start[1].to_owned(), body);
            assert!(twice.is_none(), "{} is described twice", &start[1]);
        }
    }
    sections
}

/// A database with the extension, its library loaded.
fn database() -> (Database, Client) {
    // Only there are all settings.
    let database = Cluster::shared_preloaded().fresh_database();
    let mut client = database.connect();
    client.batch_execute("LOAD 'ai_limiter'").unwrap();
    (database, client)
}

/// What of `names` has no section, or whose section does not name a part of it.
fn missing(client: &mut Client, names_and_parts: &str) -> Vec<String> {
    let sections = sections();
    let rows = client.query(names_and_parts, &[]).unwrap();
    assert!(!rows.is_empty());
    let mut missing = Vec::new();
    for row in rows {
        let (name, parts): (String, Vec<String>) = (row.get(0), row.get(1));
        let Some(section) = sections.get(&name) else {
            missing.push(name);
            continue;
        };
        // The eleven arguments of a call are described in one place.
        let common = section.contains("[arguments of a call]");
        let call = "user_id tenant_id model provider feature api_key_id run_id attributes \
            input_tokens output_tokens cost_usd";
        let told = |part: &str| {
            section.contains(&format!("`{part}`"))
                || (common && call.split_whitespace().any(|c| c == part))
        };
        missing
            .extend(parts.iter().filter(|part| !told(part)).map(|part| format!("{name}: {part}")));
    }
    missing
}

#[test]
fn the_reference_tells_every_table_view_and_type_with_its_columns() {
    let (_database, mut client) = database();
    let relations = "SELECT c.relname::text, array_agg(a.attname::text) FILTER (WHERE relkind <> 'S' \
        AND a.attname IS NOT NULL) || '{}'::text[] FROM pg_class c LEFT JOIN pg_attribute a \
        ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'c', 'S') \
        GROUP BY c.oid, c.relname";
    assert_eq!(missing(&mut client, relations), [""; 0]);
}

#[test]
fn the_reference_tells_every_function_with_its_arguments_and_columns() {
    let (_database, mut client) = database();
    let functions = "SELECT proname::text, coalesce(proargnames, '{}') FROM pg_proc \
        WHERE pronamespace = 'ai_limiter'::regnamespace \
        AND obj_description(oid, 'pg_proc') NOT LIKE 'Private:%'";
    assert_eq!(missing(&mut client, functions), [""; 0]);
    let private = "SELECT 'Private functions', array_agg(proname::text) FROM pg_proc \
        WHERE pronamespace = 'ai_limiter'::regnamespace \
        AND obj_description(oid, 'pg_proc') LIKE 'Private:%'";
    assert_eq!(missing(&mut client, private), [""; 0]);
}

#[test]
fn a_functions_section_has_its_signature_and_all_headings() {
    let (_database, mut client) = database();
    let heading = Regex::new(r"(?m)^#### (.+)$").unwrap();
    let cast = Regex::new(r"(NULL|'[^']*')::[a-z ]+(\[\])?").unwrap();
    // As people write it: `timestamptz`, and no casts of defaults.
    let plain = |text: &str| {
        let short = text.replace("timestamp with time zone", "timestamptz");
        cast.replace_all(&short, "$1").split_whitespace().collect::<String>()
    };
    let functions = "SELECT proname::text, format('ai_limiter.%s(%s)RETURNS %s', proname, \
        pg_get_function_arguments(oid), pg_get_function_result(oid)) FROM pg_proc \
        WHERE pronamespace = 'ai_limiter'::regnamespace \
        AND obj_description(oid, 'pg_proc') NOT LIKE 'Private:%'";
    let sections = sections();
    for row in client.query(functions, &[]).unwrap() {
        let (name, signature): (String, String) = (row.get(0), row.get(1));
        let section = &sections[&name];
        let headings: Vec<&str> =
            heading.captures_iter(section).map(|c| c.get(1).unwrap().as_str()).collect();
        let all = ["Signature", "Meaning", "Arguments", "Returns", "Errors", "Example"];
        assert_eq!(headings, all, "{name}");
        // Functions of one name share a section, with their signatures before anything else.
        let told = section.split("#### Meaning").next().unwrap();
        let signatures: Vec<String> = blocks(told).iter().map(|b| plain(&b.text)).collect();
        assert!(signatures.contains(&plain(&signature)), "{name}: {signature}");
    }
}

#[test]
fn the_reference_tells_every_setting_with_its_default_and_values() {
    let (_database, mut client) = database();
    let settings = "SELECT name, ARRAY[boot_val] || coalesce(enumvals, '{}') FROM pg_settings \
        WHERE name LIKE 'ai_limiter.%'";
    assert_eq!(missing(&mut client, settings), [""; 0]);
}

#[test]
fn the_reference_tells_nothing_that_is_not_there() {
    let (_database, mut client) = database();
    let exists = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1) \
        OR EXISTS (SELECT FROM pg_proc WHERE proname = $1) \
        OR EXISTS (SELECT FROM pg_settings WHERE name = $1)";
    for name in sections().into_keys().filter(|name| name.starts_with(|c: char| c.is_lowercase())) {
        let row = client.query_one(exists, &[&name]).unwrap();
        assert!(row.get::<_, bool>(0), "there is no {name}");
    }
}

/// `internals.md` names the tests that fail when a guarantee is broken.
#[test]
fn every_test_that_the_pages_name_exists() {
    let root = project_root();
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let all = |folders: &[&str]| -> String {
        let files = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
        files.map(|file| read(file.unwrap().path())).collect()
    };
    let domain = all(&[
        "domain/src",
        "domain/src/counters",
        "domain/src/pricing",
        "domain/src/usage",
        "domain/tests",
    ]);
    let model = all(&["tests/model/tests"]);
    let named = Regex::new(r"`(?:(\w+\.rs|domain|model)::(\w+)|(\w+\.sql))`").unwrap();
    let mut missing = Vec::new();
    for page in pages() {
        for name in named.captures_iter(&fs::read_to_string(page).unwrap()) {
            let exists = match (name.get(1), name.get(2)) {
                (Some(file), Some(test)) => {
                    let function = format!("fn {}(", test.as_str());
                    match file.as_str() {
                        "domain" => domain.contains(&function),
                        // Most of them are made by a macro, of their name.
                        "model" => model.lines().any(|line| {
                            let line = line.trim_start().trim_start_matches("fn ");
                            let after = line.strip_prefix(test.as_str());
                            after.is_some_and(|a| a.is_empty() || a.starts_with([':', ',', '(']))
                        }),
                        file => read(root.join("tests/tests").join(file)).contains(&function),
                    }
                }
                _ => root.join("tests/pg_regress/sql").join(&name[3]).exists(),
            };
            missing.extend((!exists).then(|| name[0].to_owned()));
        }
    }
    assert_eq!(missing, [""; 0]);
}
