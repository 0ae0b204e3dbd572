//! The SQL surface, as a reader learns it: `pg_regress/sql` and what comes out of it.
//!
//! `REGRESS_ACCEPT=1 make test` accepts what comes out now.

use std::path::Path;

use ai_limiter_tests::{Cluster, regress};

#[test]
fn sql_surface() {
    let cluster = Cluster::shared();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("pg_regress");
    regress::run(cluster, &dir, || cluster.fresh_database());
}
