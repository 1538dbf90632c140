//! `tidegate sidecar init`: applied twice, listed, removed, and nothing left.

use super::namespace::Namespace;

const INIT: &str = "$TIDEGATE sidecar init --skip-uids 33,34 --skip-outbound-ports 25,4567-4568 --proxy-mark 9 \
                    --skip-networks 10.1.0.0/16,10.0.0.0/8,fd00::/8";

#[test]
fn nft_rules_are_applied_once_however_often() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run("nft add table inet others && nft add chain inet others kept");
    let before = namespace.run("nft list ruleset");

    namespace.run(&format!("{INIT} --with nft"));
    let once = namespace.run("nft list ruleset");
    for part in [
        "table inet tidegate",
        "type nat hook prerouting",
        "redirect to :4143",
        "redirect to :4140",
        "ip daddr 10.0.0.0/8 return",
        "ip6 saddr fd00::/8 return",
        "tcp dport { 25, 4567-4568 } return",
        "chain kept",
    ] {
        assert!(once.contains(part), "{part} is not in\n{once}");
    }
    namespace.run(&format!("{INIT} --with nft"));
    assert_eq!(namespace.run("nft list ruleset"), once);

    namespace.run("$TIDEGATE sidecar init --with nft --only inbound --ipv6 false");
    let less = namespace.run("nft list ruleset");
    assert!(
        less.contains("redirect to :4143") && !less.contains("redirect to :4140"),
        "{less}"
    );

    for _ in 0..2 {
        namespace.run("$TIDEGATE sidecar init --remove");
        let left = namespace.run("nft list ruleset");
        assert!(left.contains(&before) && !left.contains("tidegate"), "{left}");
    }
}

#[test]
fn iptables_rules_are_applied_once_however_often() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run("iptables -t nat -A OUTPUT -d 192.0.2.1 -j RETURN");
    let rules = || {
        let all = namespace.run("iptables-save -t nat; ip6tables-save -t nat");
        let lines = all
            .lines()
            .filter(|line| line.starts_with("-A") || line.starts_with(":TIDE"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = rules();
    assert_eq!(before.len(), 1);

    namespace.run(&format!("{INIT} --with iptables"));
    let once = rules();
    for (part, times) in [
        (":TIDEGATE_INBOUND", 2),
        ("-A PREROUTING -p tcp -j TIDEGATE_INBOUND", 2),
        ("-A OUTPUT -p tcp -j TIDEGATE_OUTBOUND", 2),
        ("-A TIDEGATE_OUTBOUND -d 10.0.0.0/8 -j RETURN", 1),
        ("-A TIDEGATE_INBOUND -s fd00::/8 -j RETURN", 1),
        ("--dport 4567:4568 -j RETURN", 2),
        ("REDIRECT --to-ports 4140", 2),
    ] {
        let found = once.iter().filter(|line| line.contains(part)).count();
        assert_eq!(found, times, "{part} in {once:#?}");
    }
    namespace.run(&format!("{INIT} --with iptables"));
    assert_eq!(rules(), once);

    namespace.run("$TIDEGATE sidecar init --with iptables --only outbound --ipv6 false");
    let less = rules();
    assert_eq!(
        less.iter()
            .filter(|line| line.contains("TIDEGATE_INBOUND"))
            .count(),
        0,
        "{less:#?}"
    );
    assert_eq!(
        less.iter().filter(|line| line.contains("-A OUTPUT")).count(),
        2,
        "{less:#?}"
    );

    for _ in 0..2 {
        namespace.run("$TIDEGATE sidecar init --remove");
        assert_eq!(rules(), before);
    }
}

#[test]
fn a_dry_run_shows_and_changes_nothing() {
    let Some(namespace) = Namespace::new() else { return };
    let nft = namespace.run(&format!("{INIT} --dry-run"));
    assert!(
        nft.starts_with("# nft -f -\n") && nft.contains("redirect to :4140"),
        "{nft}"
    );
    assert_eq!(namespace.run("nft list ruleset"), "");
    // What is shown is what the tools take.
    namespace.run(&format!("{INIT} --dry-run | nft -f -"));
    assert!(namespace.run("nft list ruleset").contains("table inet tidegate"));
    namespace.run(&format!(
        "{INIT} --dry-run --with iptables --ipv6 false | iptables-restore --noflush"
    ));
}

#[test]
fn a_refusal_says_what_is_missing() {
    let Some(namespace) = Namespace::new() else { return };
    for (line, code, part) in [
        ("--inbound-port 4140", 2, "the same port 4140"),
        ("--proxy-mark 0", 2, "has mark 0"),
    ] {
        let output = namespace.output(&format!("$TIDEGATE sidecar init {line}"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part), "{said}");
    }
    // A user without the right to write rules, and a host without tools.
    let unprivileged = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all";
    let copied = "T=$(mktemp -d) && chmod 755 $T && cp $TIDEGATE $T/tidegate && chmod 755 $T/tidegate";
    for tool in ["nft", "iptables"] {
        let line = format!(
            "{copied}; {unprivileged} $T/tidegate sidecar init --with {tool}; C=$?; rm -r $T; exit $C"
        );
        let output = namespace.output(&line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("capability NET_ADMIN"), "{said}");
    }
    let output = namespace.output("PATH=/nowhere $TIDEGATE sidecar init");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("neither nft nor iptables-restore is installed"),
        "{said}"
    );
}
