//! One file per command: its arguments and what it does.

pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod release;
pub(crate) mod round;
pub(crate) mod task;
