//! The documentation says what is so: its SQL runs and gives what it shows, and the reference has
//! every function, type, table, view and setting that exists, as it is.

mod examples;
mod pages;
mod reference;
