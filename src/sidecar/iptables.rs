//! The rules for iptables and ip6tables: two chains of our own in the table `nat`, and a jump to each.
//!
//! `iptables-restore --noflush` reads its input as one transaction, empties the chains that are declared in it and leaves
//! the others alone. It has no way to say "delete this if it is there", so what is there is read first
//! (`iptables-save -t nat`), and the jumps that lead to our chains are deleted as they were found.

use std::fmt::Write;

use super::redirect::{Redirect, Sender};

/// The chain of connections from elsewhere.
const INBOUND: &str = "TIDEGATE_INBOUND";
/// The chain of connections to elsewhere.
const OUTBOUND: &str = "TIDEGATE_OUTBOUND";

/// Whose rules: each family has tools of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The input of `iptables-restore --noflush` that puts the rules in place. `found`: the output of `iptables-save -t nat`.
pub fn apply(redirect: &Redirect, family: Family, found: &str) -> String {
    let chains = [(INBOUND, redirect.inbound), (OUTBOUND, redirect.outbound)];
    let mut script = "*nat\n".to_owned();
    for (chain, wanted) in chains {
        if wanted.is_some() || is_there(found, chain) {
            declare(&mut script, chain);
        }
    }
    jumps_gone(&mut script, found);
    for (chain, wanted) in chains {
        if wanted.is_none() && is_there(found, chain) {
            let _ = writeln!(script, "-X {chain}");
        }
    }
    if let Some(port) = redirect.inbound {
        fill(
            &mut script,
            INBOUND,
            "PREROUTING",
            &inbound(redirect, family),
            port,
        );
    }
    if let Some(port) = redirect.outbound {
        fill(&mut script, OUTBOUND, "OUTPUT", &outbound(redirect, family), port);
    }
    script.push_str("COMMIT\n");
    script
}

/// The input that removes the rules; none when nothing of ours is there.
pub fn remove(found: &str) -> Option<String> {
    let chains: Vec<_> = [INBOUND, OUTBOUND]
        .into_iter()
        .filter(|chain| is_there(found, chain))
        .collect();
    if chains.is_empty() {
        return None;
    }
    let mut script = "*nat\n".to_owned();
    for chain in &chains {
        declare(&mut script, chain);
    }
    jumps_gone(&mut script, found);
    for chain in chains {
        let _ = writeln!(script, "-X {chain}");
    }
    script.push_str("COMMIT\n");
    Some(script)
}

/// Makes a chain, or empties it.
fn declare(script: &mut String, chain: &str) {
    let _ = writeln!(script, ":{chain} - [0:0]");
}

fn is_there(found: &str, chain: &str) -> bool {
    found
        .lines()
        .filter_map(|line| line.strip_prefix(':'))
        .any(|line| line.split(' ').next() == Some(chain))
}

/// Deletes the jumps to our chains, each as it was found.
fn jumps_gone(script: &mut String, found: &str) {
    for line in found.lines() {
        let Some(rule) = line.strip_prefix("-A ") else {
            continue;
        };
        let leads_here = |chain| rule.strip_suffix(chain).is_some_and(|rest| rest.ends_with("-j "));
        if [INBOUND, OUTBOUND].into_iter().any(leads_here) {
            let _ = writeln!(script, "-D {rule}");
        }
    }
}

/// Fills a chain that lets be what is told and redirects the rest, and has the kernel's own chain jump to it.
fn fill(script: &mut String, chain: &str, hook: &str, let_be: &[String], port: u16) {
    for condition in let_be {
        let _ = writeln!(script, "-A {chain} {condition} -j RETURN");
    }
    let _ = writeln!(script, "-A {chain} -p tcp -j REDIRECT --to-ports {port}");
    let _ = writeln!(script, "-A {hook} -p tcp -j {chain}");
}

fn inbound(redirect: &Redirect, family: Family) -> Vec<String> {
    let mut let_be = vec!["-i lo".to_owned()];
    let_be.extend(networks(redirect, family).map(|network| format!("-s {network}")));
    let ports = redirect.skip_inbound_ports.ranges();
    let_be.extend(
        ports
            .iter()
            .map(|range| format!("-p tcp --dport {}", range.with(':'))),
    );
    let_be
}

fn outbound(redirect: &Redirect, family: Family) -> Vec<String> {
    let mut let_be: Vec<_> = redirect
        .own
        .iter()
        .map(|sender| match sender {
            Sender::Uid(uid) => format!("-m owner --uid-owner {uid}"),
            Sender::Gid(gid) => format!("-m owner --gid-owner {gid}"),
            Sender::Mark(mark) => format!("-m mark --mark {mark}"),
        })
        .collect();
    let_be.push("-o lo".to_owned());
    let uids = redirect.skip_uids.iter();
    let_be.extend(uids.map(|uid| format!("-m owner --uid-owner {uid}")));
    let_be.extend(networks(redirect, family).map(|network| format!("-d {network}")));
    let ports = redirect.skip_outbound_ports.ranges();
    let_be.extend(
        ports
            .iter()
            .map(|range| format!("-p tcp --dport {}", range.with(':'))),
    );
    let_be
}

fn networks(redirect: &Redirect, family: Family) -> impl Iterator<Item = String> {
    let networks = &redirect.skip_networks;
    let texts: Vec<_> = match family {
        Family::V4 => networks.ipv4.iter().map(ToString::to_string).collect(),
        Family::V6 => networks.ipv6.iter().map(ToString::to_string).collect(),
    };
    texts.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Redirect {
        Redirect {
            inbound: Some(4143),
            outbound: Some(4140),
            own: vec![Sender::Uid(2102), Sender::Mark(9)],
            skip_uids: vec![33],
            skip_inbound_ports: ["4190-4191".parse().unwrap()].into_iter().collect(),
            skip_outbound_ports: ["25".parse().unwrap()].into_iter().collect(),
            skip_networks: ["10.0.0.0/8", "fd00::/8"]
                .map(|text| text.parse().unwrap())
                .into_iter()
                .collect(),
            ipv6: true,
        }
    }

    const ELSES: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [1:60]\n:DOCKER - [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n";

    #[test]
    fn on_a_clean_host_nothing_is_deleted() {
        let expected = "\
*nat
:TIDEGATE_INBOUND - [0:0]
:TIDEGATE_OUTBOUND - [0:0]
-A TIDEGATE_INBOUND -i lo -j RETURN
-A TIDEGATE_INBOUND -s 10.0.0.0/8 -j RETURN
-A TIDEGATE_INBOUND -p tcp --dport 4190:4191 -j RETURN
-A TIDEGATE_INBOUND -p tcp -j REDIRECT --to-ports 4143
-A PREROUTING -p tcp -j TIDEGATE_INBOUND
-A TIDEGATE_OUTBOUND -m owner --uid-owner 2102 -j RETURN
-A TIDEGATE_OUTBOUND -m mark --mark 9 -j RETURN
-A TIDEGATE_OUTBOUND -o lo -j RETURN
-A TIDEGATE_OUTBOUND -m owner --uid-owner 33 -j RETURN
-A TIDEGATE_OUTBOUND -d 10.0.0.0/8 -j RETURN
-A TIDEGATE_OUTBOUND -p tcp --dport 25 -j RETURN
-A TIDEGATE_OUTBOUND -p tcp -j REDIRECT --to-ports 4140
-A OUTPUT -p tcp -j TIDEGATE_OUTBOUND
COMMIT
";
        assert_eq!(apply(&both(), Family::V4, ELSES), expected);
        let six = apply(&both(), Family::V6, "");
        assert!(six.contains("-d fd00::/8") && !six.contains("10.0.0.0"), "{six}");
        assert_eq!(remove(ELSES), None);
    }

    #[test]
    fn what_was_there_is_replaced() {
        let found = "*nat\n:OUTPUT ACCEPT [0:0]\n:TIDEGATE_INBOUND - [0:0]\n:TIDEGATE_OUTBOUND - [0:0]\n\
                     -A PREROUTING -p tcp -j TIDEGATE_INBOUND\n-A OUTPUT -j DOCKER\n-A OUTPUT -p tcp -j TIDEGATE_OUTBOUND\n\
                     -A TIDEGATE_OUTBOUND -o lo -j RETURN\nCOMMIT\n";
        let outbound_alone = Redirect {
            inbound: None,
            outbound: Some(4140),
            own: vec![Sender::Gid(7)],
            ..Redirect::default()
        };
        let expected = "\
*nat
:TIDEGATE_INBOUND - [0:0]
:TIDEGATE_OUTBOUND - [0:0]
-D PREROUTING -p tcp -j TIDEGATE_INBOUND
-D OUTPUT -p tcp -j TIDEGATE_OUTBOUND
-X TIDEGATE_INBOUND
-A TIDEGATE_OUTBOUND -m owner --gid-owner 7 -j RETURN
-A TIDEGATE_OUTBOUND -o lo -j RETURN
-A TIDEGATE_OUTBOUND -p tcp -j REDIRECT --to-ports 4140
-A OUTPUT -p tcp -j TIDEGATE_OUTBOUND
COMMIT
";
        assert_eq!(apply(&outbound_alone, Family::V4, found), expected);
        let gone = "\
*nat
:TIDEGATE_INBOUND - [0:0]
:TIDEGATE_OUTBOUND - [0:0]
-D PREROUTING -p tcp -j TIDEGATE_INBOUND
-D OUTPUT -p tcp -j TIDEGATE_OUTBOUND
-X TIDEGATE_INBOUND
-X TIDEGATE_OUTBOUND
COMMIT
";
        assert_eq!(remove(found).as_deref(), Some(gone));
    }
}
