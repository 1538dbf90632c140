//! `tidegate inject`: puts sidecars into Pods that ask for one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::process;
use crate::config::Settings;
use crate::inject::patch::{Template, check_defaults};
use crate::inject::{Options, certificate, wishes};
use crate::kubernetes;

/// Put sidecars into Pods that ask for one.
///
/// The API server asks here before a Pod is made (a mutating admission webhook). Which Pods get one, and what of it can be chosen, is
/// said by labels and annotations `tidegate.dev/…`.
#[derive(Clone, Debug, clap::Args)]
pub struct InjectArgs {
    /// Where the API server asks, by HTTPS.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9443")]
    address: SocketAddr,
    /// The image of the sidecar.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// The image that writes the rules of transparent sidecars; it has nft or iptables. Without it there are none.
    #[arg(long, value_name = "IMAGE")]
    init_image: Option<String>,
    /// When the images are pulled.
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// What an annotation says where there is none: `proxy-cpu-request=20m`. Once for each.
    #[arg(long = "default", value_name = "NAME=VALUE", value_parser = default)]
    defaults: Vec<(String, String)>,
    /// The name of the Service, the Secret, the Lease and the MutatingWebhookConfiguration.
    #[arg(long, value_name = "NAME", default_value = "tidegate-inject", value_parser = name)]
    name: String,
    /// More names and addresses by which the API server may call, where it does not call the Service.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = host)]
    names: Vec<String>,
    /// A kubeconfig instead of the pod's service account or the one of KUBECONFIG.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where metrics and readiness are.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9900")]
    admin: SocketAddr,
}

/// Injects until told to end.
pub fn run(args: &InjectArgs) -> ExitCode {
    let options = args.options();
    if let Err(complaints) = check_defaults(&options.template) {
        super::complain(&format!("{}\n", complaints.join("\n")));
        return ExitCode::from(super::UNREADABLE);
    }
    let mut settings = Settings {
        workers: Some(1), // there is no traffic
        ..Settings::default()
    };
    settings.admin.address = Some(args.admin);
    process::run_injector(settings, options)
}

impl InjectArgs {
    fn options(&self) -> Options {
        Options {
            address: self.address,
            access: match &self.kubeconfig {
                Some(path) => kubernetes::Access::Kubeconfig(path.clone()),
                None => kubernetes::Access::Infer,
            },
            name: self.name.clone(),
            names: self.names.clone(),
            template: Template {
                image: self.image.clone(),
                init_image: self.init_image.clone(),
                pull_policy: self.image_pull_policy.clone(),
                own_namespace: String::new(),
                defaults: self.defaults.clone(),
            },
        }
    }
}

fn default(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write the annotation's name and value: grace=10s")?;
    match wishes::KEYS.iter().any(|(known, _)| *known == name) {
        true => Ok((name.to_owned(), value.to_owned())),
        false => Err(format!("{name:?} is not known{}", wishes::suggestion(name))),
    }
}

fn name(text: &str) -> Result<String, String> {
    match wishes::is_label(text) {
        true => Ok(text.to_owned()),
        false => Err("a name has at most 63 lower-case letters, digits and hyphens between them".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    match certificate::server_name(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write a hostname or an address".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: InjectArgs,
    }

    fn parse(line: &str) -> Result<InjectArgs, clap::Error> {
        Line::try_parse_from(["inject"].into_iter().chain(line.split_whitespace())).map(|line| line.args)
    }

    #[test]
    fn options_are_read() {
        let args = parse(
            "--image t:1 --init-image i:1 --default grace=10s --default outbound=1=a:2 --names 10.0.0.1,host.example \
             --image-pull-policy Never",
        );
        let options = args.unwrap().options();
        assert_eq!(options.names, ["10.0.0.1", "host.example"]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            options.template.defaults,
            [pair("grace", "10s"), pair("outbound", "1=a:2")]
        );
        assert_eq!(
            (options.name.as_str(), options.address.port()),
            ("tidegate-inject", 9443)
        );
        assert_eq!(options.template.init_image.as_deref(), Some("i:1"));
    }

    #[test]
    fn what_makes_no_sense_is_explained() {
        for (line, part) in [
            ("", "--image"),
            ("--image t --default grase=1s", "did you mean grace?"),
            (
                "--image t --default grace",
                "write the annotation's name and value",
            ),
            ("--image t --name Tidegate", "lower-case letters"),
            ("--image t --names a_b/c", "a hostname or an address"),
            ("--image t --image-pull-policy sometimes", "possible values"),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
