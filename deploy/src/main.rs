//! The binary `lamplight`: see the library of that name.

use std::process::ExitCode;

#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: lamplight_models::kernel::counting::Counting =
    lamplight_models::kernel::counting::Counting;

fn main() -> ExitCode {
    lamplight::main()
}
