//! The command line: one file per verb, each with its arguments and a `run` that ends in an exit code.

pub mod check;
pub mod demo;
pub mod inject;
pub mod migrate;
pub mod process;
pub mod proxy;
pub mod run;
pub mod schema;
pub mod show;
pub mod sidecar;
pub mod status;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Diagnostics, Refusal};

/// A low-latency load-balancing proxy.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "tidegate", version, about)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    Check(check::CheckArgs),
    Demo(demo::DemoArgs),
    Inject(inject::InjectArgs),
    Migrate(migrate::MigrateArgs),
    Proxy(proxy::ProxyArgs),
    Run(run::RunArgs),
    Schema(schema::SchemaArgs),
    Show(show::ShowArgs),
    Sidecar(Box<sidecar::SidecarArgs>),
    Status(status::StatusArgs),
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    match cli.verb {
        Verb::Check(args) => check::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Inject(args) => inject::run(&args),
        Verb::Migrate(args) => migrate::run(&args),
        Verb::Proxy(args) => proxy::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Schema(args) => schema::run(&args),
        Verb::Show(args) => show::run(&args),
        Verb::Sidecar(args) => sidecar::run(&args),
        Verb::Status(args) => status::run(&args),
    }
}

/// The file was read and is wrong.
const REFUSED: u8 = 1;
/// The file cannot be read, or the command line is wrong (clap's own code).
const UNREADABLE: u8 = 2;

/// Which configuration file: as an argument or as `--config`.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as an option.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The path; clap sees to it that there is one.
    pub fn path(&self) -> &Path {
        self.config
            .as_deref()
            .or(self.file.as_deref())
            .unwrap_or(Path::new(""))
    }
}

/// The exit code for a file that is not used: 1 when it is wrong, 2 when it cannot be read.
pub fn exit_code(found: &Diagnostics) -> ExitCode {
    ExitCode::from(match found.refusal() {
        Refusal::Invalid => REFUSED,
        Refusal::Unreadable => UNREADABLE,
    })
}

/// Writes what was asked for to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(UNREADABLE),
    }
}

/// Writes what there is to say beside the answer to standard error; when that fails there is nowhere to say it.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
