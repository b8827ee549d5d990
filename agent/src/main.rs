//! `lamplight-agent`: calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lamplight_agent::cli::main()
}
