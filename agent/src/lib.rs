//! Placeholder crate root.
pub mod source;
