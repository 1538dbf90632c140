//! The folder of Kubernetes objects that the demo writes and the proxy follows.
//!
//! Files are written whole: to a hidden name first, then renamed, so that nobody ever reads half of one. A file that
//! someone else has edited is theirs from then on: the story leaves it alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder; removed when dropped, unless it shall be kept.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    keep: bool,
    /// What was last written, by file name.
    written: BTreeMap<String, String>,
    changes: u64,
}

/// Whether a file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was.
    Yes,
    /// Someone else has edited or removed it.
    NotOurs,
}

impl Folder {
    /// Makes a new folder that only this user may read, in the system's place for temporary files.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(keep: bool) -> io::Result<Self> {
        let name = format!("tidegate-demo-{}-{:04x}", std::process::id(), fastrand::u16(..));
        let path = std::env::temp_dir().join(name);
        // Not "create all": that would take a folder that someone else has laid there.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self {
            path,
            keep,
            written: BTreeMap::new(),
            changes: 0,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files written and removed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Puts a file in its place, whole.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, name: &str, text: &str) -> io::Result<Written> {
        if !self.is_ours(name) {
            return Ok(Written::NotOurs);
        }
        // Names that begin with a dot are not read as manifests.
        let hidden = self.path.join(format!(".{name}.new"));
        fs::write(&hidden, text)?;
        fs::rename(&hidden, self.path.join(name))?;
        self.written.insert(name.to_owned(), text.to_owned());
        self.changes += 1;
        Ok(Written::Yes)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&mut self, name: &str) -> io::Result<Written> {
        if !self.is_ours(name) {
            return Ok(Written::NotOurs);
        }
        fs::remove_file(self.path.join(name))?;
        self.written.remove(name);
        self.changes += 1;
        Ok(Written::Yes)
    }

    /// Whether a file is as it was last written; one that never was must not be there.
    fn is_ours(&self, name: &str) -> bool {
        fs::read_to_string(self.path.join(name)).ok().as_ref() == self.written.get(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path); // nobody is left to be told
        }
    }
}

/// The Service that the demo balances.
pub const STABLE: &str = "checkout";
/// The canary's Service.
pub const NEXT: &str = "checkout-next";
/// The file of the HTTPRoute.
pub const ROUTE_FILE: &str = "route.yaml";
/// The file of the Gateway and the Services.
pub const GATEWAY_FILE: &str = "gateway.yaml";

/// The file of a pod's EndpointSlice.
pub fn slice_file(pod: &str) -> String {
    format!("{pod}.yaml")
}

/// The Gateway, on a port of the loopback, and both Services.
pub fn gateway(port: u16) -> String {
    format!(
        "# Where requests come in, and the two Services that answer them.
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: demo }}
spec:
  gatewayClassName: tidegate
  addresses: [{{ value: 127.0.0.1 }}]
  listeners:
    - {{ name: http, port: {port}, protocol: HTTP }}
---
# Try tidegate.dev/balance: round-robin (or random, least-request) and see the difference.
apiVersion: v1
kind: Service
metadata:
  name: {STABLE}
  annotations:
    tidegate.dev/balance: least-latency
spec:
  ports: [{{ port: 80 }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: {NEXT} }}
spec:
  ports: [{{ port: 80 }}]
"
    )
}

/// The HTTPRoute with its weights.
pub fn route(stable: u32, next: u32) -> String {
    format!(
        "# Change the weights and save: it is live some ten milliseconds later. Make a mistake: it is
# reported, and what was good stays.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {STABLE} }}
spec:
  parentRefs: [{{ name: demo }}]
  rules:
    - backendRefs:
        - {{ name: {STABLE}, port: 80, weight: {stable} }}
        - {{ name: {NEXT}, port: 80, weight: {next} }}
      # A pod that does not answer in time, or answers with one of these, is not asked again for
      # this request: another one is.
      timeouts: {{ request: 15s, backendRequest: 500ms }}
      retry:
        attempts: 3
        codes: [500, 502, 503, 504]
"
    )
}

/// What an EndpointSlice says of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes requests.
    Ready,
    /// It is ending, and still answers.
    Terminating,
}

/// The EndpointSlice of one pod. Pods of the demo share an address and differ in the port, so that each has its own slice.
pub fn slice(pod: &str, service: &str, address: SocketAddr, condition: Condition) -> String {
    let conditions = match condition {
        Condition::Ready => "ready: true",
        Condition::Terminating => "ready: false, serving: true, terminating: true",
    };
    format!(
        "# One pod of Service {service}. Remove this file, or say ready: false: no request goes there any more.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {pod}
  labels: {{ kubernetes.io/service-name: {service} }}
addressType: IPv4
ports: [{{ port: {} }}]
endpoints:
  - addresses: [{}]
    conditions: {{ {conditions} }}
    targetRef: {{ kind: Pod, name: {pod} }}
",
        address.port(),
        address.ip()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::{Manifests, Settings};
    use crate::model::{BackendTarget, EndpointState, World};

    fn world_of(folder: &Folder) -> World {
        let (_, delta, rejects) = Manifests::open(folder.path(), Settings::default()).unwrap();
        assert_eq!(rejects, []);
        let mut world = World::default();
        world.apply(&delta);
        world
    }

    #[test]
    fn the_files_are_good_objects_and_say_what_they_should() {
        let mut folder = Folder::create(false).unwrap();
        folder.write(GATEWAY_FILE, &gateway(8080)).unwrap();
        folder.write(ROUTE_FILE, &route(80, 20)).unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for (pod, service, port, condition) in [
            ("checkout-1", STABLE, 4001, Condition::Ready),
            ("checkout-2", STABLE, 4002, Condition::Terminating),
            ("checkout-v2", NEXT, 4003, Condition::Ready),
        ] {
            let text = slice(pod, service, address(port), condition);
            folder.write(&slice_file(pod), &text).unwrap();
        }

        let world = world_of(&folder);
        let listener = world.listeners.values().next().unwrap();
        assert_eq!(listener.address, address(8080));
        let rule = &world.routes.values().next().unwrap().rules[0];
        let shares: Vec<_> = rule
            .backends
            .iter()
            .map(|share| match &share.target {
                BackendTarget::Backend(name) => (name.as_str(), share.weight),
                BackendTarget::Invalid(why) => panic!("{why}"),
            })
            .collect();
        assert_eq!(
            shares,
            [("default/checkout:80", 80), ("default/checkout-next:80", 20)]
        );
        assert_eq!(rule.retry.attempts, 4);
        assert!(rule.timeouts.per_try.is_some());
        let endpoints: Vec<_> = world
            .endpoints
            .values()
            .flat_map(|endpoints| endpoints.iter())
            .map(|endpoint| {
                (
                    endpoint.label.as_deref().unwrap(),
                    endpoint.address,
                    endpoint.state,
                )
            })
            .collect();
        assert_eq!(
            endpoints,
            [
                ("checkout-v2", address(4003), EndpointState::Active),
                ("checkout-1", address(4001), EndpointState::Active),
                ("checkout-2", address(4002), EndpointState::Draining),
            ]
        );
    }

    #[test]
    fn a_file_that_someone_else_edited_is_left_alone() {
        let mut folder = Folder::create(false).unwrap();
        assert_eq!(folder.write("a.yaml", "1").unwrap(), Written::Yes);
        assert_eq!(folder.write("a.yaml", "2").unwrap(), Written::Yes);
        fs::write(folder.path().join("a.yaml"), "mine").unwrap();
        assert_eq!(folder.write("a.yaml", "3").unwrap(), Written::NotOurs);
        assert_eq!(folder.remove("a.yaml").unwrap(), Written::NotOurs);
        assert_eq!(fs::read_to_string(folder.path().join("a.yaml")).unwrap(), "mine");
        folder.write("b.yaml", "1").unwrap();
        fs::remove_file(folder.path().join("b.yaml")).unwrap();
        assert_eq!(folder.write("b.yaml", "2").unwrap(), Written::NotOurs);
        assert_eq!(folder.changes(), 3);
    }

    #[test]
    fn the_folder_goes_with_its_owner_unless_it_is_kept() {
        let folder = Folder::create(false).unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());

        let kept = Folder::create(true).unwrap();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.exists());
        fs::remove_dir_all(path).unwrap();
    }
}
