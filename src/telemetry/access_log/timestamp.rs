//! Timestamps: RFC 3339 in UTC with milliseconds, `2026-01-05T10:11:12.123Z`. Lines of one second
//! share its text, so that the calendar is asked once a second.

/// The last second of year 9999; RFC 3339 knows four digits of a year.
const LAST_SECOND: u64 = 253_402_300_799;

/// Writes timestamps and remembers the text of the last one's second.
#[derive(Debug)]
pub(super) struct Timestamp {
    second: u64,
    text: [u8; 19],
}

impl Timestamp {
    pub(super) fn new() -> Self {
        Self {
            second: 0,
            text: second_text(0),
        }
    }

    /// Writes a time given in microseconds since 1970.
    pub(super) fn write(&mut self, unix_us: u64, out: &mut Vec<u8>) {
        let second = (unix_us / 1_000_000).min(LAST_SECOND);
        if second != self.second {
            self.second = second;
            self.text = second_text(second);
        }
        let millis = unix_us / 1000 % 1000;
        out.extend_from_slice(&self.text);
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

fn second_text(second: u64) -> [u8; 19] {
    let (days, second) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    [
        digit(year / 1000),
        digit(year / 100),
        digit(year / 10),
        digit(year),
        b'-',
        digit(month / 10),
        digit(month),
        b'-',
        digit(day / 10),
        digit(day),
        b'T',
        digit(hour / 10),
        digit(hour),
        b':',
        digit(minute / 10),
        digit(minute),
        b':',
        digit(second / 10),
        digit(second),
    ]
}

/// Year, month and day of a number of days since 1970, after Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>): years begin in March, so that the
/// leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days / 146_097; // of 400 years
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The last decimal digit of a number.
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn text(unix_us: u64) -> String {
        let mut out = Vec::new();
        Timestamp::new().write(unix_us, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_times() {
        for (unix_us, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000Z"),
            (1_767_607_872_123_999, "2026-01-05T10:11:12.123Z"),
            (4_107_542_399_999_000, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(text(unix_us), expected);
        }
        assert!(text(u64::MAX).starts_with("9999-12-31T23:59:59."));
    }

    proptest! {
        #[test]
        fn agrees_with_another_calendar(second in 0..=LAST_SECOND) {
            // `httpdate` writes "Mon, 05 Jan 2026 10:11:12 GMT".
            let other = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let told = text(second * 1_000_000);
            prop_assert_eq!(&told[..4], &other[12..16]);
            prop_assert_eq!(&told[8..10], &other[5..7]);
            prop_assert_eq!(&told[11..19], &other[17..25]);
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let month: usize = told[5..7].parse().unwrap();
            prop_assert_eq!(months[month - 1], &other[8..11]);
        }
    }
}
