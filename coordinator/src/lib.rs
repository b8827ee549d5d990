//! Placeholder crate root.

pub mod aggregate;
pub mod release;
