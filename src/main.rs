//! The `tidegate` command.

use std::process::ExitCode;

use clap::Parser;

/// Gives memory back after a burst of connections, which the system's allocator keeps (see `benches/README.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::run(tidegate::cli::Cli::parse())
}
