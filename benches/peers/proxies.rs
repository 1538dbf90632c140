//! The proxies under test: where their binaries are, how they are configured, started and stopped.
//!
//! Each does the same work with one thread on one core: it adds X-Forwarded-For, -Proto and -Host, keeps upstream connections,
//! logs every access and has metrics on. The configurations are the files in `config/`.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use crate::load::{self, Protocol, Target};
use crate::measure;
use crate::tls::Tls;

/// How long a proxy may take to start.
const READY: Duration = Duration::from_secs(10);

/// A proxy, or nothing between the client and the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Proxy {
    /// No proxy: what the client and the backend take by themselves.
    Direct,
    Tidegate,
    Nginx,
    Haproxy,
    Envoy,
}

/// What is spoken on both sides of the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// HTTP/1.1 keep-alive on both sides.
    H1,
    /// HTTP/2 prior knowledge downstream, HTTP/1.1 upstream.
    H2c,
    /// HTTP/2 prior knowledge on both sides (nginx cannot).
    H2cBoth,
    /// HTTP/1.1 over TLS downstream, HTTP/1.1 in clear text upstream.
    H1Tls,
    /// HTTP/2 over TLS downstream, HTTP/1.1 in clear text upstream.
    H2Tls,
    /// Full TLS handshakes, one after the other; a "request" is a connection with its handshake.
    Handshakes,
    /// Connections relayed as they are, with small messages both ways on them.
    Tcp,
    /// Connections relayed as they are, with bytes in bulk; a "request" is a MiB.
    TcpBulk,
    /// Connections relayed as they are, one after the other, with one message each way; a "request" is a connection.
    TcpConnections,
    /// Two of the same proxy one behind the other, as a client's sidecar and an app's: HTTP/1.1 everywhere.
    Pair,
    /// The same with mTLS between the two.
    PairMtls,
}

/// Which of a pair a proxy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// There is only this one.
    Alone,
    /// The client's: asks the other.
    Front,
    /// The app's: asks the backend.
    Back,
}

impl Role {
    /// A folder's name for what each has of its own.
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Front => "front",
            Self::Back => "back",
        }
    }
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Self::H1 => "HTTP/1.1",
            Self::H2c => "HTTP/2 downstream, HTTP/1.1 upstream",
            Self::H2cBoth => "HTTP/2 downstream and upstream",
            Self::H1Tls => "HTTP/1.1 over TLS",
            Self::H2Tls => "HTTP/2 over TLS downstream, HTTP/1.1 upstream",
            Self::Handshakes => "TLS handshakes (each a \"request\")",
            Self::Tcp => "TCP, small messages (each with its answer a \"request\")",
            Self::TcpBulk => "TCP in bulk (each MiB a \"request\")",
            Self::TcpConnections => "TCP connections (each a \"request\")",
            Self::Pair => "a pair of sidecars, HTTP/1.1",
            Self::PairMtls => "a pair of sidecars, HTTP/1.1, mTLS between them",
        }
    }

    pub fn downstream(self) -> Protocol {
        match self {
            Self::H1
            | Self::H1Tls
            | Self::Handshakes
            | Self::Tcp
            | Self::TcpBulk
            | Self::TcpConnections
            | Self::Pair
            | Self::PairMtls => Protocol::Http1,
            Self::H2c | Self::H2cBoth | Self::H2Tls => Protocol::Http2,
        }
    }

    /// The TLS of the client's side.
    pub fn tls(self) -> Tls {
        match self {
            Self::H1
            | Self::H2c
            | Self::H2cBoth
            | Self::Tcp
            | Self::TcpBulk
            | Self::TcpConnections
            | Self::Pair
            | Self::PairMtls => Tls::None,
            Self::H1Tls | Self::Handshakes => Tls::Http1,
            Self::H2Tls => Tls::Http2,
        }
    }

    /// Is nothing looked into?
    pub fn is_relay(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpBulk | Self::TcpConnections)
    }

    /// Does a request go through two proxies?
    pub fn is_pair(self) -> bool {
        matches!(self, Self::Pair | Self::PairMtls)
    }

    /// Is only counted how much is done, without an open loop?
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Handshakes | Self::TcpBulk | Self::TcpConnections)
    }

    /// Does the proxy speak HTTP/2 with the backend?
    fn upstream_h2(self) -> bool {
        self == Self::H2cBoth
    }
}

/// What a proxy is to be started for.
pub struct Job<'a> {
    pub scenario: Scenario,
    pub backend: SocketAddr,
    pub access_log: bool,
    /// The core for the proxy.
    pub core: usize,
    /// A folder for configurations and logs.
    pub folder: &'a Path,
}

impl Proxy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Tidegate => "Tidegate",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        }
    }

    pub fn can(self, scenario: Scenario) -> bool {
        let behind_tls = scenario.tls() != Tls::None;
        if scenario.is_relay() {
            return matches!(self, Self::Direct | Self::Tidegate | Self::Haproxy);
        }
        if scenario.is_pair() {
            return matches!(self, Self::Tidegate | Self::Haproxy | Self::Envoy);
        }
        !(self == Self::Nginx && scenario.upstream_h2() || self == Self::Direct && behind_tls)
    }

    /// The binary: from the environment (`NGINX_BIN` and so on), else from the usual places.
    pub fn binary(self) -> Option<PathBuf> {
        let (variable, usual): (_, &[&str]) = match self {
            Self::Direct => return None,
            // Cargo builds the binary before a benchmark and tells where it is.
            Self::Tidegate => ("TIDEGATE_BIN", &[env!("CARGO_BIN_EXE_tidegate")]),
            Self::Nginx => ("NGINX_BIN", &["/usr/sbin/nginx", "/usr/local/sbin/nginx"]),
            Self::Haproxy => ("HAPROXY_BIN", &["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"]),
            Self::Envoy => ("ENVOY_BIN", &["/usr/bin/envoy", "/usr/local/bin/envoy"]),
        };
        if let Some(path) = std::env::var_os(variable) {
            return Some(path.into());
        }
        usual.iter().map(PathBuf::from).find(|path| path.exists())
    }

    /// The first number with a dot in what it says about its version.
    pub fn version(self) -> Option<String> {
        let flag = if matches!(self, Self::Nginx | Self::Haproxy) {
            "-v"
        } else {
            "--version"
        };
        let output = Command::new(self.binary()?)
            .arg(flag)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let words = text.split(|c: char| c.is_whitespace() || c == '/');
        let version = words
            .into_iter()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
        version.map(|version| version.split(['-', '~']).next().unwrap_or(version).to_owned())
    }

    /// Writes the configuration and starts the proxy on its core; it answers when this returns. Of a pair, both.
    pub fn start(self, job: &Job<'_>) -> Result<Running> {
        if self == Self::Direct {
            return Ok(Running {
                child: None,
                address: job.backend,
                behind: None,
            });
        }
        if !job.scenario.is_pair() {
            return self.start_one(job, Role::Alone);
        }
        let back = self.start_one(job, Role::Back)?;
        let mut front = self.start_one(
            &Job {
                backend: back.address,
                ..*job
            },
            Role::Front,
        )?;
        front.behind = Some(Box::new(back));
        Ok(front)
    }

    fn start_one(self, job: &Job<'_>, role: Role) -> Result<Running> {
        // A port that was free may be taken a moment later: then the proxy fails to start, and the next port is tried.
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_start(job, role) {
                Err(error) if tries == 3 => {
                    return Err(error.context(format!("{} does not start", self.name())));
                }
                Err(_) => {}
                started => return started,
            }
        }
    }

    fn try_start(self, job: &Job<'_>, role: Role) -> Result<Running> {
        let binary = self
            .binary()
            .with_context(|| format!("no binary of {}", self.name()))?;
        let [from, admin] = free_ports()?;
        // Beside the configuration a log would be a change of its folder, which is watched.
        let logs = job.folder.join("logs").join(role.name());
        fs::create_dir_all(&logs)?;
        let access_log = logs.join("access.log");
        let (file, text) = self.configuration(job, role, (from, admin), &access_log)?;
        let own = job.folder.join(role.name());
        fs::create_dir_all(&own)?;
        let file = own.join(file);
        fs::write(&file, text)?;

        // setpriv: the kernel tells the proxy to end when this program dies, however it dies.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "taskset", "-c", &job.core.to_string()])
            .arg(&binary);
        match self {
            Self::Direct => {}
            Self::Tidegate => {
                command
                    .arg("run")
                    .arg("--config")
                    .arg(&file)
                    .args(["--workers", "1"]);
            }
            Self::Nginx => {
                command.arg("-p").arg(job.folder).arg("-c").arg(&file);
            }
            Self::Haproxy => {
                command.args(["-db", "-f"]).arg(&file);
            }
            Self::Envoy => {
                command.arg("-c").arg(&file);
                command.args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "--log-level",
                    "warn",
                ]);
            }
        }
        // HAProxy cannot open a log file; its log goes to standard output, which is one. It is truncated at each start.
        let output = if self == Self::Haproxy {
            &access_log
        } else {
            &logs.join("output.log")
        };
        let errors = logs.join("errors.log");
        command
            .stdin(Stdio::null())
            .stdout(File::create(output)?)
            .stderr(File::create(&errors)?);
        let child = command
            .spawn()
            .context("setpriv and taskset (util-linux) are needed")?;
        let mut running = Running {
            child: Some(child),
            address: from,
            behind: None,
        };

        // The one behind may want to know who asks; whether it answers, the one before it will tell.
        if role == Role::Back {
            running.await_connection()?;
            return Ok(running);
        }
        let target = Target {
            address: from,
            protocol: job.scenario.downstream(),
            tls: job.scenario.tls(),
            connections: 1,
            streams: 1,
        };
        if let Err(error) = running.await_ready(&target) {
            running.stop();
            let said = fs::read_to_string(&errors).unwrap_or_default();
            bail!("{error:#}; it said: {}", said.trim());
        }
        Ok(running)
    }

    /// The name and the text of the configuration file.
    fn configuration(
        self,
        job: &Job<'_>,
        role: Role,
        (from, admin): (SocketAddr, SocketAddr),
        access_log: &Path,
    ) -> Result<(&'static str, String)> {
        let mtls_down = job.scenario == Scenario::PairMtls && role == Role::Back;
        let mtls_up = job.scenario == Scenario::PairMtls && role == Role::Front;
        let h2_down = job.scenario.downstream() == Protocol::Http2;
        let h2_up = job.scenario.upstream_h2();
        let tls = job.scenario.tls() != Tls::None;
        let alpn = if h2_down { "h2" } else { "http/1.1" };
        let either =
            |condition: bool, yes: &str, no: &str| if condition { yes.to_owned() } else { no.to_owned() };
        let path = access_log.to_str().context("the folder's name is not UTF-8")?;
        let (file, text, own): (_, _, Vec<(&str, String)>) = match self {
            Self::Direct => bail!("nothing to configure"),
            Self::Haproxy if job.scenario.is_relay() => (
                "haproxy.cfg",
                include_str!("config/haproxy-tcp.cfg"),
                vec![
                    (
                        "@LOG_GLOBAL@",
                        either(job.access_log, "    log stdout format raw local0 info", ""),
                    ),
                    (
                        "@LOG_FRONTEND@",
                        either(job.access_log, "    log global\n    option tcplog", ""),
                    ),
                ],
            ),
            Self::Tidegate => (
                "tidegate.yaml",
                include_str!("config/tidegate.yaml"),
                vec![
                    (
                        "@ROUTES@",
                        either(
                            job.scenario.is_relay(),
                            "    protocol: tcp\n    to: b",
                            "routes:\n  - to: b",
                        ),
                    ),
                    (
                        "@TLS@",
                        match mtls_down {
                            true => "    mtls: {mode: strict}".to_owned(),
                            false => either(
                                tls,
                                "    tls: {certificates: [{cert: \"@DIR@/tls.crt\", key: \"@DIR@/tls.key\"}]}",
                                "",
                            ),
                        },
                    ),
                    (
                        "@BACKEND_OPTIONS@",
                        match mtls_up {
                            true => "    mtls: {peers: [\"spiffe://bench.test/*\"]}".to_owned(),
                            false => either(h2_up, "    protocol: h2c", ""),
                        },
                    ),
                    (
                        "@IDENTITY@",
                        either(
                            mtls_down || mtls_up,
                            "identity: {cert: \"@DIR@/id.crt\", key: \"@DIR@/id.key\", ca: \"@DIR@/ca.crt\"}",
                            "",
                        ),
                    ),
                    (
                        "@ACCESS_LOG@",
                        either(
                            job.access_log,
                            &format!("log: {{access: {{format: text, to: \"{path}\"}}}}"),
                            "",
                        ),
                    ),
                ],
            ),
            Self::Nginx => (
                "nginx.conf",
                include_str!("config/nginx.conf"),
                vec![
                    (
                        "@LISTEN_OPTIONS@",
                        either(tls, " ssl", "") + &either(h2_down, " http2", ""),
                    ),
                    (
                        "@TLS@",
                        either(
                            tls,
                            "ssl_certificate @DIR@/tls.crt; ssl_certificate_key @DIR@/tls.key; ssl_protocols TLSv1.2 TLSv1.3;",
                            "",
                        ),
                    ),
                    // Without a buffer nginx makes one more system call per request.
                    (
                        "@ACCESS_LOG@",
                        either(
                            job.access_log,
                            &format!("{path} combined buffer=64k flush=1s"),
                            "off",
                        ),
                    ),
                ],
            ),
            Self::Haproxy => (
                "haproxy.cfg",
                include_str!("config/haproxy.cfg"),
                vec![
                    (
                        "@BIND_OPTIONS@",
                        match (tls, mtls_down) {
                            (_, true) => {
                                " ssl crt @DIR@/id.pem ca-file @DIR@/ca.crt verify required alpn http/1.1"
                                    .to_owned()
                            }
                            (true, _) => format!(" ssl crt @DIR@/tls.pem alpn {alpn}"),
                            (false, _) => either(h2_down, " proto h2", ""),
                        },
                    ),
                    (
                        "@SERVER_OPTIONS@",
                        match mtls_up {
                            true => {
                                " ssl crt @DIR@/id.pem ca-file @DIR@/ca.crt verify required alpn http/1.1"
                                    .to_owned()
                            }
                            false => either(h2_up, " proto h2", ""),
                        },
                    ),
                    (
                        "@LOG_GLOBAL@",
                        either(job.access_log, "    log stdout format raw local0 info", ""),
                    ),
                    (
                        "@LOG_FRONTEND@",
                        either(job.access_log, "    log global\n    option httplog", ""),
                    ),
                ],
            ),
            Self::Envoy => (
                "envoy.yaml",
                include_str!("config/envoy.yaml"),
                vec![
                    (
                        "@ACCESS_LOG@",
                        either(job.access_log, &envoy_access_log(path), ""),
                    ),
                    (
                        "@TLS@",
                        match mtls_down {
                            true => envoy_mtls("Downstream", "require_client_certificate: true, "),
                            false => either(tls, &ENVOY_TLS.replace("@ALPN@", alpn), ""),
                        },
                    ),
                    (
                        "@CLUSTER_OPTIONS@",
                        match mtls_up {
                            true => envoy_mtls("Upstream", ""),
                            false => either(h2_up, ENVOY_H2_UPSTREAM, ""),
                        },
                    ),
                ],
            ),
        };
        let mut text = text.to_owned();
        for (name, value) in own {
            text = text.replace(name, &value);
        }
        let folder = job.folder.to_str().context("the folder's name is not UTF-8")?;
        text = text.replace("@DIR@", folder);
        for (name, address) in [("FROM", from), ("TO", job.backend), ("ADMIN", admin)] {
            text = text.replace(&format!("@{name}@"), &address.to_string());
            text = text.replace(&format!("@{name}_HOST@"), &address.ip().to_string());
            text = text.replace(&format!("@{name}_PORT@"), &address.port().to_string());
        }
        Ok((file, text))
    }
}

/// Flow style: one line, so that the template need not know about indentation.
const ENVOY_H2_UPSTREAM: &str = concat!(
    "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: ",
    "{\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, ",
    "explicit_http_config: {http2_protocol_options: {}}}}",
);

const ENVOY_TLS: &str = concat!(
    "transport_socket: {name: envoy.transport_sockets.tls, typed_config: {\"@type\": ",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: ",
    "{alpn_protocols: [\"@ALPN@\"], tls_params: {tls_maximum_protocol_version: TLSv1_3}, tls_certificates: ",
    "[{certificate_chain: {filename: \"@DIR@/tls.crt\"}, private_key: {filename: \"@DIR@/tls.key\"}}]}}}",
);

/// As Istio has it between sidecars, but for where certificates come from.
fn envoy_mtls(side: &str, own: &str) -> String {
    let context = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    let trust = "{trusted_ca: {filename: \"@DIR@/ca.crt\"}, match_typed_subject_alt_names: \
                 [{san_type: URI, matcher: {prefix: \"spiffe://bench.test/\"}}]}";
    let certificate =
        "{certificate_chain: {filename: \"@DIR@/id.crt\"}, private_key: {filename: \"@DIR@/id.key\"}}";
    format!(
        "transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{\"@type\": {context}, {own}\
         common_tls_context: {{alpn_protocols: [\"http/1.1\"], \
         tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{certificate}], validation_context: {trust}}}}}}}"
    )
}

fn envoy_access_log(path: &str) -> String {
    format!(
        "access_log: [{{name: envoy.access_loggers.file, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: \"{path}\"}}}}]"
    )
}

/// Ports that are free now. Both are held until both are known, so that they differ.
fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no free port")?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

/// A started proxy; it is stopped when this is dropped.
pub struct Running {
    child: Option<Child>,
    address: SocketAddr,
    /// The other one of a pair. It is stopped after this one.
    behind: Option<Box<Running>>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its processes; none without a proxy.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut processes = match &self.child {
            Some(child) => measure::tree(child.id())?,
            None => Vec::new(),
        };
        if let Some(behind) = &self.behind {
            processes.extend(behind.processes()?);
        }
        Ok(processes)
    }

    /// Asks for a connection until there is one.
    fn await_connection(&mut self) -> Result<()> {
        let address = self.address;
        self.await_good(|| TcpStream::connect(address).map(drop).map_err(Into::into))
    }

    /// Asks until the proxy answers well; ends early when its process does.
    fn await_ready(&mut self, target: &Target) -> Result<()> {
        self.await_good(|| load::ask_once(target))
    }

    fn await_good(&mut self, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let Err(error) = ask() else {
                return Ok(());
            };
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("it ended ({status})");
            }
            if Instant::now() > deadline {
                return Err(error.context(format!("not ready after {READY:?}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the process to end, and makes it end after 3 s.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            // It may have ended by itself; then there is nothing to stop.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
