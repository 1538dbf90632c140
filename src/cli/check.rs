//! `tidegate check FILE`: reads a configuration as `run` would and says what is wrong, without
//! binding anything. Exit code 0: good (perhaps with warnings); 1: refused; 2: unreadable.

use std::process::ExitCode;

use serde_json::json;

use super::{ConfigFile, complain, exit_code, print};
use crate::config::{self, Diagnostics, Loaded};

/// Check a configuration file.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Checks the file. Findings go to standard error, the verdict (or the JSON) to standard output.
pub fn run(args: &CheckArgs) -> ExitCode {
    let read = config::load(args.file.path());
    let (found, code) = match &read {
        Ok(loaded) => (&loaded.warnings, ExitCode::SUCCESS),
        Err(found) => (found, exit_code(found)),
    };
    let said = if args.json {
        print(&format!("{:#}\n", json(found, read.as_ref().ok())))
    } else {
        if !found.is_empty() {
            complain(&format!("{}\n", found.human()));
        }
        match &read {
            Ok(loaded) => print(&verdict(loaded)),
            Err(_) => ExitCode::SUCCESS,
        }
    };
    // The file's verdict counts before that of standard output.
    if code == ExitCode::SUCCESS { said } else { code }
}

fn json(found: &Diagnostics, loaded: Option<&Loaded>) -> serde_json::Value {
    let mut out = json!({ "file": found.file(), "ok": loaded.is_some(), "diagnostics": found.json() });
    if let Some(loaded) = loaded {
        out["counts"] = json!({
            "listeners": loaded.world.listeners.len(),
            "routes": loaded.world.routes.len(),
            "backends": loaded.world.backends.len(),
            "endpoints": endpoints(loaded),
        });
    }
    out
}

fn verdict(loaded: &Loaded) -> String {
    let count = |number: usize, one: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    };
    let world = &loaded.world;
    let mut out = format!(
        "{}: good: {}, {}, {}, {}",
        loaded.warnings.file(),
        count(world.listeners.len(), "listener"),
        count(world.routes.len(), "route"),
        count(world.backends.len(), "backend"),
        count(endpoints(loaded), "endpoint"),
    );
    match loaded.warnings.items().len() {
        0 => {}
        number => out.push_str(&format!("; {}", count(number, "warning"))),
    }
    out.push('\n');
    out
}

fn endpoints(loaded: &Loaded) -> usize {
    loaded.world.endpoints.values().map(|set| set.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};
    use serde_json::Value;

    fn parse(words: &[&str]) -> Result<CheckArgs, clap::Error> {
        let command = CheckArgs::augment_args(clap::Command::new("check"));
        CheckArgs::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn the_file_is_an_argument_or_an_option_and_never_both_or_none() {
        for words in [
            ["check", "a.yaml"].as_slice(),
            &["check", "--config", "a.yaml"],
            &["check", "-c", "a.yaml"],
        ] {
            assert_eq!(parse(words).unwrap().file.path().to_str(), Some("a.yaml"));
        }
        for words in [["check"].as_slice(), &["check", "a", "--config", "b"]] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn good_refused_and_unreadable_files_have_their_exit_codes() {
        let directory = tempfile::tempdir().unwrap();
        for (name, content, code) in [
            (
                "good",
                "listen: \":80\"\nroutes: [{to: 1.1.1.1:1}]\n",
                ExitCode::SUCCESS,
            ),
            ("bad", "lisen: \":80\"\n", ExitCode::from(1)),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            assert_eq!(
                run(&parse(&["check", path.to_str().unwrap()]).unwrap()),
                code,
                "{name}"
            );
        }
        assert_eq!(
            run(&parse(&["check", "/nonexistent", "--json"]).unwrap()),
            ExitCode::from(2)
        );
    }

    #[test]
    fn json_tells_places_and_counts() {
        let good = config::parse("a", "listen: \":80\"\nroutes: [{to: 1.1.1.1:1}]\n").unwrap();
        assert_eq!(
            json(&good.warnings, Some(&good)),
            json!({"file": "a", "ok": true, "diagnostics": [],
                "counts": {"listeners": 1, "routes": 1, "backends": 1, "endpoints": 1}})
        );
        assert_eq!(
            verdict(&good),
            "a: good: 1 listener, 1 route, 1 backend, 1 endpoint\n"
        );
        let bad = json(&config::parse("a", "lisen: 1\n").unwrap_err(), None);
        assert_eq!(
            (&bad["ok"], &bad["diagnostics"][0]["column"]),
            (&Value::Bool(false), &json!(1))
        );
    }
}
