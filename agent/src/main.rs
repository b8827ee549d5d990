//! `lamplight-agent`: calls the library.

use std::process::ExitCode;

#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: lamplight_models::kernel::counting::Counting =
    lamplight_models::kernel::counting::Counting;

fn main() -> ExitCode {
    lamplight_agent::cli::main()
}
