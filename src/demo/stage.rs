//! The stage: the pods, the folder, the proxy and its client; and the hands that carry out the story's steps.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::Options;
use super::folder::{self, Condition, Folder, Written};
use super::load::{Load, Tally};
use super::pod::Pod;
use super::sample;
use super::story::{EXTRA_POD, FIRST_CAST, NEXT_POD, Step};
use crate::app::{self, Running, Source};
use crate::config::Settings;
use crate::kubernetes;

/// Everything that runs.
pub struct Stage {
    proxy: SocketAddr,
    running: Running,
    load: Load,
    folder: Folder,
    /// Also those that have ended, until the next of their name.
    pods: BTreeMap<&'static str, Role>,
    slowest_change: Option<Duration>,
}

/// A name in the story, and who plays it.
#[derive(Debug, Default)]
pub struct Role {
    pod: Option<Pod>,
    /// Where its last pod is or was.
    pub address: Option<SocketAddr>,
    /// Requests that its pods before this one got.
    before: u64,
}

impl Role {
    /// The pod, if it runs.
    pub fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// Requests that arrived at the pods of this name.
    pub fn requests(&self) -> u64 {
        self.before + self.pod.as_ref().map_or(0, Pod::requests)
    }

    fn end(&mut self) {
        if let Some(pod) = self.pod.take() {
            self.before += pod.requests();
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing in the folder had to change.
    Plainly,
    /// A file changed, and the proxy followed after this long.
    Live(Duration),
    /// A file changed, and the proxy has not followed yet.
    NotLive,
    /// Someone else has edited the file, so that it was left alone.
    LeftAlone,
}

/// Where the dashboard usually is.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// How long a change is waited for. A loaded machine may take its time; the story goes on in the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked whether a change is live.
const LOOK: Duration = Duration::from_millis(1);
/// The longest end: the client has gone by then, so that there is nothing to wait for but someone's browser.
const DRAIN: Duration = Duration::from_secs(3);

impl Stage {
    /// Starts pods, writes the folder, starts the proxy and the client, in this order.
    ///
    /// # Errors
    /// A port that is taken, with what to do about it; a folder that cannot be written.
    pub async fn open(options: &Options) -> anyhow::Result<Self> {
        let proxy = free_address(options.port)?;
        let admin = admin_address(options.admin)?;
        let mut folder = Folder::create(options.keep).context("cannot make a folder for the manifests")?;
        let mut pods = BTreeMap::from([(EXTRA_POD, Role::default())]);
        for name in FIRST_CAST {
            let pod = Pod::start(name).await.context("cannot start a pod")?;
            let text = folder::slice(name, service_of(name), pod.address(), Condition::Ready);
            folder.write(&folder::slice_file(name), &text)?;
            let address = Some(pod.address());
            pods.insert(
                name,
                Role {
                    pod: Some(pod),
                    address,
                    before: 0,
                },
            );
        }
        folder.write(folder::GATEWAY_FILE, &folder::gateway(proxy.port()))?;
        folder.write(folder::ROUTE_FILE, &folder::route(100, 0))?;

        let mut settings = Settings {
            workers: options.workers,
            ..Settings::default()
        };
        settings.admin.address = Some(admin);
        settings.drain.timeout = DRAIN;
        let sources = vec![Source::Manifests(
            folder.path().to_owned(),
            kubernetes::Settings::default(),
        )];
        let running = app::start(app::Options { settings, sources }).await?;
        let proxy = running.address(proxy).unwrap_or(proxy);
        let load = Load::start(proxy, options.rate);
        Ok(Self {
            proxy,
            running,
            load,
            folder,
            pods,
            slowest_change: None,
        })
    }

    /// Where the proxy is.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Where its dashboard is.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.running.admin
    }

    /// Where the manifests are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files written and removed since the proxy started.
    pub fn changes(&self) -> u64 {
        self.folder.changes().saturating_sub(FIRST_CAST.len() as u64 + 2)
    }

    /// The longest time from a file's change to its being live.
    pub fn slowest_change(&self) -> Option<Duration> {
        self.slowest_change
    }

    /// Who is who.
    pub fn roles(&self) -> &BTreeMap<&'static str, Role> {
        &self.pods
    }

    /// What the proxy says of itself.
    pub fn sample(&self) -> sample::Sample {
        sample::take(self.running.live())
    }

    /// What the client has seen.
    pub fn tally(&self) -> Tally {
        self.load.tally()
    }

    /// Carries out a step, and waits until the proxy has followed, if it has to.
    ///
    /// # Errors
    /// A file that cannot be written, a pod that cannot be started.
    pub async fn perform(&mut self, step: Step) -> anyhow::Result<Done> {
        match step {
            Step::Behave(name, behaviour) => {
                if let Some(pod) = self.pods.get(name).and_then(Role::pod) {
                    pod.behave(behaviour);
                }
                Ok(Done::Plainly)
            }
            Step::Crash(name) | Step::End(name) => {
                self.role(name).end();
                Ok(Done::Plainly)
            }
            Step::Start(name) => {
                let pod = Pod::start(name).await.context("cannot start a pod")?;
                let address = pod.address();
                let role = self.role(name);
                role.end();
                role.pod = Some(pod);
                role.address = Some(address);
                self.list(name, address, Condition::Ready).await
            }
            Step::Terminate(name) => match self.role(name).address {
                Some(address) => self.list(name, address, Condition::Terminating).await,
                None => Ok(Done::Plainly),
            },
            Step::Remove(name) => {
                let address = self.role(name).address;
                let begin = Instant::now();
                Ok(match self.folder.remove(&folder::slice_file(name))? {
                    Written::NotOurs => Done::LeftAlone,
                    Written::Yes => {
                        self.follow(begin, |live| {
                            address.is_none_or(|address| sample::standing(live, address).is_none())
                        })
                        .await
                    }
                })
            }
            Step::Weights { stable, next } => {
                let before = self.running.live().generation();
                let text = folder::route(stable, next);
                let begin = Instant::now();
                Ok(match self.folder.write(folder::ROUTE_FILE, &text)? {
                    Written::NotOurs => Done::LeftAlone,
                    Written::Yes => self.follow(begin, |live| live.generation() > before).await,
                })
            }
        }
    }

    /// Ends in good order: the client first, then the proxy, the pods last; the folder goes with the stage.
    pub async fn close(self) -> Ending {
        let path = self.folder.path().to_owned();
        let changes = self.changes();
        let tally = self.load.stop().await;
        let sample = sample::take(self.running.live());
        self.running.drain().await;
        drop(self.pods);
        drop(self.folder);
        Ending {
            tally,
            sample,
            changes,
            kept: path.exists().then_some(path),
        }
    }

    fn role(&mut self, name: &'static str) -> &mut Role {
        self.pods.entry(name).or_default()
    }

    async fn list(
        &mut self,
        name: &'static str,
        address: SocketAddr,
        condition: Condition,
    ) -> anyhow::Result<Done> {
        let text = folder::slice(name, service_of(name), address, condition);
        let begin = Instant::now();
        Ok(match self.folder.write(&folder::slice_file(name), &text)? {
            Written::NotOurs => Done::LeftAlone,
            Written::Yes => {
                self.follow(begin, |live| sample::standing(live, address) == Some(condition))
                    .await
            }
        })
    }

    /// Waits until something holds of what is live.
    async fn follow(&mut self, begin: Instant, holds: impl Fn(&app::Live) -> bool) -> Done {
        while !holds(self.running.live()) {
            if begin.elapsed() > PATIENCE {
                return Done::NotLive;
            }
            tokio::time::sleep(LOOK).await;
        }
        let took = begin.elapsed();
        self.slowest_change = self.slowest_change.max(Some(took));
        Done::Live(took)
    }
}

/// What is left at the end.
#[derive(Debug)]
pub struct Ending {
    /// What the client saw.
    pub tally: Tally,
    /// What the proxy last said.
    pub sample: sample::Sample,
    /// Files written and removed.
    pub changes: u64,
    /// The folder, if it is still there.
    pub kept: Option<PathBuf>,
}

fn service_of(pod: &str) -> &'static str {
    if pod == NEXT_POD {
        folder::NEXT
    } else {
        folder::STABLE
    }
}

/// The proxy's address; for port 0 one that is free now. Several processes of one user may share a port (`SO_REUSEPORT`),
/// so that the proxy would not notice that it is taken.
fn free_address(port: u16) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let free = TcpListener::bind(address).and_then(|socket| socket.local_addr());
    free.with_context(|| {
        format!(
            "cannot listen on {address}; choose another port with --port, or --port 0 for any that is free"
        )
    })
}

/// The dashboard's address: the one asked for, or the usual one, or any that is free.
fn admin_address(asked: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
    match asked {
        Some(address) => TcpListener::bind(address)
            .map(|_| address)
            .with_context(|| format!("cannot listen on {address}; choose another address with --admin")),
        None => match TcpListener::bind(DEFAULT_ADMIN) {
            Ok(_) => Ok(DEFAULT_ADMIN),
            Err(_) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        },
    }
}
