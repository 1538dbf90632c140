//! From the file's shape to the model. Each part is a small function that takes the pass, complains
//! to it and goes on with a default, so that one pass finds everything; a model with a complaint is
//! thrown away by the caller.

mod acme;
mod backend;
mod clash;
mod filter;
mod listener;
mod matching;
mod mtls;
mod names;
mod route;
mod tls;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Findings};
use super::place::{Place, Placed};
use super::raw::text::{DurationOrNone, DurationText, SizeText};
use super::raw::{RawAdmin, RawConfig, RawLog, RawLogFormat};
use super::settings::{
    AccessLogFormat, AccessLogSettings, AccessLogTarget, AdminSettings, DrainSettings, Settings,
};
use super::units::{self, UnitError};
use crate::model::World;
use names::Names;

/// What a file asks for.
pub struct Converted {
    /// The model.
    pub world: World,
    /// The settings.
    pub settings: Settings,
    /// Other files that it names and that were read, each with its content's fingerprint; none: it could not be read.
    pub files: BTreeMap<PathBuf, Option<u64>>,
    /// What there is to say. When there is an error among it, the rest is of no use.
    pub found: Vec<Diagnostic>,
    /// What there is to say if no cluster is followed.
    pub wants_cluster: Vec<Diagnostic>,
}

/// The model and settings of a file, and what there is to say about them. Relative paths start at
/// `directory`, if one is given.
pub fn convert(raw: &RawConfig, directory: Option<&Path>) -> Converted {
    let mut pass = Pass {
        directory: directory.map(Path::to_owned),
        ..Pass::default()
    };
    let settings = settings(&mut pass, raw);
    let identity = mtls::identity(&mut pass, raw);
    let mut world = World {
        identity: identity.clone(),
        ..World::default()
    };
    let known = mtls::Known::new(raw, identity.as_deref());
    let listeners = listener::listeners(&mut pass, raw, &known);
    acme::check(&mut pass, raw, &listeners);
    let mut names = Names::new(&listeners);
    backend::backends(&mut pass, raw, &known, &mut names, &mut world);
    let routes = match raw.has_settings_alone() {
        true => Vec::new(),
        false => route::routes(&mut pass, raw, &mut names, &mut world),
    };
    clash::listeners(&mut pass, &listeners, raw, settings.admin.address);
    clash::routes(&mut pass, &listeners, &routes);
    // With an error it is likely what keeps the backend from being used.
    if !pass.found.has_errors() {
        names.warn_of_unused(&mut pass);
    }
    for (listener, _) in listeners {
        world.listeners.insert(listener.name.clone(), listener.into());
    }
    for (route, _) in routes {
        world.routes.insert(route.name.clone(), route.into());
    }
    Converted {
        world,
        settings,
        files: pass.files,
        found: pass.found.into_items(),
        wants_cluster: pass.wants_cluster,
    }
}

/// Longest time for anything that waits: a day.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Shortest time for anything that must have a chance to happen.
const SHORT: Duration = Duration::from_millis(1);

/// One pass over a file: collects what is wrong.
#[derive(Default)]
struct Pass {
    found: Findings,
    /// Where relative paths start.
    directory: Option<PathBuf>,
    /// Other files that were read.
    files: BTreeMap<PathBuf, Option<u64>>,
    /// What is wrong if no cluster is followed; the file does not say whether one is.
    wants_cluster: Vec<Diagnostic>,
}

impl Pass {
    /// A path of the file, from where the file is.
    fn path_of(&self, text: &str) -> PathBuf {
        match &self.directory {
            Some(directory) => directory.join(text),
            None => PathBuf::from(text),
        }
    }

    fn say(&mut self, diagnostic: Diagnostic) {
        self.found.say(diagnostic);
    }

    fn error(&mut self, place: Place, message: impl Into<String>) {
        self.say(Diagnostic::error(place, message));
    }

    /// The value of a text with a unit; none when it is wrong, which is said.
    fn unit<T>(&mut self, place: Place, read: Result<T, UnitError>) -> Option<T> {
        read.map_err(|error| self.say(Diagnostic::error(place, error.to_string()).hint(error.hint)))
            .ok()
    }

    fn duration(
        &mut self,
        name: &str,
        text: Option<&DurationText>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = text else { return default };
        let Some(duration) = self.unit(text.place(), units::duration(text.text())) else {
            return default;
        };
        self.within(name, text.place(), duration, range, default, units::show_duration)
    }

    fn duration_or_none(
        &mut self,
        name: &str,
        text: Option<&DurationOrNone>,
        default: Option<Duration>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(text) = text else { return default };
        if text.text() == "none" {
            return None;
        }
        let read = units::duration(text.text()).map_err(|error| UnitError {
            hint: format!("{}, or none", error.hint),
            ..error
        });
        let duration = self.unit(text.place(), read)?;
        Some(self.within(
            name,
            text.place(),
            duration,
            range,
            Duration::ZERO,
            units::show_duration,
        ))
    }

    fn size(&mut self, name: &str, text: Option<&SizeText>, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some(text) = text else { return default };
        let Some(bytes) = self.unit(text.place(), units::size(text.text())) else {
            return default;
        };
        let range = u64::from(*range.start())..=u64::from(*range.end());
        let bytes = self.within(
            name,
            text.place(),
            bytes,
            range,
            u64::from(default),
            units::show_size,
        );
        u32::try_from(bytes).unwrap_or(default)
    }

    fn count(
        &mut self,
        name: &str,
        number: Option<&Placed<u32>>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        match number {
            Some(number) => self.within(name, number.place, number.value, range, default, |n| {
                n.to_string()
            }),
            None => default,
        }
    }

    fn within<T: PartialOrd + Copy, S: Display>(
        &mut self,
        name: &str,
        place: Place,
        value: T,
        range: RangeInclusive<T>,
        default: T,
        show: impl Fn(T) -> S,
    ) -> T {
        if range.contains(&value) {
            return value;
        }
        let (low, high) = (show(*range.start()), show(*range.end()));
        self.error(
            place,
            format!("{name} must be from {low} to {high}, not {}", show(value)),
        );
        default
    }
}

fn settings(pass: &mut Pass, raw: &RawConfig) -> Settings {
    // More threads than this are a slip; the largest machines have about as many cores.
    let workers = raw
        .workers
        .as_ref()
        .map(|workers| pass.count("workers", Some(workers), 1, 1..=1024) as usize);
    let drain = DrainSettings::default();
    let lag = raw.drain.as_ref().and_then(|drain| drain.lag.as_ref());
    let timeout = raw.drain.as_ref().and_then(|drain| drain.timeout.as_ref());
    let manifests = raw.manifests.as_ref().map(|text| {
        if text.text().is_empty() {
            pass.error(text.place, "manifests is an empty path");
        }
        pass.path_of(text.text())
    });
    if let Some(zone) = &raw.zone
        && zone.text().is_empty()
    {
        pass.error(zone.place, "zone is an empty name");
    }
    Settings {
        zone: raw.zone.as_ref().map(|zone| zone.text().to_owned()),
        workers,
        admin: admin(pass, raw.admin.as_ref()),
        access_log: raw.log.as_ref().and_then(|log| access_log(pass, log)),
        proxy_status_header: raw.proxy_status_header.as_ref().is_none_or(|on| on.value),
        drain: DrainSettings {
            lag: pass.duration("lag", lag, drain.lag, Duration::ZERO..=DAY),
            timeout: pass.duration("timeout", timeout, drain.timeout, Duration::ZERO..=DAY),
            while_busy: raw
                .drain
                .as_ref()
                .and_then(|drain| drain.while_busy.as_ref())
                .map_or(drain.while_busy, |busy| busy.value),
        },
        manifests,
        identity: mtls::agent(pass, raw),
        acme: acme::acme(pass, raw.acme.as_ref()),
        dns_refresh: pass.duration(
            "refresh",
            raw.dns.as_ref().and_then(|dns| dns.refresh.as_ref()),
            Settings::default().dns_refresh,
            Duration::from_secs(1)..=DAY,
        ),
    }
}

fn admin(pass: &mut Pass, raw: Option<&RawAdmin>) -> AdminSettings {
    let default = AdminSettings::default();
    let Some(raw) = raw else { return default };
    let address = raw.address.as_ref().map_or(default.address, |text| {
        pass.unit(text.place(), units::listen_address(text.text()))
    });
    AdminSettings {
        address: address.filter(|_| raw.enabled.as_ref().is_none_or(|enabled| enabled.value)),
    }
}

fn access_log(pass: &mut Pass, raw: &RawLog) -> Option<AccessLogSettings> {
    let raw = raw.access.as_ref()?;
    let format = match raw.format {
        Some(RawLogFormat::Text) => AccessLogFormat::Text,
        Some(RawLogFormat::Json) | None => AccessLogFormat::Json,
    };
    let to = match &raw.to {
        None => AccessLogTarget::default(),
        Some(text) => match text.text() {
            "stdout" => AccessLogTarget::Stdout,
            "stderr" => AccessLogTarget::Stderr,
            path if path.contains('/') => AccessLogTarget::File(pass.path_of(path)),
            other => {
                let hint = super::diagnostic::nearest(other, ["stdout", "stderr"]).map_or_else(
                    || format!("write stdout, stderr or a path like ./{other}"),
                    |nearest| format!("did you mean {nearest:?}?"),
                );
                pass.say(
                    Diagnostic::error(text.place, format!("{other:?} is no place for the access log"))
                        .hint(hint),
                );
                AccessLogTarget::default()
            }
        },
    };
    Some(AccessLogSettings { format, to })
}
