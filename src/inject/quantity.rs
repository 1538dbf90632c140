//! Amounts as Kubernetes writes them: `100m` CPU, `64Mi` of memory.

use std::fmt;
use std::str::FromStr;

/// An amount of CPU or memory, with the text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// In billionths, so that every unit is whole.
    nano: u128,
}

/// Units and what they are worth, in billionths.
const UNITS: [(&str, u128); 16] = [
    ("Ki", 1_000_000_000 << 10),
    ("Mi", 1_000_000_000 << 20),
    ("Gi", 1_000_000_000 << 30),
    ("Ti", 1_000_000_000 << 40),
    ("Pi", 1_000_000_000 << 50),
    ("Ei", 1_000_000_000 << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", 1_000_000_000_000),
    ("M", 1_000_000_000_000_000),
    ("G", 1_000_000_000_000_000_000),
    ("T", 1_000_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000_000_000),
    ("", 1_000_000_000),
];

/// Digits before and after the point: more than any amount has, fewer than would overflow.
const MAX_DIGITS: usize = 9;

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no amount; write 100m or 2 for CPU, 64Mi or 1Gi for memory");
        let end = text
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let is_short =
            |digits: &str| digits.len() <= MAX_DIGITS && digits.bytes().all(|one| one.is_ascii_digit());
        if whole.is_empty() || !is_short(whole) || !is_short(part) {
            return Err(wrong());
        }
        let worth = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let digits: u128 = format!("{whole}{part:0<MAX_DIGITS$}")
            .parse()
            .map_err(|_| wrong())?;
        let scale = 10_u128.pow(MAX_DIGITS as u32);
        // At most 18 digits times 2⁶⁰ · 10⁹: below 2¹⁵⁰ it would not fit, so units that large take fewer.
        let nano = digits.checked_mul(worth).ok_or_else(wrong)? / scale;
        match nano {
            0 => Err(format!("{text:?} is nothing; leave it out instead")),
            nano => Ok(Self {
                text: text.to_owned(),
                nano,
            }),
        }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.nano.cmp(&other.nano))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_compared() {
        let read = |text: &str| text.parse::<Quantity>().unwrap();
        for (less, more) in [
            ("100m", "1"),
            ("0.5", "501m"),
            ("1M", "1Mi"),
            ("1023Ki", "1Mi"),
            ("1.5Gi", "1537Mi"),
            ("999n", "1u"),
            ("1k", "1Ki"),
            ("0.000000001", "2n"),
        ] {
            assert!(read(less) < read(more), "{less} {more}");
        }
        assert!(read("1000m") >= read("1") && read("1") >= read("1000m"));
        assert_eq!(read("64Mi").to_string(), "64Mi");
    }

    #[test]
    fn what_is_no_amount_is_explained() {
        for (text, part) in [
            ("", "is no amount"),
            ("Mi", "is no amount"),
            (".5", "is no amount"),
            ("1.2.3", "is no amount"),
            ("-1", "is no amount"),
            ("64MB", "is no amount"),
            ("1e3", "is no amount"),
            ("64 Mi", "is no amount"),
            ("12345678901", "is no amount"),
            ("999999999Ei", "is no amount"),
            ("0", "is nothing"),
            ("0m", "is nothing"),
        ] {
            let said = text.parse::<Quantity>().unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
