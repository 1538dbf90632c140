//! `tidegate demo`: the proxy at work, with pods, a client and Kubernetes objects of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use super::{complain, print, process};
use crate::demo::once::{PhaseVerdict, Verdict};
use crate::demo::{self, Options};

/// See the proxy at work: nothing else is needed.
///
/// Starts some pods, a client and a proxy on the loopback, writes Kubernetes objects into a folder, makes pods slow and
/// sick, edits the objects, and shows what the proxy makes of it. Ctrl-C ends it all.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The proxy's port on 127.0.0.1; 0 is any that is free.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Where the dashboard is; 127.0.0.1:9901 if not given, or any port when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Requests per second.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(50..=5000))]
    rate: u32,
    /// Data-plane threads; as many as there are cores for the process if not given.
    #[arg(short, long)]
    workers: Option<usize>,
    /// Keep the folder of Kubernetes objects.
    #[arg(long)]
    keep: bool,
    /// Play a short story of some 12 seconds and judge it; exit code 1 when a request failed or something was not as expected.
    #[arg(long)]
    once: bool,
    /// Print the verdict as JSON.
    #[arg(long, requires = "once")]
    json: bool,
}

/// Plays until told to end; with `--once` until the verdict. Exit code 1: it could not start, or the verdict is bad.
pub fn run(args: &DemoArgs) -> ExitCode {
    // The log would write over the view; who wants it sends it elsewhere: `TIDEGATE_LOG=debug tidegate demo 2>log`.
    if std::env::var_os("TIDEGATE_LOG").is_some() {
        process::start_log();
    }
    let options = Options {
        port: args.port,
        admin: args.admin,
        rate: args.rate,
        workers: args.workers,
        keep: args.keep,
    };
    let runtime = match process::control_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    if !args.once {
        return match runtime.block_on(demo::play(&options)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    let progress = |phase: &PhaseVerdict| {
        if !args.json {
            print(&phase_line(phase));
        }
    };
    match runtime.block_on(demo::once::play(&options, progress)) {
        Ok(Some(verdict)) => {
            print(&if args.json {
                json(&verdict)
            } else {
                summary(&verdict)
            });
            ExitCode::from(u8::from(!verdict.ok))
        }
        Ok(None) => ExitCode::FAILURE, // ended before there was a verdict
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    complain(&format!("error: {error:#}\n"));
    ExitCode::FAILURE
}

fn phase_line(phase: &PhaseVerdict) -> String {
    let mark = if phase.ok { "ok  " } else { "FAIL" };
    format!("{mark}  {:<22} {}\n", phase.name, phase.found)
}

fn json(verdict: &Verdict) -> String {
    serde_json::to_string(verdict).map_or_else(|_| String::new(), |text| text + "\n")
}

fn summary(verdict: &Verdict) -> String {
    let ms = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0));
    let slowest = verdict
        .slowest_change_ms
        .map_or_else(String::new, |ms| format!(", each live within {ms:.1} ms"));
    let mut text = format!(
        "\n{} requests, {} failed; p50 {}, p99 {}\n{} retries, {} ejections, {} files changed{slowest}\n",
        verdict.requests,
        verdict.failures,
        ms(verdict.p50_us),
        ms(verdict.p99_us),
        verdict.retries,
        verdict.ejections,
        verdict.changes,
    );
    for endpoint in &verdict.endpoints {
        text += &format!(
            "  {:<12} {:>6} requests {:>5.1} %\n",
            endpoint.label,
            endpoint.requests,
            endpoint.share * 100.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::once::EndpointVerdict;
    use clap::{Args, FromArgMatches};

    fn parse(words: &[&str]) -> Result<DemoArgs, clap::Error> {
        let command = DemoArgs::augment_args(clap::Command::new("demo"));
        DemoArgs::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn json_needs_once_and_rates_have_bounds() {
        let plain = parse(&["demo"]).unwrap();
        assert_eq!((plain.port, plain.rate, plain.once), (8080, 300, false));
        for (words, good) in [
            (["demo", "--once", "--json"], true),
            (["demo", "--keep", "--json"], false),
            (["demo", "--rate", "49"], false),
            (["demo", "--rate", "5001"], false),
            (["demo", "--rate", "50"], true),
        ] {
            assert_eq!(parse(&words).is_ok(), good, "{words:?}");
        }
    }

    #[test]
    fn a_verdict_is_said_in_words_and_in_json() {
        let verdict = Verdict {
            ok: false,
            requests: 3000,
            failures: 1,
            retries: 12,
            ejections: 1,
            changes: 4,
            slowest_change_ms: Some(9.5),
            p50_us: Some(3100),
            p99_us: None,
            endpoints: vec![EndpointVerdict {
                label: "checkout-1".to_owned(),
                requests: 1000,
                share: 0.3333,
            }],
            phases: vec![PhaseVerdict {
                name: "all healthy",
                ok: false,
                found: "4 of 5 pods answered".to_owned(),
            }],
        };
        assert_eq!(
            phase_line(&verdict.phases[0]) + &summary(&verdict),
            "FAIL  all healthy            4 of 5 pods answered\n\n\
             3000 requests, 1 failed; p50 3.1 ms, p99 -\n\
             12 retries, 1 ejections, 4 files changed, each live within 9.5 ms\n  \
             checkout-1     1000 requests  33.3 %\n"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&verdict)).unwrap();
        assert_eq!(
            (
                &json["failures"],
                &json["endpoints"][0]["share"],
                &json["phases"][0]["ok"]
            ),
            (&1.into(), &0.3333.into(), &false.into())
        );
    }
}
