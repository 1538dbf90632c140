//! `tidegate sidecar`: beside an app, in its pod.

pub mod init;

use std::process::ExitCode;

/// Serve beside an app.
#[derive(Clone, Debug, clap::Args)]
pub struct SidecarArgs {
    #[command(subcommand)]
    verb: SidecarVerb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum SidecarVerb {
    Init(init::InitArgs),
}

/// Does what the command line says.
pub fn run(args: &SidecarArgs) -> ExitCode {
    match &args.verb {
        SidecarVerb::Init(args) => init::run(args),
    }
}
