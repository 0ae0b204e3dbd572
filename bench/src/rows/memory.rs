//! What a counter takes of shared memory: two servers, one with room for twice as many.

use ai_limiter_tests::calls::Session;
use ai_limiter_tests::{Cluster, EXTENSION};
use anyhow::{Context, Result};

use crate::report::Line;
use crate::stage::Stage;

const WANTED_BYTES: f64 = 192.0;
const WANTED_DEFAULT: u32 = 65_536;

pub fn memory(stage: &Stage) -> Result<Vec<Line>> {
    if !stage.has_shared_counters() {
        return Ok(vec![Line::absent("memory", "", "not measured: no counters in shared memory")]);
    }
    let sql = format!(
        "LOAD '{EXTENSION}'; SELECT boot_val FROM pg_settings WHERE name = 'ai_limiter.max_counters'"
    );
    let counters: u32 = stage.cluster().connect().value(&sql).parse().context("not a number")?;
    let grown = bytes(counters * 2)? - bytes(counters)?;
    let each = grown / f64::from(counters);
    let measured = "shared memory that a counter takes";
    let values = [format!("{each:.0} bytes"), String::new()];
    let size =
        Line::plain("memory", measured, "", values).wanting("≤ 192 bytes", each <= WANTED_BYTES);
    let values = [counters.to_string(), String::new()];
    let default = Line::plain("memory", "`ai_limiter.max_counters` by default", "", values)
        .wanting("65536", counters == WANTED_DEFAULT);
    Ok(vec![size, default])
}

/// All the shared memory of a server with room for so many counters.
fn bytes(counters: u32) -> Result<f64> {
    let cluster = Cluster::builder()
        .setting("shared_preload_libraries", EXTENSION)
        .setting("ai_limiter.max_counters", &counters.to_string())
        .start();
    let sql = "SELECT sum(allocated_size) FROM pg_shmem_allocations";
    cluster.connect().value(sql).parse().context("not a number")
}
