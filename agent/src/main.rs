//! `lamplight-agent`: reads its arguments and calls the library.

use std::process::ExitCode;

use clap::Parser as _;
use lamplight_agent::cli;

fn main() -> ExitCode {
    cli::main(cli::Args::parse())
}
