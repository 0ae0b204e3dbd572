//! Every counter at once, from the raw rows: one pass over ledger and open holds, each row given to
//! the rules that govern it by the Rust reading of their conditions.
//!
//! Used where all counters are wanted (`ai_limit_status`, alerts), and as the oracle of
//! `verify_ai_counters()`: it shares no SQL with loads and the table path. Reads every row of the longest
//! window; nothing is locked. Never the rollup: what it adds up to is checked here. Totals of dropped
//! months are rows from before all time, which only windows without a beginning contain.

use super::window;
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::rolling::{self, Bucket};
use ai_limiter_domain::{
    Amount, Dimensions, Limit, Metric, Per, Period, Timestamp, Window, error::Result, precedence,
};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A counter that is not empty.
pub struct Tallied {
    pub limit: Limit,
    /// A call of the subject: only its dimensions in `per` mean anything.
    pub call: Dimensions,
    pub subject: String,
    pub window: Window,
    pub used: Amount,
    pub held: Amount,
    pub resets_at: Option<Timestamp>,
}

struct Cell {
    call: Dimensions,
    window: Window,
    /// Keyed by the bucket of a rolling rule; one for any other.
    buckets: BTreeMap<Timestamp, Bucket>,
}

/// All counters, the caps of single runs among them, or those that the rows of one tenant and user
/// add to.
pub fn tally(
    spi: &Spi,
    snapshot: &Snapshot,
    limits: &[Limit],
    now: Timestamp,
    rows_of: Option<(Uuid, Option<Uuid>)>,
) -> Result<Vec<Tallied>> {
    const SQL: &str = "SELECT tenant_id, user_id, tier, provider, model, feature, api_key_id, run_id, \
            attributes, requests, input_tokens, output_tokens, cost_usd, created_at, false \
        FROM ai_limiter.ai_usage WHERE created_at >= $1 \
            AND ($3 IS NULL OR tenant_id = $3 OR user_id = $4) \
        UNION ALL \
        SELECT tenant_id, user_id, tier, provider, model, feature, api_key_id, run_id, \
            attributes, requests, input_tokens, output_tokens, cost_usd, created_at, true \
        FROM ai_limiter.ai_reservations WHERE state = 'open' AND expires_at > $2 \
            AND ($3 IS NULL OR tenant_id = $3 OR user_id = $4) \
        UNION ALL \
        SELECT tenant_id, user_id, tier, provider, model, feature, api_key_id, NULL, \
            attributes, requests::bigint, input_tokens::bigint, output_tokens::bigint, cost_usd, \
            '-infinity', false \
        FROM ai_limiter.ai_usage_totals WHERE $3 IS NULL OR tenant_id = $3 OR user_id = $4";
    let mut zones = Zones::read(spi, snapshot)?;
    let mut cells: HashMap<(usize, Vec<String>), Cell> = HashMap::new();
    let earliest = limits.iter().map(|l| l.period.earliest(now)).min().unwrap_or(now);
    let args = [
        earliest.into(),
        now.into(),
        Arg::Uuid(rows_of.map(|r| r.0)),
        Arg::Uuid(rows_of.and_then(|r| r.1)),
    ];
    spi.stream(snapshot, SQL, &args, |row| {
        let (call, size) = (dimensions(row)?, size(row)?);
        let at = required(row.timestamp(14), "created_at")?;
        let is_hold = row.boolean(15).unwrap_or(false);
        for (index, limit) in limits.iter().enumerate() {
            let governs = precedence::governs(limit, limits, &call);
            if !governs || (limit.metric == Metric::Concurrent && !is_hold) {
                continue;
            }
            let window = zones.window(limit, &call, now);
            if !window.contains(at) {
                continue;
            }
            let cell = cells.entry((index, limit.subject_key(&call))).or_insert_with(|| Cell {
                call: call.clone(),
                window,
                buckets: BTreeMap::new(),
            });
            add(cell, limit, at, is_hold, limit.increment(&size).unwrap_or_default())?;
        }
        Ok(())
    })?;
    let mut tallied = cells
        .into_iter()
        .map(|((index, _), cell)| finish(&limits[index], cell, now))
        .collect::<Result<Vec<_>>>()?;
    let spent = |t: &Tallied| t.used != Amount::ZERO || t.held != Amount::ZERO;
    tallied.extend(runs(spi, snapshot, &args)?.into_iter().filter(spent));
    tallied.sort_by(|a, b| {
        (&a.limit.name, a.limit.id, &a.subject).cmp(&(&b.limit.name, b.limit.id, &b.subject))
    });
    Ok(tallied)
}

/// The caps of single runs; each finds its rows by an index, however large the ledger is.
fn runs(spi: &Spi, snapshot: &Snapshot, args: &[Arg; 4]) -> Result<Vec<Tallied>> {
    const SQL: &str = "SELECT r.tenant_id, r.run_id, r.amount_usd, \
            (SELECT coalesce(sum(u.cost_usd), 0) FROM ai_limiter.ai_usage u \
             WHERE u.tenant_id = r.tenant_id AND u.run_id = r.run_id), \
            (SELECT coalesce(sum(h.cost_usd), 0) FROM ai_limiter.ai_reservations h \
             WHERE h.tenant_id = r.tenant_id AND h.run_id = r.run_id \
               AND h.state = 'open' AND h.expires_at > $1) \
        FROM ai_limiter.ai_run_limits r WHERE $2 IS NULL OR r.tenant_id = $2";
    let [_, now, tenant, _] = args;
    spi.read_at(snapshot, SQL, &[now.clone(), tenant.clone()], |row| {
        let tenant_id = required(row.uuid(1), "tenant_id")?;
        let limit = Limit::of_run(tenant_id, required(row.amount(3)?, "amount_usd")?);
        let call = Dimensions { tenant_id, run_id: row.text(2), ..Dimensions::default() };
        Ok(Tallied {
            subject: limit.subject_name(&call),
            limit,
            call,
            window: Window::ALL_TIME,
            used: row.amount(4)?.unwrap_or_default(),
            held: row.amount(5)?.unwrap_or_default(),
            resets_at: None,
        })
    })
}

fn add(cell: &mut Cell, limit: &Limit, at: Timestamp, is_hold: bool, amount: Amount) -> Result<()> {
    let key = match limit.period {
        Period::Rolling(interval) => interval.bucket_of(at),
        _ => Timestamp(0),
    };
    let empty = Bucket { newest: at, used: Amount::ZERO, held: Amount::ZERO };
    let bucket = cell.buckets.entry(key).or_insert(empty);
    bucket.newest = bucket.newest.max(at);
    let side = if is_hold { &mut bucket.held } else { &mut bucket.used };
    *side = side.checked_add(amount)?;
    Ok(())
}

fn finish(limit: &Limit, cell: Cell, now: Timestamp) -> Result<Tallied> {
    let (used, held, resets_at) = match limit.period {
        Period::Rolling(interval) => {
            let sum = rolling::sum(interval, now, cell.buckets.into_values())?;
            (sum.used, sum.held, sum.frees_at)
        }
        _ => {
            let bucket = cell.buckets.into_values().next();
            let (used, held) = bucket.map_or((Amount::ZERO, Amount::ZERO), |b| (b.used, b.held));
            (used, held, cell.window.end)
        }
    };
    let subject = limit.subject_name(&cell.call);
    Ok(Tallied {
        limit: limit.clone(),
        call: cell.call,
        subject,
        window: cell.window,
        used,
        held,
        resets_at,
    })
}

/// Zones of tenants and of the accounts that have their own, and the windows already computed.
pub(super) struct Zones {
    default: String,
    tenants: HashMap<Uuid, String>,
    accounts: HashMap<(Uuid, Uuid), String>,
    windows: HashMap<(Period, String), Window>,
}

impl Zones {
    pub(super) fn read(spi: &Spi, snapshot: &Snapshot) -> Result<Self> {
        const TENANTS: &str = "SELECT tenant_id, timezone FROM ai_limiter.ai_tenants";
        const ACCOUNTS: &str = "SELECT tenant_id, user_id, timezone FROM ai_limiter.ai_accounts \
            WHERE timezone IS NOT NULL";
        let id = |row: &Row, column| required(row.uuid(column), "id");
        let tenants: HashMap<_, _> = spi
            .read_at(snapshot, TENANTS, &[], |row| {
                Ok((id(row, 1)?, row.text(2).unwrap_or_default()))
            })?
            .into_iter()
            .collect();
        let accounts = spi.read_at(snapshot, ACCOUNTS, &[], |row| {
            Ok(((id(row, 1)?, id(row, 2)?), row.text(3).unwrap_or_default()))
        })?;
        Ok(Self {
            default: tenants.get(&Uuid::nil()).cloned().unwrap_or_else(|| "UTC".to_owned()),
            tenants,
            accounts: accounts.into_iter().collect(),
            windows: HashMap::new(),
        })
    }

    pub(super) fn window(&mut self, limit: &Limit, call: &Dimensions, now: Timestamp) -> Window {
        let tenant = self.tenants.get(&call.tenant_id);
        let own = call.user_id.and_then(|user| self.accounts.get(&(call.tenant_id, user)));
        let zone = match () {
            () if limit.per.contains(&Per::User) => own.or(tenant),
            () if limit.per.contains(&Per::Tenant) => tenant,
            () => None,
        };
        let zone = zone.unwrap_or(&self.default);
        if let Some(window) = self.windows.get(&(limit.period, zone.clone())) {
            return *window;
        }
        let computed = window(limit, now, zone);
        self.windows.insert((limit.period, zone.clone()), computed);
        computed
    }
}

pub(super) fn dimensions(row: &Row) -> Result<Dimensions> {
    Ok(Dimensions {
        tenant_id: required(row.uuid(1), "tenant_id")?,
        user_id: row.uuid(2),
        tier: row.text(3).unwrap_or_default(),
        provider: row.text(4),
        model: row.text(5),
        feature: row.text(6),
        api_key_id: row.text(7),
        run_id: row.text(8),
        attributes: call::attributes(row.json(9).as_ref())?,
    })
}

pub(super) fn size(row: &Row) -> Result<Size> {
    Ok(Size {
        requests: row.int(10).unwrap_or(0),
        input_tokens: row.int(11),
        output_tokens: row.int(12),
        cost_usd: row.amount(13)?,
    })
}
