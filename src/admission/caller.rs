//! Who is asking, and what they may see or do.
//!
//! Claims are read from `request.jwt.claims` when `session_user` is in `ai_limiter.claim_setters` or
//! a superuser; any other session could write them itself. What the database role may do comes from
//! its grants: a role that may insert into `ai_reservations` (such as `service_role`) is a server
//! and acts for anyone, and a member of `pg_monitor` sees everything. Nothing of the caller is cached: SET ROLE and the next
//! request's claims take effect at once.

use super::cache;
use crate::pg::relation;
use crate::settings;
use ai_limiter_domain::claims::Claims;
use ai_limiter_domain::{Dimensions, Error, Kind, Limit, Per, Role, error::Result};
use pgrx::pg_sys;
use std::ffi::CStr;
use uuid::Uuid;

pub struct Caller {
    /// May act for anyone.
    pub is_server: bool,
    pub user_id: Option<Uuid>,
    /// The claim's; `None` without one.
    pub claimed_tenant: Option<Uuid>,
    claimed_role: Option<Role>,
}

impl Caller {
    pub fn current() -> Result<Self> {
        let claims = claims()?.unwrap_or_default();
        Ok(Self {
            is_server: relation::may_insert(relation::oid(c"ai_reservations")?),
            user_id: claims.user_id,
            claimed_tenant: claims.tenant_id,
            claimed_role: claims.role,
        })
    }

    pub fn tenant_id(&self) -> Uuid {
        self.claimed_tenant.unwrap_or(Uuid::nil())
    }

    /// The claim's role, else the account's, else member.
    pub fn role(&self) -> Result<Role> {
        if let Some(role) = self.claimed_role {
            return Ok(role);
        }
        if self.user_id.is_none() {
            return Ok(Role::default());
        }
        let account = cache::current(|config| config.account(self.tenant_id(), self.user_id))?;
        Ok(account.role.as_deref().and_then(|r| r.parse().ok()).unwrap_or_default())
    }

    pub fn sees_platform(&self) -> Result<bool> {
        Ok(self.is_server || relation::is_monitor() || self.role()?.sees_platform())
    }

    pub fn sees_people(&self) -> Result<bool> {
        Ok(self.sees_platform()? || self.role()?.sees_people())
    }

    /// The account that a call is about: what it names, else the caller's own.
    ///
    /// # Errors
    /// 42501 about another account without the right, whether or not it exists.
    pub fn account(
        &self,
        tenant: Option<Uuid>,
        user: Option<Uuid>,
    ) -> Result<(Uuid, Option<Uuid>)> {
        let account = (tenant.unwrap_or(self.tenant_id()), user.or(self.user_id));
        if !self.is_server && account != (self.tenant_id(), self.user_id) {
            let colleague = account.0 == self.tenant_id() && self.sees_people()?;
            if !colleague && !self.sees_platform()? {
                return Err(not_permitted("permission denied for another account"));
            }
        }
        Ok(account)
    }

    /// Whether the caller may hold, settle or release for the account: servers for anyone, others
    /// for themselves.
    pub fn may_act_for(&self, tenant: Uuid, user: Option<Uuid>) -> bool {
        self.is_server || (user.is_some() && (tenant, user) == (self.tenant_id(), self.user_id))
    }

    /// What decides which limits' numbers the caller may see; one look at the role for all of them.
    pub fn view(&self) -> Result<View> {
        let role = if self.sees_platform()? { Role::PlatformAdmin } else { self.role()? };
        Ok(View { role, tenant_id: self.tenant_id(), user_id: self.user_id })
    }
}

pub fn not_permitted(message: &str) -> Error {
    Error::new(Kind::InsufficientPrivilege, message)
        .hint("Ask about your own account, or as a role that may: see the roles in the reference.")
}

/// The eyes through which limits are shown.
pub struct View {
    role: Role,
    tenant_id: Uuid,
    user_id: Option<Uuid>,
}

impl View {
    /// The rows that a counter which the caller may see can be made of; `None` for all.
    pub fn rows(&self) -> Option<(Uuid, Option<Uuid>)> {
        (!self.role.sees_platform()).then_some((self.tenant_id, self.user_id))
    }

    /// Whether the counter of `limit` that `call` falls into is the caller's own, or, with the role,
    /// their tenant's. Anything else would tell what the platform spends.
    pub fn sees(&self, limit: &Limit, call: &Dimensions) -> bool {
        if self.role.sees_platform() {
            return true;
        }
        if call.tenant_id != self.tenant_id {
            return false;
        }
        let of_user = limit.per.contains(&Per::User) || limit.filter.user_id.is_some();
        if of_user && self.user_id.is_some() && call.user_id == self.user_id {
            return true;
        }
        // A user's rule without a tenant sums other tenants too.
        let of_tenant = !limit.is_platform()
            && (limit.filter.user_id.is_none() || limit.filter.tenant_id.is_some());
        of_tenant && if of_user { self.role.sees_people() } else { self.role.sees_tenant_totals() }
    }
}

fn claims() -> Result<Option<Claims>> {
    if !claims_count() {
        return Ok(None);
    }
    // SAFETY: the setting's value, copied before anything can change it.
    let text = unsafe {
        let value = pg_sys::GetConfigOption(c"request.jwt.claims".as_ptr(), true, false);
        if value.is_null() {
            return Ok(None);
        }
        CStr::from_ptr(value).to_string_lossy().into_owned()
    };
    // Once a transaction has set it, a session reads '' afterwards.
    if text.is_empty() { Ok(None) } else { Claims::parse(&text).map(Some) }
}

fn claims_count() -> bool {
    // SAFETY: reads the session's user and its name, a palloc'd string.
    unsafe {
        let session_user = pg_sys::GetSessionUserId();
        if pg_sys::superuser_arg(session_user) {
            return true;
        }
        let name = pg_sys::GetUserNameFromId(session_user, true);
        !name.is_null()
            && CStr::from_ptr(name).to_str().is_ok_and(|name| {
                settings::text(&settings::CLAIM_SETTERS).split(',').any(|s| s.trim() == name)
            })
    }
}
