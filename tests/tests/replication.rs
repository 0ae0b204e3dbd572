//! A server that gets its configuration by logical replication goes by it at once: what applies the rows
//! fires no trigger of a statement.

use ai_limiter_tests::calls::{Session, reserve, wait_until};
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";

/// Two databases, of which the second follows the first's configuration from now on.
fn followed(cluster: &Cluster) -> (Database, Database) {
    let (source, follower) =
        (cluster.create_database("source"), cluster.create_database("follower"));
    let setup = format!(
        "CREATE EXTENSION ai_limiter;
         INSERT INTO ai_limiter.ai_prices (id, model, input_usd_per_million_tokens) VALUES (1, 'acme-1', 2);
         INSERT INTO ai_limiter.ai_tenants (tenant_id, markup_factor) VALUES ('{TENANT}', 3);
         UPDATE ai_limiter.ai_limits SET amount = 1000000 WHERE id < 0;
         SELECT ai_limiter.ensure_ai_partitions()"
    );
    for database in [&source, &follower] {
        database.connect().run(&setup);
    }
    source.connect().run(
        "CREATE PUBLICATION configuration FOR TABLE ai_limiter.ai_prices, ai_limiter.ai_tenants, \
         ai_limiter.ai_limits, ai_limiter.ai_suspensions",
    );
    // In a transaction of its own: one that has written makes no slot.
    source.connect().run("SELECT pg_create_logical_replication_slot('configuration', 'pgoutput')");
    follower.connect().run(&format!(
        "CREATE SUBSCRIPTION configuration CONNECTION '{}' PUBLICATION configuration \
         WITH (create_slot = false, copy_data = false)",
        source.url()
    ));
    (source, follower)
}

fn wait_for(follower: &mut Client, question: &str) {
    let sql = format!("SELECT ({question})::text");
    wait_until(question, || follower.value(&sql) == "true");
}

fn charged(session: &mut Client) -> String {
    let id = session.value(&format!(
        "SELECT ai_limiter.record_ai_usage(tenant_id => '{TENANT}', model => 'acme-1', \
         input_tokens => 1000000)"
    ));
    session.value(&format!(
        "SELECT trim_scale(cost_usd) || ' ' || trim_scale(charge_usd) \
         FROM ai_limiter.ai_usage WHERE id = '{id}'"
    ))
}

#[test]
fn a_configuration_that_is_replicated_is_what_the_next_call_goes_by() {
    let cluster = Cluster::builder().setting("wal_level", "logical").start();
    let (source, follower) = followed(&cluster);
    let (mut source, mut session) = (source.connect(), follower.connect());
    let mut observer = follower.connect();
    assert_eq!(charged(&mut session), "2 6");

    source.run("UPDATE ai_limiter.ai_prices SET input_usd_per_million_tokens = 5");
    wait_for(&mut observer, "SELECT input_usd_per_million_tokens = 5 FROM ai_limiter.ai_prices");
    assert_eq!(charged(&mut session), "5 15", "the price");

    source.run("UPDATE ai_limiter.ai_tenants SET markup_factor = 4");
    let markup =
        format!("SELECT markup_factor = 4 FROM ai_limiter.ai_tenants WHERE tenant_id = '{TENANT}'");
    wait_for(&mut observer, &markup);
    assert_eq!(charged(&mut session), "5 20", "the markup");

    let call = "model => 'acme-1', input_tokens => 1, output_tokens => 1";
    assert!(reserve(&mut session, call).allowed);
    source.run("UPDATE ai_limiter.ai_limits SET amount = 0 WHERE id = -1");
    wait_for(&mut observer, "SELECT amount = 0 FROM ai_limiter.ai_limits WHERE id = -1");
    assert!(!reserve(&mut session, call).allowed, "the amount");
    source.run("UPDATE ai_limiter.ai_limits SET amount = 1000 WHERE id = -1");
    wait_for(&mut observer, "SELECT amount = 1000 FROM ai_limiter.ai_limits WHERE id = -1");
    assert!(reserve(&mut session, call).allowed);

    source.run("INSERT INTO ai_limiter.ai_suspensions (scope, subject) VALUES ('all', '')");
    wait_for(&mut observer, "SELECT EXISTS (SELECT FROM ai_limiter.ai_suspensions)");
    assert!(!reserve(&mut session, call).allowed, "the suspension");
    observer.run("ALTER SUBSCRIPTION configuration DISABLE");
}
