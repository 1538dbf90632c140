//! What is redirected: the options of the rules, in a form that rules can be written from without asking again.

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What is redirected, and what is not.
///
/// Only TCP is. Connections over the loopback interface never are: what an app says to itself, and what Tidegate says to
/// the app, is nobody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// Connections from elsewhere go to this port instead. None: they are let be.
    pub inbound: Option<u16>,
    /// Connections to elsewhere go to this port instead. None: they are let be.
    pub outbound: Option<u16>,
    /// Whose connections are let be because they are Tidegate's own. Without this what Tidegate sends would come back
    /// to it for ever.
    pub own: Vec<Sender>,
    /// Users whose connections to elsewhere are let be, too.
    pub skip_uids: Vec<u32>,
    /// Ports of this host to which connections from elsewhere are let be.
    pub skip_inbound_ports: Ports,
    /// Ports elsewhere to which connections are let be.
    pub skip_outbound_ports: Ports,
    /// Networks from and to which connections are let be.
    pub skip_networks: Networks,
    /// Whether IPv6 is redirected as well.
    pub ipv6: bool,
}

/// Who sends a packet, as far as the kernel can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A process of this user.
    Uid(u32),
    /// A process of this group.
    Gid(u32),
    /// Whoever marks it so (`SO_MARK`).
    Mark(u32),
}

/// Ports, as ranges that are in order and touch nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<PortRange>);

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Networks of which none is part of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Those of IPv4.
    pub ipv4: Vec<Ipv4Net>,
    /// Those of IPv6.
    pub ipv6: Vec<Ipv6Net>,
}

impl Ports {
    /// The ranges, in order.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<PortRange> for Ports {
    /// What overlaps or touches becomes one: nft refuses sets in which ranges overlap.
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl PortRange {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Whether a port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// The range with this between the ports, or the one port.
    pub fn with(self, between: char) -> String {
        let Self { first, last } = self;
        if first == last {
            first.to_string()
        } else {
            format!("{first}{between}{last}")
        }
    }
}

/// Why a text is no port and no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// One end is no port.
    #[error("{0:?} is no port from 1 to 65535; write 25 or 4567-4568")]
    Port(String),
    /// The ends are the wrong way round.
    #[error("the range {0} ends before it begins; turn it round")]
    Backwards(String),
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let port = |text: &str| match text.trim().parse() {
            Ok(0) | Err(_) => Err(PortError::Port(text.to_owned())),
            Ok(port) => Ok(port),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if last < first {
            return Err(PortError::Backwards(text.to_owned()));
        }
        Ok(Self { first, last })
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => ipv4.push(network),
                IpNet::V6(network) => ipv6.push(network),
            }
        }
        Self {
            ipv4: Ipv4Net::aggregate(&ipv4),
            ipv6: Ipv6Net::aggregate(&ipv6),
        }
    }
}

/// Why options make no rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// Both directions go to one port.
    #[error(
        "inbound and outbound connections go to the same port {0}, where nobody could tell them apart; choose another"
    )]
    OnePort(u16),
    /// A direction goes to no port.
    #[error("connections cannot be redirected to port 0")]
    NoPort,
    /// Nobody is exempt.
    #[error(
        "it is not said which connections are Tidegate's own; give --proxy-uid, --proxy-gid or --proxy-mark"
    )]
    NoOwner,
    /// Everybody is exempt: a packet without a mark has mark 0.
    #[error("every packet that nobody marked has mark 0; choose another")]
    MarkZero,
}

impl Redirect {
    /// Whether rules from this would do what they should.
    ///
    /// # Errors
    /// They would redirect what Tidegate itself sends, or redirect nothing.
    pub fn check(&self) -> Result<(), RedirectError> {
        if self.inbound == Some(0) || self.outbound == Some(0) {
            return Err(RedirectError::NoPort);
        }
        if let (Some(inbound), Some(outbound)) = (self.inbound, self.outbound)
            && inbound == outbound
        {
            return Err(RedirectError::OnePort(inbound));
        }
        if self.outbound.is_some() && self.own.is_empty() {
            return Err(RedirectError::NoOwner);
        }
        if self.own.contains(&Sender::Mark(0)) {
            return Err(RedirectError::MarkZero);
        }
        Ok(())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.with('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_put_in_order() {
        let ports = |texts: &[&str]| -> Vec<String> {
            let ranges = texts.iter().map(|text| text.parse::<PortRange>().unwrap());
            let ports: Ports = ranges.collect();
            ports.ranges().iter().map(PortRange::to_string).collect()
        };
        assert_eq!(ports(&["4567-4568", "25"]), ["25", "4567-4568"]);
        assert_eq!(ports(&["10-20", "15-30", "31", "33"]), ["10-31", "33"]);
        assert_eq!(ports(&["1-65535", "65535", "7"]), ["1-65535"]);
        for (text, reason) in [
            ("0", "\"0\" is no port from 1 to 65535; write 25 or 4567-4568"),
            (
                "1-70000",
                "\"70000\" is no port from 1 to 65535; write 25 or 4567-4568",
            ),
            (
                "http",
                "\"http\" is no port from 1 to 65535; write 25 or 4567-4568",
            ),
            ("9-3", "the range 9-3 ends before it begins; turn it round"),
        ] {
            assert_eq!(text.parse::<PortRange>().unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn rules_that_would_loop_are_refused() {
        let good = Redirect {
            inbound: Some(4143),
            outbound: Some(4140),
            own: vec![Sender::Uid(2102)],
            ..Redirect::default()
        };
        assert_eq!(good.check(), Ok(()));
        let with = |edit: fn(&mut Redirect)| {
            let mut changed = good.clone();
            edit(&mut changed);
            changed.check()
        };
        assert_eq!(
            with(|it| it.inbound = Some(4140)),
            Err(RedirectError::OnePort(4140))
        );
        assert_eq!(with(|it| it.own.clear()), Err(RedirectError::NoOwner));
        assert_eq!(with(|it| it.outbound = Some(0)), Err(RedirectError::NoPort));
        assert_eq!(
            with(|it| it.own.push(Sender::Mark(0))),
            Err(RedirectError::MarkZero)
        );
        let inbound_alone = with(|it| {
            it.own.clear();
            it.outbound = None;
        });
        assert_eq!(inbound_alone, Ok(()));
    }
}
