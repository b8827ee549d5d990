//! Operators: each knows its shapes, its parameters, its forward, its adjoint and its cost.

mod spec;

pub use spec::{
    BatchNorm, Conv1d, Conv2d, GroupNorm, Linear, Op, ParamRole, ParamSpec, Pool1d, Pool2d,
    ShapeError,
};
