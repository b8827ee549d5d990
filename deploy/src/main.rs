//! The binary `lamplight`: see the library of that name.

use std::process::ExitCode;

fn main() -> ExitCode {
    lamplight::main()
}
