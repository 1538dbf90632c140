//! How things stand, for those who ask: readiness, metrics, the admin listener.

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Each name that is wanted, in order.
    pub certificates: Vec<CertificateStatus>,
    /// Orders that have led to a certificate, by this process.
    pub orders_ok: u64,
    /// Orders that came to nothing, by this process.
    pub orders_failed: u64,
    /// What is wrong with the store or its files, if anything.
    pub problem: Option<String>,
}

/// How things stand with one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The name.
    pub name: String,
    /// In a word.
    pub state: State,
    /// The end of its certificate, in seconds since 1970. None: there is none that is good.
    pub not_after: Option<u64>,
    /// When something is done for it next, in seconds since 1970; may have passed while others go first.
    pub next: u64,
    /// Why the last order came to nothing, if it did.
    pub why: Option<String>,
}

/// How things stand with a name, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A certificate is there.
    Good,
    /// One is there, but its renewal fails.
    RenewalFails,
    /// One is being ordered by this process.
    Ordering,
    /// None is there.
    Missing,
}

impl State {
    /// As it is shown.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::RenewalFails => "renewal fails",
            Self::Ordering => "being ordered",
            Self::Missing => "missing",
        }
    }
}

/// Names that a remark tells one by one.
const MAX_TOLD: usize = 5;

impl Status {
    /// What is not well, in a line; empty when all is.
    pub fn remark(&self, now: u64) -> String {
        let mut parts: Vec<String> = self.problem.iter().cloned().collect();
        let missing: Vec<_> = self
            .certificates
            .iter()
            .filter(|one| one.not_after.is_none())
            .collect();
        if !missing.is_empty() {
            let all = self.certificates.len();
            let are = if missing.len() == 1 { "is" } else { "are" };
            parts.push(format!(
                "{} of {all} certificates {are} not there yet",
                missing.len()
            ));
        }
        let failing = self
            .certificates
            .iter()
            .filter(|one| one.state == State::RenewalFails);
        let told: Vec<_> = missing.iter().copied().chain(failing).collect();
        for one in told.iter().take(MAX_TOLD) {
            let why = one
                .why
                .as_deref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            let next = match one.next.saturating_sub(now) {
                0 => String::new(),
                wait => format!(", next try in {}", span(wait)),
            };
            parts.push(format!("{} {}{why}{next}", one.name, one.state.text()));
        }
        if told.len() > MAX_TOLD {
            parts.push(format!("and {} more", told.len() - MAX_TOLD));
        }
        parts.join("; ")
    }
}

/// A time in one unit, as a person would say it.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, state: State, not_after: Option<u64>, why: Option<&str>) -> CertificateStatus {
        CertificateStatus {
            name: name.to_owned(),
            state,
            not_after,
            next: 1300,
            why: why.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_not_well_is_told_in_a_line() {
        let mut status = Status {
            certificates: vec![one("a.example", State::Good, Some(9000), None)],
            ..Status::default()
        };
        assert_eq!(status.remark(1000), "");
        status.certificates.push(one(
            "b.example",
            State::Missing,
            None,
            Some("the authority says no"),
        ));
        status
            .certificates
            .push(one("c.example", State::RenewalFails, Some(9000), Some("away")));
        assert_eq!(
            status.remark(1000),
            "1 of 3 certificates is not there yet; b.example missing: the authority says no, next try in 5 min; \
             c.example renewal fails: away, next try in 5 min"
        );
        status.certificates = (0..9)
            .map(|number| one(&number.to_string(), State::Ordering, None, None))
            .collect();
        status.problem = Some("/store: full".to_owned());
        let remark = status.remark(5000);
        assert!(
            remark.starts_with("/store: full; 9 of 9 certificates are not there yet; 0 being ordered; 1 "),
            "{remark}"
        );
        assert!(remark.ends_with("4 being ordered; and 4 more"), "{remark}");
    }

    #[test]
    fn times_are_told_in_one_unit() {
        for (seconds, expected) in [
            (5, "5 s"),
            (150, "2 min"),
            (7200, "2 h"),
            (90 * 86_400, "90 days"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
