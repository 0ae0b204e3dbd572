//! The boundary to Postgres: the only place, beside the function wrappers, with `unsafe` in it.

pub mod background;
pub mod barrier;
pub mod clock;
pub mod direct;
pub mod guc;
pub mod json;
pub mod lock;
pub mod numeric;
pub mod owner;
pub mod planning;
pub mod process;
pub mod relation;
pub mod row;
pub mod row_trigger;
pub mod scratch;

pub mod shmem;
pub mod spi;
pub mod stamp;
pub mod subtransaction;
pub mod transaction;
pub mod uuid;
