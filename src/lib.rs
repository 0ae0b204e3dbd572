//! ai_limiter: stops AI spend before it happens, inside Postgres.
//!
//! Imports go one way: `api` (SQL functions) → `admission` (resolve the rules, decide) →
//! `counters` (what a counter says) | `ledger` (the tables) → `ai_limiter_domain` (pure Rust).
//! `worker` keeps house in a process of its own, beside `api`.
//! `pg` is the boundary to Postgres that all but the domain use; `settings` and `error` are read
//! everywhere. The schema is hand-written in `sql/` and put together here, in order.

mod admission;
mod api;
mod counters;
mod error;
mod ledger;
mod pg;
mod settings;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
extension_sql_file!("../sql/config_tables.sql", name = "config_tables", requires = ["schema"]);
extension_sql_file!(
    "../sql/ledger_tables.sql",
    name = "ledger_tables",
    requires = ["config_tables"]
);
extension_sql_file!(
    "../sql/rollup_tables.sql",
    name = "rollup_tables",
    requires = ["ledger_tables"]
);
extension_sql_file!(
    "../sql/import_tables.sql",
    name = "import_tables",
    requires = ["rollup_tables"]
);
extension_sql_file!(
    "../sql/estimate_tables.sql",
    name = "estimate_tables",
    requires = ["import_tables"]
);
extension_sql_file!(
    "../sql/identity_functions.sql",
    name = "identity_functions",
    requires = ["estimate_tables"]
);
extension_sql_file!(
    "../sql/admission_functions.sql",
    name = "admission_functions",
    requires = ["identity_functions"]
);
extension_sql_file!(
    "../sql/reporting_functions.sql",
    name = "reporting_functions",
    requires = ["admission_functions"]
);
extension_sql_file!(
    "../sql/operating_functions.sql",
    name = "operating_functions",
    requires = ["reporting_functions"]
);
extension_sql_file!(
    "../sql/correction_functions.sql",
    name = "correction_functions",
    requires = ["operating_functions"]
);
extension_sql_file!(
    "../sql/import_functions.sql",
    name = "import_functions",
    requires = ["correction_functions"]
);
extension_sql_file!(
    "../sql/estimate_functions.sql",
    name = "estimate_functions",
    requires = ["import_functions"]
);
extension_sql_file!("../sql/shipped.sql", name = "shipped", requires = ["estimate_functions"]);
extension_sql_file!("../sql/rule_triggers.sql", name = "rule_triggers", requires = ["shipped"]);
extension_sql_file!(
    "../sql/config_triggers.sql",
    name = "config_triggers",
    requires = ["rule_triggers"]
);
extension_sql_file!(
    "../sql/ledger_triggers.sql",
    name = "ledger_triggers",
    requires = ["config_triggers"]
);
extension_sql_file!(
    "../sql/price_functions.sql",
    name = "price_functions",
    requires = ["ledger_triggers"]
);
extension_sql_file!(
    "../sql/price_imports.sql",
    name = "price_imports",
    requires = ["price_functions"]
);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["price_imports"]);
extension_sql_file!("../sql/focus_view.sql", name = "focus_view", requires = ["views"]);
extension_sql_file!(
    "../sql/invoice_functions.sql",
    name = "invoice_functions",
    requires = ["focus_view"]
);
extension_sql_file!("../sql/policies.sql", name = "policies", requires = ["invoice_functions"]);
extension_sql_file!("../sql/dump.sql", name = "dump", requires = ["policies"]);
extension_sql_file!("../sql/privileges.sql", name = "privileges", finalize);

/// What is asked for in shared memory when the library is preloaded.
static SEGMENTS: [&dyn pg::shmem::Segment; 5] = [
    admission::cache::accounts::SEGMENT,
    counters::memory::SEGMENT,
    ledger::denials::waiting::SEGMENT,
    pg::stamp::SEGMENT,
    &worker::state::WORKERS,
];

#[pg_guard]
extern "C-unwind" fn _PG_init() {
    settings::define();
    pg::shmem::request(&SEGMENTS);
    if pg::shmem::is_preloading() {
        // 80 ms once in the postmaster; every backend inherits what it has decoded.
        ai_limiter_domain::pricing::Catalog::bundled()
            .decode_all()
            .expect("the bundled catalogue is valid");
    }
    worker::register();
}
