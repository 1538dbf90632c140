//! Which target port each port of a Gateway has.
//!
//! What the Services say is the only record. It is read by every replica and written by one, so it may be behind, edited by others,
//! or say the same for two. Who has a port keeps it, in this order:
//!
//! 1. what was bound until now and is still said: nobody gets such a port by writing its number into another Service;
//! 2. what is said, be it new: the holder of the lease may be another replica, and somebody may have moved a port to a free one;
//! 3. what was bound until now, where nothing good is said any more;
//! 4. for what has none, a free port, by the hash of what it is for and linear probing. Who comes back gets the
//!    same one again, and who is new rarely gets one that was another's a moment ago, whose last connections may still come.
//!
//! What came out of 1 to 3 is bound. What came out of 4 is only wished for, until the Service says it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::kubernetes::objects::Id;
use crate::model::Transport;

/// A port of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayPort {
    /// Whose.
    pub gateway: Id,
    /// As clients know it.
    pub port: u16,
    /// For connections or datagrams.
    pub transport: Transport,
}

/// Ports of which target ports are: `20000-29999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Ten thousand of them, below those that kernels give to outgoing connections (32768 on).
    pub const DEFAULT: Self = Self {
        first: 20_000,
        last: 29_999,
    };

    /// `FIRST-LAST`, both among them.
    ///
    /// # Errors
    /// A text that is no range, or one of privileged ports, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-');
        let numbers = parts.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match numbers {
            Some((first, last)) if 1024 <= first && first <= last => Ok(Self { first, last }),
            Some(_) => Err(format!(
                "{text} is no range of ports from 1024 to 65535, like {}",
                Self::DEFAULT
            )),
            None => Err(format!(
                "{text:?} is no range of ports; write its first and last: {}",
                Self::DEFAULT
            )),
        }
    }

    /// Whether a port is among them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// All of them, from one on that `seed` says.
    fn from(self, seed: u64) -> impl Iterator<Item = u16> {
        let length = u64::from(self.last - self.first) + 1;
        let start = u16::try_from(seed % length).unwrap_or_default() + self.first;
        (start..=self.last).chain(self.first..start)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// To be bound.
    pub served: BTreeMap<GatewayPort, u16>,
    /// To be said by the Services: those that are bound, and new ones.
    pub wished: BTreeMap<GatewayPort, u16>,
    /// For what there is none left.
    pub left_out: Vec<GatewayPort>,
}

/// The target port of each claim, the first of which comes first. `known` is what was bound until now, `said` what the Services say.
pub fn assign(
    wanted: &[GatewayPort],
    known: &BTreeMap<GatewayPort, u16>,
    said: &BTreeMap<GatewayPort, u16>,
    range: PortRange,
) -> Assigned {
    let mut assigned = Assigned::default();
    let mut taken: BTreeSet<(u16, Transport)> = BTreeSet::new();
    let kept = |claim: &GatewayPort| known.get(claim).filter(|port| said.get(claim) == Some(port));
    let new = |claim: &GatewayPort| said.get(claim);
    let lost = |claim: &GatewayPort| known.get(claim);
    let claims = wanted.iter();
    let candidates = claims
        .clone()
        .map(|claim| (claim, kept(claim)))
        .chain(claims.clone().map(|claim| (claim, new(claim))))
        .chain(claims.map(|claim| (claim, lost(claim))));
    for (claim, port) in candidates {
        if let Some(port) = port
            && range.contains(*port)
            && !assigned.served.contains_key(claim)
            && taken.insert((*port, claim.transport))
        {
            assigned.served.insert(claim.clone(), *port);
        }
    }
    assigned.wished.clone_from(&assigned.served);
    for claim in wanted {
        if assigned.wished.contains_key(claim) {
            continue;
        }
        let name = format!("{} {}/{}", claim.gateway, claim.port, claim.transport.word());
        let mut free = range.from(super::hash(name.as_bytes()));
        match free.find(|port| taken.insert((*port, claim.transport))) {
            Some(port) => {
                assigned.wished.insert(claim.clone(), port);
            }
            None => assigned.left_out.push(claim.clone()),
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange {
        first: 20_000,
        last: 20_002,
    };

    fn claim(gateway: &str) -> GatewayPort {
        GatewayPort {
            gateway: Id::new("default", gateway),
            port: 80,
            transport: Transport::Tcp,
        }
    }

    /// `a=20000 b=20001`.
    fn table(text: &str) -> BTreeMap<GatewayPort, u16> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs
            .map(|(name, port)| (claim(name), port.parse().unwrap()))
            .collect()
    }

    #[test]
    fn who_has_a_port_keeps_it() {
        for (what, wanted, known, said, served) in [
            ("nothing is said yet", "a b", "", "", ""),
            ("after a restart", "a b", "", "a=20001 b=20000", "a=20001 b=20000"),
            ("as it was", "a b", "a=20001", "a=20001", "a=20001"),
            ("a Service is gone for a moment", "a", "a=20001", "", "a=20001"),
            (
                "somebody moves it to a free one",
                "a",
                "a=20001",
                "a=20002",
                "a=20002",
            ),
            ("out of the range", "a", "a=20001", "a=9900", "a=20001"),
            ("out of the range from the start", "a", "", "a=9900", ""),
            ("the range is another", "a", "a=30000", "a=30000", ""),
            (
                "an older one says that it has it",
                "a b",
                "a=20000 b=20001",
                "a=20001 b=20001",
                "a=20000 b=20001",
            ),
            (
                "two say the same after a restart",
                "a b",
                "",
                "a=20001 b=20001",
                "a=20001",
            ),
            (
                "two swap",
                "a b",
                "a=20000 b=20001",
                "a=20001 b=20000",
                "a=20001 b=20000",
            ),
            ("one goes", "b", "a=20000 b=20001", "a=20000 b=20001", "b=20001"),
            (
                "its port is another's by now",
                "a b",
                "a=20000",
                "b=20000",
                "b=20000",
            ),
        ] {
            let wanted: Vec<GatewayPort> = wanted.split_whitespace().map(claim).collect();
            let assigned = assign(&wanted, &table(known), &table(said), RANGE);
            assert_eq!(assigned.served, table(served), "{what}");
            // All of them are to have one, none the same, and none another than it serves.
            let counts = (assigned.wished.len(), assigned.left_out.len());
            assert_eq!(counts, (wanted.len(), 0), "{what}");
            let ports: BTreeSet<&u16> = assigned.wished.values().collect();
            assert_eq!(ports.len(), wanted.len(), "{what}: {:?}", assigned.wished);
            assert!(ports.iter().all(|port| RANGE.contains(**port)), "{what}");
            let mut served = assigned.served.iter();
            assert!(served.all(|(claim, port)| assigned.wished[claim] == *port));
            // What is wished for is what is served once the Services say it.
            let settled = assign(&wanted, &assigned.served, &assigned.wished, RANGE);
            assert_eq!(settled.served, assigned.wished, "{what}");
            assert_eq!(settled.wished, assigned.wished, "{what}");
        }
    }

    #[test]
    fn what_is_left_without_is_told() {
        let wanted: Vec<GatewayPort> = ["a", "b", "c", "d"].map(claim).into();
        let assigned = assign(&wanted, &BTreeMap::new(), &table("d=20001"), RANGE);
        assert_eq!(assigned.left_out, [claim("c")]);
        assert_eq!(assigned.served, table("d=20001"));
        assert_eq!(assigned.wished.len(), 3);
    }

    #[test]
    fn connections_and_datagrams_are_apart() {
        let both = [Transport::Tcp, Transport::Udp].map(|transport| GatewayPort {
            transport,
            ..claim("dns")
        });
        let said: BTreeMap<GatewayPort, u16> = both.iter().map(|claim| (claim.clone(), 20_000)).collect();
        assert_eq!(assign(&both, &BTreeMap::new(), &said, RANGE).served, said);
    }

    #[test]
    fn a_range_is_two_ports() {
        assert_eq!(PortRange::parse("20000-29999"), Ok(PortRange::DEFAULT));
        assert_eq!(PortRange::DEFAULT.to_string(), "20000-29999");
        let one = PortRange::parse("5000-5000").unwrap();
        assert_eq!(one.from(7).collect::<Vec<_>>(), [5000]);
        assert_eq!(RANGE.from(1).collect::<Vec<_>>(), [20_001, 20_002, 20_000]);
        let most = PortRange::parse("1024-65535").unwrap();
        assert_eq!(most.from(64_511).next(), Some(65_535));
        for (text, why) in [
            ("20000", "write its first and last"),
            ("a-b", "write its first and last"),
            ("20000-70000", "write its first and last"),
            ("20001-20000", "no range of ports from 1024"),
            ("80-90", "no range of ports from 1024"),
        ] {
            let said = PortRange::parse(text).unwrap_err();
            assert!(said.contains(why) && said.contains("20000-29999"), "{said}");
        }
    }
}
