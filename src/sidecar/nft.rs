//! The rules for nftables: one table of our own, replaced whole.
//!
//! `nft -f -` reads a script as one transaction, so the table is never half there. A table that may or may not exist is
//! replaced by declaring it, which does nothing if it is there, deleting it, and declaring it in full. Nothing outside
//! the table is read or touched. NAT in the `inet` family wants Linux 5.2.

use std::fmt::{Display, Write};

use super::redirect::{Ports, Redirect, Sender};

/// The table that is ours.
pub const TABLE: &str = "inet tidegate";

/// The script that puts the rules in place, whatever of them was there before.
pub fn apply(redirect: &Redirect) -> String {
    let mut script = remove();
    let _ = writeln!(script, "table {TABLE} {{");
    if let Some(port) = redirect.inbound {
        chain(&mut script, "inbound", "prerouting", &inbound(redirect), port);
    }
    if let Some(port) = redirect.outbound {
        chain(&mut script, "outbound", "output", &outbound(redirect), port);
    }
    script.push_str("}\n");
    script
}

/// The script that removes the rules, whether they are there or not.
pub fn remove() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// A chain that lets be what is told and redirects the rest. -100 is the kernel's `NF_IP_PRI_NAT_DST`.
fn chain(script: &mut String, name: &str, hook: &str, let_be: &[String], port: u16) {
    let _ = writeln!(script, "\tchain {name} {{");
    let _ = writeln!(script, "\t\ttype nat hook {hook} priority -100; policy accept;");
    for condition in let_be {
        let _ = writeln!(script, "\t\t{condition} return");
    }
    let _ = writeln!(script, "\t\tmeta l4proto tcp redirect to :{port}");
    script.push_str("\t}\n");
}

fn inbound(redirect: &Redirect) -> Vec<String> {
    let mut let_be = vec!["iifname \"lo\"".to_owned()];
    families(redirect, "saddr", &mut let_be);
    ports(&redirect.skip_inbound_ports, &mut let_be);
    let_be
}

fn outbound(redirect: &Redirect) -> Vec<String> {
    let mut let_be: Vec<_> = redirect
        .own
        .iter()
        .map(|sender| match sender {
            Sender::Uid(uid) => format!("meta skuid {uid}"),
            Sender::Gid(gid) => format!("meta skgid {gid}"),
            Sender::Mark(mark) => format!("meta mark {mark}"),
        })
        .collect();
    let_be.push("oifname \"lo\"".to_owned());
    if !redirect.skip_uids.is_empty() {
        let_be.push(format!("meta skuid {}", set(&redirect.skip_uids)));
    }
    families(redirect, "daddr", &mut let_be);
    ports(&redirect.skip_outbound_ports, &mut let_be);
    let_be
}

fn families(redirect: &Redirect, side: &str, let_be: &mut Vec<String>) {
    let networks = &redirect.skip_networks;
    if !networks.ipv4.is_empty() {
        let_be.push(format!("ip {side} {}", set(&networks.ipv4)));
    }
    if !redirect.ipv6 {
        let_be.push("meta nfproto ipv6".to_owned());
    } else if !networks.ipv6.is_empty() {
        let_be.push(format!("ip6 {side} {}", set(&networks.ipv6)));
    }
}

fn ports(ports: &Ports, let_be: &mut Vec<String>) {
    if !ports.is_empty() {
        let_be.push(format!("tcp dport {}", set(ports.ranges())));
    }
}

fn set<T: Display>(members: &[T]) -> String {
    let members: Vec<_> = members.iter().map(T::to_string).collect();
    format!("{{ {} }}", members.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_two_chains() {
        let redirect = Redirect {
            inbound: Some(4143),
            outbound: Some(4140),
            own: vec![Sender::Uid(2102)],
            ipv6: true,
            ..Redirect::default()
        };
        let expected = "\
table inet tidegate
delete table inet tidegate
table inet tidegate {
\tchain inbound {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tiifname \"lo\" return
\t\tmeta l4proto tcp redirect to :4143
\t}
\tchain outbound {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta skuid 2102 return
\t\toifname \"lo\" return
\t\tmeta l4proto tcp redirect to :4140
\t}
}
";
        assert_eq!(apply(&redirect), expected);
    }

    #[test]
    fn each_exception_is_a_line() {
        let all = Redirect {
            inbound: Some(1),
            outbound: Some(2),
            own: vec![Sender::Gid(7), Sender::Mark(9)],
            skip_uids: vec![33, 34],
            skip_inbound_ports: ["4190-4191".parse().unwrap()].into_iter().collect(),
            skip_outbound_ports: ["25", "3306"]
                .map(|text| text.parse().unwrap())
                .into_iter()
                .collect(),
            skip_networks: ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]
                .map(|text| text.parse().unwrap())
                .into_iter()
                .collect(),
            ipv6: true,
        };
        let four_alone = Redirect {
            ipv6: false,
            outbound: None,
            ..all.clone()
        };
        for (redirect, lines) in [
            (
                &all,
                &[
                    "iifname \"lo\" return",
                    "ip saddr { 10.0.0.0/8 } return",
                    "ip6 saddr { fd00::/8 } return",
                    "tcp dport { 4190-4191 } return",
                    "meta l4proto tcp redirect to :1",
                    "meta skgid 7 return",
                    "meta mark 9 return",
                    "oifname \"lo\" return",
                    "meta skuid { 33, 34 } return",
                    "ip daddr { 10.0.0.0/8 } return",
                    "ip6 daddr { fd00::/8 } return",
                    "tcp dport { 25, 3306 } return",
                    "meta l4proto tcp redirect to :2",
                ][..],
            ),
            (
                &four_alone,
                &[
                    "iifname \"lo\" return",
                    "ip saddr { 10.0.0.0/8 } return",
                    "meta nfproto ipv6 return",
                    "tcp dport { 4190-4191 } return",
                    "meta l4proto tcp redirect to :1",
                ],
            ),
        ] {
            let script = apply(redirect);
            let rules: Vec<_> = script
                .lines()
                .filter_map(|line| line.strip_prefix("\t\t"))
                .collect();
            let rules: Vec<_> = rules
                .into_iter()
                .filter(|line| !line.starts_with("type"))
                .collect();
            assert_eq!(rules, lines);
        }
    }
}
