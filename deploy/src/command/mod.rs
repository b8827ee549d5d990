//! One file per command: its arguments and what it does.

pub(crate) mod context;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod release;
pub(crate) mod round;
pub(crate) mod schema;
pub(crate) mod shell;
pub(crate) mod task;
