//! The fuzzing program: libFuzzer drives the target named by `LAMPLIGHT_FUZZ_TARGET`.
//!
//! One program for all targets, because linking the workspace once per target would take longer than
//! running them. `deploy/fuzz/run` builds and starts it.
#![no_main]

use std::sync::LazyLock;

use lamplight_fuzz::{TARGETS, Target, target};
use libfuzzer_sys::fuzz_target;

const VARIABLE: &str = "LAMPLIGHT_FUZZ_TARGET";

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        panic!(
            "{VARIABLE} is {name:?}; set it to one of {}",
            names.join(", ")
        )
    })
});

fuzz_target!(|input: &[u8]| {
    TARGET.run(input);
});
