//! The `detector` command: arguments in, one command, its exit code out.

use std::process::ExitCode;

use detector::cli;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli::execute(cli.command),
        Err(exit) => exit,
    };
    exit.into()
}
