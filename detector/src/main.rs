//! The `detector` command: arguments in, one command, its exit code out.

use std::process::ExitCode;

use detector::cli;
use mimalloc::MiMalloc;

/// What one thread allocates another may free without waiting for it: with the system's allocator, questions waited for the
/// thread of the reports, which fills and empties all tables.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli::execute(cli.command),
        Err(exit) => exit,
    };
    exit.into()
}
