//! `lamplight-coordinator`: calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lamplight_coordinator::cli::main()
}
