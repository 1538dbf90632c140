//! Texts with units, read strictly: durations, sizes, percentages, statuses, and in [`address`] where things are.
//!
//! All pure: text in, value or [`UnitError`] out. The `show_*` functions are their inverses, used
//! when a configuration is printed with its defaults filled in.

pub mod address;

use std::time::Duration;

use http::StatusCode;

use crate::model::{AdaptiveConcurrency, Concurrency, Fraction, HashKey};

pub use address::{EndpointPlace, endpoint_address, endpoint_place, listen_address, network};

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct UnitError {
    /// The text as given.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
    /// What to write instead.
    pub hint: String,
}

fn fail<T>(text: &str, what: &'static str, hint: impl Into<String>) -> Result<T, UnitError> {
    Err(UnitError {
        text: text.to_owned(),
        what,
        hint: hint.into(),
    })
}

/// Units of time, longest first; a duration names them in this order, each once.
const TIMES: [(&str, u64); 5] = [
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Longest duration: a year. What is longer is a slip.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads `250ms`, `1s`, `1m30s`, `2h`: whole numbers with units h, m, s, ms, us, longest first.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    const WHAT: &str = "a duration";
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return fail(
            text,
            WHAT,
            format!("a unit is missing: write {text}s or {text}ms"),
        );
    }
    let usage = || {
        fail(
            text,
            WHAT,
            "write whole numbers with units h, m, s, ms, us: 1m30s, 250ms",
        )
    };
    if text.is_empty() {
        return usage();
    }
    let (mut rest, mut micros, mut units) = (text, 0u64, TIMES.as_slice());
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest
            .bytes()
            .skip(digits)
            .take_while(u8::is_ascii_alphabetic)
            .count();
        let (number, after) = rest.split_at(digits);
        let Some((unit, after)) = after.split_at_checked(letters) else {
            return usage();
        };
        let Some(at) = units.iter().position(|(name, _)| *name == unit) else {
            return usage();
        };
        let Ok(number) = number.parse::<u64>() else {
            return usage();
        };
        micros = micros.saturating_add(number.saturating_mul(units[at].1));
        units = &units[at + 1..];
        rest = after;
    }
    let total = Duration::from_micros(micros);
    if total > LONGEST {
        return fail(text, "a duration of at most a year", "write less than 8760h");
    }
    Ok(total)
}

/// The inverse of [`duration`]: the longest units first.
pub fn show_duration(duration: Duration) -> String {
    let mut micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (name, size) in TIMES {
        if micros >= size {
            out.push_str(&format!("{}{name}", micros / size));
            micros %= size;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads `64KiB`, `1MiB`, `512B` or a bare number of bytes.
pub fn size(text: &str) -> Result<u64, UnitError> {
    const WHAT: &str = "a size";
    const USAGE: &str = "write a whole number with B, KiB, MiB or GiB: 64KiB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => Some(1),
        unit => SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, size)| *size),
    };
    let Some(factor) = factor else {
        let meant = match unit.to_ascii_lowercase().as_str() {
            "b" => "B",
            "k" | "kb" | "ki" | "kib" => "KiB",
            "m" | "mb" | "mi" | "mib" => "MiB",
            "g" | "gb" | "gi" | "gib" => "GiB",
            _ => return fail(text, WHAT, USAGE),
        };
        return fail(
            text,
            WHAT,
            if number.is_empty() {
                USAGE.to_owned()
            } else {
                format!("did you mean {number}{meant}?")
            },
        );
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
    {
        Some(bytes) => Ok(bytes),
        None => fail(text, WHAT, USAGE),
    }
}

/// The inverse of [`size`]: the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    SIZES
        .iter()
        .find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, size)| format!("{}{name}", bytes / size),
        )
}

/// Reads `20%` or `0.5%`, up to four places after the point and at most 100 %, in lowest terms.
pub fn percent(text: &str) -> Result<Fraction, UnitError> {
    const WHAT: &str = "a percentage";
    let usage = || {
        fail(
            text,
            WHAT,
            "write a number from 0 to 100 with a percent sign: 20%",
        )
    };
    let Some(number) = text.strip_suffix('%') else {
        return if text.parse::<f64>().is_ok_and(f64::is_finite) {
            fail(
                text,
                WHAT,
                format!("a percent sign is missing: did you mean {text}%?"),
            )
        } else {
            usage()
        };
    };
    let (whole, places) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || places.len() > 4 || !digits(whole) || !digits(places) {
        return usage();
    }
    // Ten-thousandths of a percent: millionths of the whole.
    let Ok(millionths) = format!("{whole}{places:0<4}").parse::<u32>() else {
        return usage();
    };
    const ALL: u32 = 1_000_000;
    if millionths > ALL {
        return usage();
    }
    let common = greatest_common_divisor(millionths, ALL);
    Ok(Fraction {
        numerator: millionths / common,
        denominator: ALL / common,
    })
}

/// Reads a percentage without places after the point.
pub fn whole_percent(text: &str) -> Result<u8, UnitError> {
    let share = percent(text)?;
    match u8::try_from(u64::from(share.numerator) * 100 / u64::from(share.denominator)) {
        Ok(whole) if 100 % share.denominator == 0 => Ok(whole),
        Ok(_) | Err(_) => fail(text, "a whole percentage", "write it without a point: 20%"),
    }
}

/// Reads `none` or a whole percentage from 101 to 10000.
pub fn excess(text: &str) -> Result<Option<u32>, UnitError> {
    let number = || text.strip_suffix('%')?.parse::<u32>().ok();
    match number() {
        _ if text == "none" => Ok(None),
        Some(percent @ 101..=10_000) => Ok(Some(percent)),
        _ => fail(text, "a percentage of 101 or more", "write it like 150%, or none"),
    }
}

/// The inverse of [`excess`].
pub fn show_excess(percent: Option<u32>) -> String {
    percent.map_or_else(|| "none".to_owned(), |percent| format!("{percent}%"))
}

/// Most requests that a limit on concurrency may allow.
pub const MOST_CONCURRENT: u32 = 1_000_000;

/// Reads `none`, `adaptive` or a number of requests.
pub fn concurrency(text: &str) -> Result<Option<Concurrency>, UnitError> {
    match (text, text.parse::<u32>()) {
        ("none", _) => Ok(None),
        ("adaptive", _) => Ok(Some(Concurrency::Adaptive(AdaptiveConcurrency::default()))),
        (_, Ok(limit @ 1..=MOST_CONCURRENT)) => Ok(Some(Concurrency::Fixed(limit))),
        _ => fail(
            text,
            "a number of requests from 1 to 1000000",
            "write it like 200, or adaptive, or none",
        ),
    }
}

/// The inverse of [`concurrency`].
pub fn show_concurrency(concurrency: Option<Concurrency>) -> String {
    match concurrency {
        None => "none".to_owned(),
        Some(Concurrency::Adaptive(_)) => "adaptive".to_owned(),
        Some(Concurrency::Fixed(limit)) => limit.to_string(),
    }
}

/// Reads a part of a request: `source`, `path`, `header:NAME`, `cookie:NAME`.
pub fn hash_key(text: &str) -> Result<HashKey, UnitError> {
    HashKey::parse(text).map_or_else(
        || {
            let hint = "write source, path, header:NAME or cookie:NAME";
            fail(text, "a part of the request", hint)
        },
        Ok,
    )
}

/// The inverse of [`percent`].
pub fn show_percent(share: Fraction) -> String {
    let millionths = u64::from(share.numerator) * 1_000_000 / u64::from(share.denominator.max(1));
    let (whole, places) = (millionths / 10_000, millionths % 10_000);
    if places == 0 {
        format!("{whole}%")
    } else {
        format!("{whole}.{}%", format!("{places:04}").trim_end_matches('0'))
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a.max(1)
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// Reads `200` or `200-299`; both ends belong to it.
pub fn status_range(text: &str) -> Result<(StatusCode, StatusCode), UnitError> {
    let usage = || {
        fail(
            text,
            "a range of statuses",
            "write statuses from 100 to 599: 200-299 or 204",
        )
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (status(low.trim()), status(high.trim())) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => usage(),
    }
}

/// Reads statuses and ranges of them with commas between.
pub fn status_ranges(text: &str) -> Result<Vec<(StatusCode, StatusCode)>, UnitError> {
    text.split(',').map(|range| status_range(range.trim())).collect()
}

/// The inverse of [`status_ranges`].
pub fn show_status_ranges(ranges: &[(StatusCode, StatusCode)]) -> String {
    let shown: Vec<_> = ranges.iter().map(|range| show_status_range(*range)).collect();
    shown.join(",")
}

/// The inverse of [`status_range`].
pub fn show_status_range((low, high): (StatusCode, StatusCode)) -> String {
    if low == high {
        low.as_str().to_owned()
    } else {
        format!("{}-{}", low.as_str(), high.as_str())
    }
}

/// A status from 100 to 599.
pub fn status(text: &str) -> Option<StatusCode> {
    text.parse::<StatusCode>()
        .ok()
        .filter(|status| status.as_u16() < 600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let micros = Duration::from_micros;
        for (text, expected) in [
            ("1s", micros(1_000_000)),
            ("250ms", micros(250_000)),
            ("1m30s", micros(90_000_000)),
            ("2h", micros(7_200_000_000)),
            ("1h1m1s1ms1us", micros(3_661_001_001)),
            ("0s", micros(0)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
            assert_eq!(show_duration(expected), text);
        }
        assert_eq!(duration("90s"), duration("1m30s"));
        assert_eq!(
            duration("5").unwrap_err().hint,
            "a unit is missing: write 5s or 5ms"
        );
        for bad in [
            "",
            "s",
            "1",
            "1 s",
            "1.5s",
            "-1s",
            "1S",
            "1s1m",
            "1s1s",
            "1d",
            "é",
            "1é",
            "9000h",
            "99999999999999999999s",
        ] {
            assert!(duration(bad).is_err(), "{bad:?} is no duration");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64KiB", 65536),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("512B", 512),
            ("0B", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(size("1000"), Ok(1000));
        assert_eq!(size("64kb").unwrap_err().hint, "did you mean 64KiB?");
        for bad in [
            "",
            "KiB",
            "1.5MiB",
            "-1",
            "1 KiB",
            "1TB",
            "99999999999999999999",
            "18446744073709551615KiB",
            "é",
        ] {
            assert!(size(bad).is_err(), "{bad:?} is no size");
        }
    }

    #[test]
    fn percentages() {
        for (text, numerator, denominator) in [
            ("20%", 1, 5),
            ("100%", 1, 1),
            ("0%", 0, 1),
            ("0.5%", 1, 200),
            ("33.3333%", 333_333, 1_000_000),
        ] {
            let expected = Fraction {
                numerator,
                denominator,
            };
            assert_eq!(percent(text), Ok(expected), "{text}");
            assert_eq!(show_percent(expected), text);
        }
        assert_eq!(whole_percent("35%"), Ok(35));
        assert!(whole_percent("0.5%").is_err());
        assert_eq!(
            percent("20").unwrap_err().hint,
            "a percent sign is missing: did you mean 20%?"
        );
        for bad in [
            "",
            "%",
            "101%",
            "-1%",
            "1.%%",
            "1.23456%",
            ".5%",
            "1000%",
            "é%",
            "100.0001%",
        ] {
            assert!(percent(bad).is_err(), "{bad:?} is no percentage");
        }
    }

    #[test]
    fn statuses() {
        for (text, good) in [
            ("200", true),
            ("200-299", true),
            ("299-200", false),
            ("600", false),
            ("2xx", false),
        ] {
            match status_range(text) {
                Ok(range) => assert_eq!((show_status_range(range).as_str(), good), (text, true)),
                Err(_) => assert!(!good, "{text}"),
            }
        }
    }
}
