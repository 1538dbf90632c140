//! `tidegate show --resolved FILE`: the configuration as it is understood.

use std::process::ExitCode;

use super::{ConfigFile, complain, exit_code, print};
use crate::config;

/// Show a configuration file as it is understood.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// With every default filled in.
    #[arg(long, required = true)]
    resolved: bool,
}

/// Prints the effective configuration; warnings and errors go to standard error.
pub fn run(args: &ShowArgs) -> ExitCode {
    match config::load(args.file.path()) {
        Ok(loaded) => {
            complain(&loaded.warnings.human());
            print(&config::resolved(&loaded))
        }
        Err(found) => {
            complain(&found.human());
            exit_code(&found)
        }
    }
}
