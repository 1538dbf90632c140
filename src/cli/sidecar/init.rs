//! `tidegate sidecar init`: the rules by which the kernel redirects an app's connections to Tidegate.

use std::process::ExitCode;

use ipnet::IpNet;

use crate::cli::{complain, print};
use crate::sidecar::apply::{self, ApplyError, Tool};
use crate::sidecar::redirect::{PortRange, Redirect, Sender};
use crate::sidecar::{iptables, nft};

/// Redirect the connections of this network namespace to Tidegate.
///
/// The rules are replaced as a whole, so it may be run again, with the same options or others. Only TCP is redirected,
/// and nothing on the loopback interface.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// Where connections from elsewhere go.
    #[arg(long, value_name = "PORT", default_value_t = INBOUND)]
    inbound_port: u16,
    /// Where connections to elsewhere go.
    #[arg(long, value_name = "PORT", default_value_t = OUTBOUND)]
    outbound_port: u16,
    /// Redirect one direction alone.
    #[arg(long, value_name = "DIRECTION")]
    only: Option<Only>,
    /// The user that Tidegate runs as, whose connections are let be [default: 2102, if no other sender is given].
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    proxy_uid: Vec<u32>,
    /// The group that Tidegate runs as, whose connections are let be.
    #[arg(long, value_name = "GID", value_delimiter = ',')]
    proxy_gid: Vec<u32>,
    /// The mark of Tidegate's packets, which are let be.
    #[arg(long, value_name = "MARK", value_delimiter = ',')]
    proxy_mark: Vec<u32>,
    /// Users whose connections to elsewhere are let be.
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    skip_uids: Vec<u32>,
    /// Ports of the pod that are not redirected; Tidegate's admin listener should be among them.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "4191")]
    skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere to which connections are not redirected.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<PortRange>,
    /// Networks from and to which connections are not redirected.
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    skip_networks: Vec<IpNet>,
    /// Whether IPv6 is redirected as well; if not, it goes past Tidegate.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    ipv6: bool,
    /// Which tool writes the rules [default: nft if it is installed, else iptables].
    #[arg(long, value_name = "TOOL")]
    with: Option<With>,
    /// Show the rules, as the tool would read them on a host that has none; nothing is changed.
    #[arg(long)]
    dry_run: bool,
    /// Remove the rules, whichever tool has written them.
    #[arg(long, conflicts_with = "dry_run")]
    remove: bool,
}

/// Where connections from elsewhere go, unless said otherwise.
pub const INBOUND: u16 = 4143;
/// Where connections to elsewhere go, unless said otherwise.
pub const OUTBOUND: u16 = 4140;
/// The user that Tidegate runs as in a sidecar, unless said otherwise.
const UID: u32 = 2102;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum With {
    Nft,
    Iptables,
}

/// Shows, writes or removes the rules. Exit code 1: they are not as they should be; 2: the options make no sense.
pub fn run(args: &InitArgs) -> ExitCode {
    if args.remove {
        return told(apply::remove());
    }
    let redirect = args.redirect();
    if let Err(error) = redirect.check() {
        complain(&format!("{error}\n"));
        return ExitCode::from(crate::cli::UNREADABLE);
    }
    let tool = match args.with {
        Some(With::Nft) => Some(Tool::Nft),
        Some(With::Iptables) => Some(Tool::Iptables),
        None => apply::find(),
    };
    if args.dry_run {
        return print(&shown(&redirect, tool.unwrap_or(Tool::Nft)));
    }
    told(
        tool.ok_or(ApplyError::NoTool)
            .and_then(|tool| apply::apply(&redirect, tool)),
    )
}

impl InitArgs {
    fn redirect(&self) -> Redirect {
        let uids = self.proxy_uid.iter().map(|uid| Sender::Uid(*uid));
        let gids = self.proxy_gid.iter().map(|gid| Sender::Gid(*gid));
        let marks = self.proxy_mark.iter().map(|mark| Sender::Mark(*mark));
        let mut own: Vec<_> = uids.chain(gids).chain(marks).collect();
        if own.is_empty() {
            own.push(Sender::Uid(UID));
        }
        Redirect {
            inbound: (self.only != Some(Only::Outbound)).then_some(self.inbound_port),
            outbound: (self.only != Some(Only::Inbound)).then_some(self.outbound_port),
            own,
            skip_uids: self.skip_uids.clone(),
            skip_inbound_ports: self.skip_inbound_ports.iter().copied().collect(),
            skip_outbound_ports: self.skip_outbound_ports.iter().copied().collect(),
            skip_networks: self.skip_networks.iter().copied().collect(),
            ipv6: self.ipv6,
        }
    }
}

/// The rules as the tool would read them on a host that has none.
fn shown(redirect: &Redirect, tool: Tool) -> String {
    match tool {
        Tool::Nft => format!("# nft -f -\n{}", nft::apply(redirect)),
        Tool::Iptables => apply::families(redirect)
            .map(|family| {
                let program = match family {
                    iptables::Family::V4 => "iptables-restore",
                    iptables::Family::V6 => "ip6tables-restore",
                };
                let rules = iptables::apply(redirect, family, "");
                format!("# {program} --noflush\n{rules}")
            })
            .collect(),
    }
}

fn told(done: Result<(), ApplyError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error}\n"));
            ExitCode::from(crate::cli::REFUSED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: InitArgs,
    }

    fn parse(line: &str) -> Result<InitArgs, clap::Error> {
        Line::try_parse_from(["init"].into_iter().chain(line.split_whitespace())).map(|line| line.args)
    }

    #[test]
    fn options_become_what_is_redirected() {
        let default = parse("").unwrap().redirect();
        let expected = Redirect {
            inbound: Some(4143),
            outbound: Some(4140),
            own: vec![Sender::Uid(2102)],
            skip_inbound_ports: [PortRange::one(4191)].into_iter().collect(),
            ipv6: true,
            ..Redirect::default()
        };
        assert_eq!(default, expected);

        let line = "--only outbound --outbound-port 9 --proxy-gid 7,8 --proxy-mark 3 --skip-uids 33 \
                    --skip-outbound-ports 25,4567-4568 --skip-networks 10.0.0.0/8,fd00::/8 --ipv6 false";
        let args = parse(line).unwrap();
        let changed = args.redirect();
        assert_eq!((changed.inbound, changed.outbound), (None, Some(9)));
        assert_eq!(changed.own, [Sender::Gid(7), Sender::Gid(8), Sender::Mark(3)]);
        assert_eq!((changed.skip_uids.as_slice(), changed.ipv6), (&[33][..], false));
        assert_eq!(changed.skip_outbound_ports.ranges().len(), 2);
        assert!(shown(&changed, Tool::Nft).starts_with("# nft -f -\ntable inet tidegate\n"));
        let both = shown(&default, Tool::Iptables);
        assert!(both.contains("# iptables-restore --noflush\n*nat") && both.contains("# ip6tables-restore"));
    }

    #[test]
    fn bad_options_are_explained() {
        for (line, part) in [
            ("--skip-outbound-ports 9-3", "ends before it begins"),
            ("--skip-networks 10.0.0.0/40", "invalid"),
            ("--only sideways", "possible values: inbound, outbound"),
            ("--dry-run --remove", "cannot be used with"),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
