//! `tidegate migrate DIR`: what of the Ingresses in a directory would carry over from ingress-nginx, before anything is changed.
//!
//! Exit code 0: everything; 1: something does not; 2: the directory cannot be read.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::{REFUSED, UNREADABLE, complain, print};
use crate::kubernetes::{Survey, Treatment, survey};

/// Say what of the Ingresses in a directory carries over from ingress-nginx (`kubectl get ingress -A -o yaml > DIR/all.yaml`).
#[derive(Clone, Debug, clap::Args)]
pub struct MigrateArgs {
    /// A directory of Kubernetes objects as YAML files.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Also what carries over as it is.
    #[arg(long)]
    all: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Prints a report.
pub fn run(args: &MigrateArgs) -> ExitCode {
    let surveys = match survey(&args.directory) {
        Ok(surveys) => surveys,
        Err(error) => {
            complain(&format!("{error}\n"));
            return ExitCode::from(UNREADABLE);
        }
    };
    let said = print(&if args.json {
        format!("{:#}\n", in_json(&surveys))
    } else {
        report(&surveys, args.all)
    });
    match (said == ExitCode::SUCCESS, surveys.iter().all(carries_over)) {
        (true, false) => ExitCode::from(REFUSED),
        _ => said,
    }
}

fn carries_over(survey: &Survey) -> bool {
    let mut all = survey.annotations.iter();
    survey.is_served && all.all(|one| !matches!(one.treatment, Treatment::Missing | Treatment::Guard))
}

fn report(surveys: &[Survey], all: bool) -> String {
    let mut out = String::new();
    for survey in surveys {
        let verdict = match (survey.is_served, carries_over(survey)) {
            (false, _) => "not served as it is",
            (true, false) => "served, with something missing",
            (true, true) => "served",
        };
        let class = survey.class.as_deref().map(|class| format!(" (class {class})"));
        out.push_str(&format!(
            "Ingress {}{}: {verdict}\n",
            survey.name,
            class.unwrap_or_default()
        ));
        for one in &survey.annotations {
            let is_quiet = matches!(one.treatment, Treatment::Done | Treatment::Needless);
            if all || !is_quiet {
                out.push_str(&format!(
                    "  {:14} {}: {}\n",
                    one.treatment.words(),
                    one.name,
                    one.text
                ));
            }
        }
    }
    let whole = surveys.iter().filter(|survey| carries_over(survey)).count();
    let refused = surveys.iter().filter(|survey| !survey.is_served).count();
    out.push_str(&format!(
        "{} Ingresses: {whole} carry over, {} with something missing, {refused} would not be served\n",
        surveys.len(),
        surveys.len() - whole - refused
    ));
    out
}

fn in_json(surveys: &[Survey]) -> serde_json::Value {
    let ingress = |survey: &Survey| {
        let annotations = survey.annotations.iter().map(|one| {
            json!({"name": one.name, "value": one.value, "carries_over": one.treatment.words(), "text": one.text})
        });
        json!({
            "ingress": survey.name,
            "class": survey.class,
            "served": survey.is_served,
            "annotations": annotations.collect::<Vec<_>>(),
        })
    };
    json!({"ingresses": surveys.iter().map(ingress).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_and_its_exit_codes() {
        let directory = tempfile::tempdir().unwrap();
        let args = |all, json| MigrateArgs {
            directory: directory.path().to_owned(),
            all,
            json,
        };
        let write = |name: &str, annotation: &str| {
            let yaml = format!(
                "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: \
                 {{nginx.ingress.kubernetes.io/{annotation}}}}}\nspec: {{ingressClassName: nginx}}\n"
            );
            std::fs::write(directory.path().join(format!("{name}.yaml")), yaml).unwrap();
        };
        write("a", "app-root: /login");
        assert_eq!(run(&args(false, false)), ExitCode::SUCCESS);
        write("b", "limit-rps: '5'");
        write("c", "auth-type: basic");
        assert_eq!(run(&args(true, true)), ExitCode::from(REFUSED));
        let surveys = survey(directory.path()).unwrap();
        let text = report(&surveys, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Ingress default/a (class nginx): served");
        assert_eq!(
            lines[1],
            "Ingress default/b (class nginx): served, with something missing"
        );
        assert!(
            lines[2].starts_with("  no             limit-rps: there are no limits of rates"),
            "{text}"
        );
        assert_eq!(lines[3], "Ingress default/c (class nginx): not served as it is");
        assert_eq!(
            lines[5],
            "3 Ingresses: 1 carry over, 1 with something missing, 1 would not be served"
        );
        assert!(report(&surveys, true).contains("  yes            app-root: "));
        assert_eq!(in_json(&surveys)["ingresses"][2]["served"], false);
        let nowhere = MigrateArgs {
            directory: "/nonexistent".into(),
            ..args(false, false)
        };
        assert_eq!(run(&nowhere), ExitCode::from(UNREADABLE));
    }
}
