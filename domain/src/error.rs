//! A mistake in what the caller gave, in the parts that Postgres shows: message, detail, hint.

use std::fmt;

/// What kind of mistake it is; the boundary maps each to one SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 22023: the value has no meaning here.
    InvalidParameter,
    /// 22003: the number does not fit.
    OutOfRange,
    /// 22004: a value is needed.
    NullNotAllowed,
    /// 42501: the caller has no right to it.
    InsufficientPrivilege,
    /// 42704: there is no such object.
    UndefinedObject,
    /// 55000: the object is in a state that does not allow it.
    ObjectNotInPrerequisiteState,
    /// 23514: two rows contradict each other.
    CheckViolation,
}

/// An error in Postgres's message style: a lower-case primary message without a full stop, DETAIL
/// and HINT as sentences. It never carries a secret or a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: None, hint: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidParameter, message)
    }

    pub fn out_of_range(message: impl Into<String>) -> Self {
        Self::new(Kind::OutOfRange, message)
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
