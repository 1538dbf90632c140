//! `tidegate schema`: the JSON schema of the configuration file, for editors.

use std::process::ExitCode;

use super::print;
use crate::config;

/// Print the JSON schema (draft 7) of the configuration file.
#[derive(Clone, Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema.
pub fn run(_: &SchemaArgs) -> ExitCode {
    print(&config::schema::text())
}
