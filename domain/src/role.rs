//! The seven roles of an account and what each may see (DESIGN 6). The database role decides who
//! may write; this decides what a person may read.

use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    Viewer,
    #[default]
    Member,
    Analyst,
    Manager,
    BillingAdmin,
    TenantAdmin,
    PlatformAdmin,
}

impl Role {
    pub const ALL: [Role; 7] = [
        Role::Viewer,
        Role::Member,
        Role::Analyst,
        Role::Manager,
        Role::BillingAdmin,
        Role::TenantAdmin,
        Role::PlatformAdmin,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Member => "member",
            Role::Analyst => "analyst",
            Role::Manager => "manager",
            Role::BillingAdmin => "billing_admin",
            Role::TenantAdmin => "tenant_admin",
            Role::PlatformAdmin => "platform_admin",
        }
    }

    /// The tenant's totals, without people: everyone but a member.
    pub fn sees_tenant_totals(self) -> bool {
        self != Role::Member
    }

    /// The tenant's usage by person.
    pub fn sees_people(self) -> bool {
        !matches!(self, Role::Viewer | Role::Member)
    }

    /// Every tenant, and the platform's own rules and numbers.
    pub fn sees_platform(self) -> bool {
        self == Role::PlatformAdmin
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or(())
    }
}
