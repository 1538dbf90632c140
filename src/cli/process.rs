//! A process that serves until told to end: the control plane's runtime, the log, the signals.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::app::{self, Options, Running};
use crate::config::Settings;
use crate::inject;

/// What is served.
pub struct Plan {
    /// How the process is started.
    pub options: Options,
    /// What is said once it serves.
    pub greeting: Option<String>,
}

/// Threads of the control plane; the data plane has its own.
const CONTROL_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT. Exit code 0: ended in good order; 1: could not start, or was cut short.
pub fn run(plan: Plan) -> ExitCode {
    until_told(app::start(plan.options), plan.greeting.as_deref())
}

/// Injects sidecars until SIGTERM or SIGINT, with the same exit codes.
pub fn run_injector(settings: Settings, injector: inject::Options) -> ExitCode {
    until_told(app::start_injector(settings, injector), None)
}

fn until_told(start: impl Future<Output = anyhow::Result<Running>>, greeting: Option<&str>) -> ExitCode {
    start_log();
    raise_descriptor_limit();
    let runtime = match control_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the control plane: {error}")),
    };
    runtime.block_on(async {
        let running = match start.await {
            Ok(running) => running,
            Err(error) => return failed(&format!("{error:#}")),
        };
        greet(&running, greeting);
        serve(running).await
    })
}

/// Takes all the descriptors that the process may have. The usual soft limit of 1024 is for programs that use
/// `select`, and a proxy needs two per connection.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let all = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, all) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
    }
}

/// The control plane's runtime.
pub fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
}

/// The zone that the environment says the process is in.
pub fn zone() -> Option<String> {
    std::env::var("TIDEGATE_ZONE")
        .ok()
        .filter(|zone| !zone.is_empty())
}

/// Of the Kubernetes client nothing: it tells each refused connection, for each kind and attempt, without a name or an address. What
/// cannot be followed is told once, by us.
const DEFAULT_LOG: &str = "info,kube_client=off";

/// The process's own log, on standard error; `TIDEGATE_LOG` chooses its level (`debug`, `tidegate=trace`).
pub fn start_log() {
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}

fn greet(running: &Running, greeting: Option<&str>) {
    for reject in &running.rejects {
        tracing::warn!("left out: {reject}");
    }
    let snapshot = running.live().snapshot();
    for (configured, bound) in &running.addresses {
        let scheme = match snapshot.bind(configured) {
            Some(bind) => bind.scheme(),
            None => "http",
        };
        tracing::info!(
            "listening on {scheme}://{bound}{}",
            greeting.map(|text| format!(", {text}")).unwrap_or_default()
        );
    }
    for bound in running.datagrams.values() {
        tracing::info!(
            "listening on udp://{bound}{}",
            greeting.map(|text| format!(", {text}")).unwrap_or_default()
        );
    }
    if let Some(injector) = running.injector() {
        tracing::info!("injecting sidecars, asked on https://{injector}");
    } else if running.addresses.is_empty() && running.datagrams.is_empty() {
        tracing::warn!("nothing to listen on: no listener, Gateway or Ingress was found");
    }
    if let Some(admin) = running.admin {
        tracing::info!("dashboard, metrics and readiness on http://{admin}");
    }
}

async fn serve(running: Running) -> ExitCode {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        return failed("cannot wait for signals");
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => running.reload(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!(
        connections = running.connections(),
        "ending: exchanges finish first, a second signal ends at once"
    );
    tokio::select! {
        ended = running.drain() => match ended {
            true => ExitCode::SUCCESS,
            false => failed("the drain's time ran out; what was open was cut"),
        },
        _ = terminate.recv() => failed("ended at once"),
        _ = interrupt.recv() => failed("ended at once"),
    }
}

/// Says why the process ends.
pub fn failed(why: &str) -> ExitCode {
    tracing::error!("{why}");
    ExitCode::FAILURE
}
