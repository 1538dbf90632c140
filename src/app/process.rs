//! The process's settings while it runs: a reload applies what can be applied, and says what waits for a restart.
//!
//! The drain's times, the access log, the account for ACME and `Proxy-Status` are swapped under traffic. The number of workers, the admin
//! listener and the directory of manifests are built into the process when it starts; a change of theirs is told as
//! left out (log, `/rejects`) and counted (`tidegate_settings_waiting`) until the file says again what is in use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::certificates::Desk;
use super::names::NameDesk;
use crate::config::{AccessLogFormat, AccessLogSettings, AccessLogTarget, DrainSettings, Settings};
use crate::downstream::workers::Workers;
use crate::l7::worker::WorkerSettings;
use crate::model::{Reject, SourceName};
use crate::telemetry::access_log::{AccessLog, Format, Target};
use crate::telemetry::metrics::Metrics;

/// What of the process can change while it runs.
pub(super) struct Process {
    metrics: Arc<Metrics>,
    drain: Mutex<DrainSettings>,
    access_log: Mutex<Option<AccessLog>>,
    desk: Arc<Desk>,
    names: Arc<NameDesk>,
}

/// How long the writer of the access log may take at the end.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

impl Process {
    /// As the settings say at the start.
    pub(super) fn start(
        settings: &Settings,
        metrics: &Arc<Metrics>,
        desk: &Arc<Desk>,
        names: &Arc<NameDesk>,
    ) -> anyhow::Result<Self> {
        let access_log = open(settings.access_log.as_ref(), metrics)?;
        Ok(Self {
            metrics: Arc::clone(metrics),
            drain: Mutex::new(settings.drain.clone()),
            access_log: Mutex::new(access_log),
            desk: Arc::clone(desk),
            names: Arc::clone(names),
        })
    }

    /// What a worker is to know of the settings.
    pub(super) fn for_worker(&self, settings: &Settings) -> WorkerSettings {
        WorkerSettings {
            proxy_status: settings.proxy_status_header,
            access_log: lock(&self.access_log).as_ref().map(AccessLog::handle),
        }
    }

    /// How the process ends, as of now.
    pub(super) fn drain(&self) -> DrainSettings {
        lock(&self.drain).clone()
    }

    /// Opens the access log's file anew, after it was moved away.
    pub(super) fn reopen_access_log(&self) {
        if let Some(log) = &*lock(&self.access_log) {
            log.reopen();
        }
    }

    /// Ends the access log when everything handed over is written.
    pub(super) async fn close(&self) {
        let log = lock(&self.access_log).take();
        if let Some(log) = log {
            let _ = tokio::task::spawn_blocking(move || log.close(LOG_PATIENCE)).await;
        }
    }

    /// Applies what a file says now; gives what is left out. `started`: what it said at the start. `live`: what of it is
    /// in use; an access log that cannot be opened stays as it is there, and is tried again at the next reload.
    pub(super) async fn apply(
        &self,
        workers: &Workers,
        source: &SourceName,
        started: &Settings,
        live: &mut Settings,
        next: &Settings,
    ) -> Vec<Reject> {
        let left_out = |key: &str, reason: String| Reject {
            source: source.clone(),
            object: "settings".to_owned(),
            field: Some(key.to_owned()),
            reason,
        };
        let mut rejects: Vec<Reject> = started
            .needs_restart(next)
            .into_iter()
            .map(|key| {
                left_out(
                    key,
                    "what the file says now takes effect at the next start".to_owned(),
                )
            })
            .collect();
        self.metrics.settings_waiting(rejects.len());

        if live.drain != next.drain {
            live.drain = next.drain.clone();
            *lock(&self.drain) = next.drain.clone();
        }
        if live.acme != next.acme {
            live.acme.clone_from(&next.acme);
            self.desk.set_acme(next.acme.clone());
        }
        if live.dns_refresh != next.dns_refresh {
            live.dns_refresh = next.dns_refresh;
            self.names.set_refresh(next.dns_refresh);
        }
        let mut for_workers = live.proxy_status_header != next.proxy_status_header;
        live.proxy_status_header = next.proxy_status_header;
        if live.access_log != next.access_log {
            match self.open_access_log(next.access_log.clone()).await {
                // The one before ends by itself when the last worker has handed its lines over.
                Ok(log) => {
                    *lock(&self.access_log) = log;
                    live.access_log = next.access_log.clone();
                    for_workers = true;
                }
                Err(error) => rejects.push(left_out(
                    "log.access",
                    format!("{error:#}; the access log stays as it was"),
                )),
            }
        }
        if for_workers {
            workers.set(|| self.for_worker(live)).await;
        }
        rejects
    }

    /// Opening may wait for a file system.
    async fn open_access_log(
        &self,
        settings: Option<AccessLogSettings>,
    ) -> anyhow::Result<Option<AccessLog>> {
        let metrics = Arc::clone(&self.metrics);
        tokio::task::spawn_blocking(move || open(settings.as_ref(), &metrics)).await?
    }
}

fn open(settings: Option<&AccessLogSettings>, metrics: &Arc<Metrics>) -> anyhow::Result<Option<AccessLog>> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let format = match settings.format {
        AccessLogFormat::Json => Format::Json,
        AccessLogFormat::Text => Format::Text,
    };
    let target = match &settings.to {
        AccessLogTarget::Stdout => Target::Stdout,
        AccessLogTarget::Stderr => Target::Stderr,
        AccessLogTarget::File(path) => Target::File(path.clone()),
    };
    let log = AccessLog::start(format, target, Arc::clone(metrics));
    Ok(Some(log.context("cannot start logging accesses")?))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
