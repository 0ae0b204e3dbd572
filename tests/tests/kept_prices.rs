//! What sessions keep of prices stands only while the rows that it was read from do.

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::Session;
use postgres::Client;

/// The smallest catalogue in which `acme-1` of `acme` costs so much a million input tokens.
fn catalog(price: &str) -> String {
    format!(
        r#"'[{{"id": "acme", "name": "Acme", "api_pattern": "acme", "models": [{{"id": "acme-1",
            "match": {{"equals": "acme-1"}}, "prices": {{"input_mtok": {price}}}}}]}}]'"#
    )
}

fn estimate(session: &mut Client) -> String {
    session.value(
        "SELECT trim_scale(ai_limiter.estimate_ai_cost('acme-1', 'acme', \
         usage => '{\"input_tokens\": 1000000}'))",
    )
}

#[test]
fn a_catalogue_under_the_id_of_an_earlier_one_is_not_taken_for_it() {
    let database = Cluster::shared().fresh_database();
    let (mut admin, mut other) = (database.connect(), database.connect());
    let insert = |price: &str| {
        format!(
            "INSERT INTO ai_limiter.ai_price_catalogs (id, catalog) VALUES (1, {})",
            catalog(price)
        )
    };
    admin.run(&insert("3"));
    assert_eq!([&mut admin, &mut other].map(estimate), ["3", "3"]);
    let mut edit = admin.transaction().unwrap();
    edit.run("DELETE FROM ai_limiter.ai_price_catalogs");
    edit.run(&insert("4"));
    edit.commit().unwrap();
    assert_eq!([&mut admin, &mut other].map(estimate), ["4", "4"]);
    // Both of one transaction.
    admin.run(&format!(
        "DO $$ BEGIN DELETE FROM ai_limiter.ai_price_catalogs; {}; \
         PERFORM ai_limiter.estimate_ai_cost('acme-1', 'acme', usage => '{{\"input_tokens\": 9}}'); \
         DELETE FROM ai_limiter.ai_price_catalogs; {}; END $$",
        insert("5"),
        insert("6")
    ));
    assert_eq!([&mut admin, &mut other].map(estimate), ["6", "6"]);
}

#[test]
fn a_catalogue_of_an_extension_that_was_created_anew_is_not_taken_for_the_old_one() {
    let database = Cluster::shared().fresh_database();
    let (mut admin, mut other) = (database.connect(), database.connect());
    let load = |session: &mut Client, price: &str| {
        session.value(&format!(
            "SELECT catalog_id FROM ai_limiter.load_ai_price_catalog({})",
            catalog(price)
        ))
    };
    assert_eq!(load(&mut admin, "3"), "1");
    assert_eq!([&mut admin, &mut other].map(estimate), ["3", "3"]);
    admin.run("DROP EXTENSION ai_limiter CASCADE");
    admin.run("DROP SCHEMA IF EXISTS ai_limiter CASCADE");
    admin.run("CREATE EXTENSION ai_limiter");
    assert_eq!(load(&mut admin, "4"), "1");
    assert_eq!([&mut admin, &mut other].map(estimate), ["4", "4"]);
}

#[test]
fn a_tenant_whose_id_changes_takes_its_markup_along() {
    let database = Cluster::shared().fresh_database();
    let (mut admin, mut server) = (database.connect(), database.connect());
    let [one, two] =
        ["00000000-0000-0000-0000-0000000000aa", "00000000-0000-0000-0000-0000000000bb"];
    admin.run(&format!(
        "INSERT INTO ai_limiter.ai_tenants (tenant_id, markup_factor) VALUES ('{one}', 5)"
    ));
    let charged = |session: &mut Client, tenant: &str| {
        let id = session.value(&format!(
            "SELECT ai_limiter.record_ai_usage(tenant_id => '{tenant}', cost_usd => 2)"
        ));
        session.value(&format!(
            "SELECT trim_scale(charge_usd) FROM ai_limiter.ai_usage WHERE id = '{id}'"
        ))
    };
    assert_eq!([one, two].map(|tenant| charged(&mut server, tenant)), ["10", "2"]);
    admin.run(&format!(
        "UPDATE ai_limiter.ai_tenants SET tenant_id = '{two}' WHERE tenant_id = '{one}'"
    ));
    assert_eq!([one, two].map(|tenant| charged(&mut server, tenant)), ["2", "10"]);
}
