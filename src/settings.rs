//! The settings under `ai_limiter.`: all for superusers, or roles with SET granted on them, and so
//! for `ALTER DATABASE` and `ALTER ROLE`; no session can set its own. The prefix is reserved: a
//! misspelt name is refused.
//!
//! A session that wrote a placeholder before the library was loaded gains nothing: Postgres drops
//! such a value with a warning when the setting is defined.

use crate::pg::shmem;
use ai_limiter_domain::verdict::Mode as DomainMode;
use pgrx::pg_sys;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Mode {
    #[name = c"enforce"]
    Enforce,
    #[name = c"shadow"]
    Shadow,
    #[name = c"off"]
    Off,
}

impl From<Mode> for DomainMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => DomainMode::Enforce,
            Mode::Shadow => DomainMode::Shadow,
            Mode::Off => DomainMode::Off,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Refusal {
    #[name = c"deny"]
    Deny,
    #[name = c"allow"]
    Allow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Source {
    #[name = c"memory"]
    Memory,
    #[name = c"tables"]
    Tables,
}

const MINUTE: i32 = 60;
const DAY: i32 = 24 * 60 * MINUTE;

/// Enforcing is the point; `shadow` is for trying rules out, `off` for an emergency.
pub static MODE: GucSetting<Mode> = GucSetting::<Mode>::new(Mode::Enforce);
/// The tier of a user without an account: the smallest of those that ship.
pub static DEFAULT_TIER: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"free"));
/// The role that PostgREST logs in as, and so the only one whose claims a verified token made.
pub static CLAIM_SETTERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"authenticator"));
/// Longer than almost every call, short enough that a crashed app frees its budget soon.
pub static RESERVATION_TTL: GucSetting<i32> = GucSetting::<i32>::new(10 * MINUTE);
pub static MAX_RESERVATION_TTL: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);
/// How long a late settle still finds an expired or released hold.
pub static RESERVATION_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);
pub static IDEMPOTENCY_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);
/// What a call without a maximum is held for. Holding a model's own maximum would let a few calls
/// hold a whole budget.
pub static DEFAULT_OUTPUT_TOKENS: GucSetting<i32> = GucSetting::<i32>::new(1024);
/// What is held of a call's output: what this part of such calls stays under.
pub static OUTPUT_QUANTILE: GucSetting<f64> = GucSetting::<f64>::new(0.95);
/// The last part of a limit, in which calls are held for the most that they may cost.
pub static FULL_HOLD_SHARE: GucSetting<f64> = GucSetting::<f64>::new(0.1);
/// Unknown is not free.
pub static UNPRICED_MODEL: GucSetting<Refusal> = GucSetting::<Refusal>::new(Refusal::Deny);
pub static ON_ERROR: GucSetting<Refusal> = GucSetting::<Refusal>::new(Refusal::Deny);
/// A hold that a crash forgets admits twice; an app that sets synchronous_commit off for its own
/// tables should not get that by accident.
pub static HOLD_DURABILITY: GucSetting<bool> = GucSetting::<bool>::new(true);

/// For holding one against the other: who only asks is answered from the tables.
pub static COUNTER_SOURCE: GucSetting<Source> = GucSetting::<Source>::new(Source::Memory);
/// A hundred thousand counters are 15 MB; a busy day of ten thousand users needs some fifty thousand.
pub static MAX_COUNTERS: GucSetting<i32> = GucSetting::<i32>::new(65_536);
/// How long the ledger is kept; 0 is for ever, since nobody wants to lose a bill by default.
pub static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Where the worker keeps house: the one database that every server has.
pub static DATABASES: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"postgres"));

/// The names in [`DATABASES`], each once.
pub fn databases() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in text(&DATABASES).split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

pub fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

pub fn define() {
    let seconds = GucFlags::UNIT_S;
    GucRegistry::define_enum_guc(
        c"ai_limiter.mode",
        c"Whether denials are enforced.",
        c"shadow admits and says what it would have done; off admits and still counts.",
        &MODE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"ai_limiter.default_tier",
        c"The tier of a user without an account.",
        c"",
        &DEFAULT_TIER,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"ai_limiter.claim_setters",
        c"Session users whose request.jwt.claims are believed, separated by commas.",
        c"Superusers are always believed.",
        &CLAIM_SETTERS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ai_limiter.reservation_ttl",
        c"How long a hold lives when the call does not say.",
        c"",
        &RESERVATION_TTL,
        1,
        i32::MAX,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"ai_limiter.max_reservation_ttl",
        c"The longest a hold may live.",
        c"",
        &MAX_RESERVATION_TTL,
        1,
        i32::MAX,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"ai_limiter.reservation_retention",
        c"How long expired and released holds are kept for a late settle.",
        c"",
        &RESERVATION_RETENTION,
        0,
        i32::MAX,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"ai_limiter.idempotency_retention",
        c"How long the answers to idempotency keys are kept.",
        c"",
        &IDEMPOTENCY_RETENTION,
        0,
        i32::MAX,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"ai_limiter.default_output_tokens",
        c"The output tokens that a call is held for when it does not say.",
        c"",
        &DEFAULT_OUTPUT_TOKENS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"ai_limiter.unpriced_model",
        c"What becomes of a call whose model has no price and that names no cost.",
        c"",
        &UNPRICED_MODEL,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"ai_limiter.on_error",
        c"What becomes of a call when the counters cannot be read.",
        c"The verdict's reason is degraded in either case.",
        &ON_ERROR,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"ai_limiter.output_quantile",
        c"Which part of a model's calls stay under the output tokens that a call is held for.",
        c"It is learned from what calls have returned; 1 holds the maximum, as while nothing is known.",
        &OUTPUT_QUANTILE,
        0.5,
        1.0,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"ai_limiter.full_hold_share",
        c"The last part of each limit, in which calls are held for the most that they may cost.",
        c"0 holds the likely cost wherever the most would still fit.",
        &FULL_HOLD_SHARE,
        0.0,
        1.0,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"ai_limiter.hold_durability",
        c"Whether a transaction that reserves commits synchronously whatever synchronous_commit says.",
        c"",
        &HOLD_DURABILITY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"ai_limiter.counter_source",
        c"Where a check reads the counters.",
        c"With tables a check sums them anew, as without shared memory; what holds and books is not affected.",
        &COUNTER_SOURCE,
        GucContext::Suset,
        GucFlags::default(),
    );
    // Only the postmaster can still give it a meaning.
    if shmem::is_preloading() {
        GucRegistry::define_int_guc(
            c"ai_limiter.max_counters",
            c"How many counters fit into shared memory.",
            c"Those that were not used of late make room for others, and are loaded again.",
            &MAX_COUNTERS,
            16,
            16_777_216,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    GucRegistry::define_int_guc(
        c"ai_limiter.retention",
        c"How long the ledger is kept; 0 keeps it for ever.",
        c"The worker drops partitions that are older as a whole and that no limit's window reaches.",
        &RETENTION,
        0,
        i32::MAX,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_string_guc(
        c"ai_limiter.databases",
        c"The databases in which the worker keeps house, separated by commas.",
        c"Takes effect with a reload; needs the library in shared_preload_libraries.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // SAFETY: called once from _PG_init with a NUL-terminated literal.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"ai_limiter".as_ptr()) };
}
