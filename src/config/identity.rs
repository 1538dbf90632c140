//! An identity out of files alone: for a process whose command line names them.
//!
//! They are those of a SPIFFE certificate as cert-manager's csi-driver-spiffe or spiffe-helper write it. Whoever writes them one
//! after another makes a pair that does not fit for a moment; it is refused, and read again when the next file has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::{fingerprint_of, read};
use crate::model::tls::{Origin, Part, TrustBundle};
use crate::model::{Certificate, Identity};

/// The names of the files in a directory: the chain, its key, whom to believe.
pub const NAMES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Where an identity is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, PEM, the own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Who may have signed the certificates of others, PEM.
    pub ca: PathBuf,
}

/// A file's content, or why there is none.
type Bytes = Result<Vec<u8>, String>;

/// What was read.
#[derive(Debug)]
pub struct ReadIdentity {
    /// The identity, or which file is to blame for what.
    pub identity: Result<Arc<Identity>, String>,
    /// The files, each with its content's fingerprint; none: it could not be read.
    pub files: BTreeMap<PathBuf, Option<u64>>,
}

impl IdentityFiles {
    /// All three of a directory.
    pub fn of_directory(directory: &Path) -> Self {
        let [cert, key, ca] = NAMES.map(|name| directory.join(name));
        Self { cert, key, ca }
    }

    /// Reads them. Waits for disks.
    pub fn read(&self) -> ReadIdentity {
        let mut files = BTreeMap::new();
        let mut bytes = |path: &Path| {
            let read = read(path);
            files.insert(path.to_owned(), fingerprint_of(read.as_deref().ok()));
            read.map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        // All are read in any case, so that a change of any is seen.
        let read = (bytes(&self.cert), bytes(&self.key), bytes(&self.ca));
        let identity = self.made_of(read);
        ReadIdentity { identity, files }
    }

    fn made_of(&self, (cert, key, ca): (Bytes, Bytes, Bytes)) -> Result<Arc<Identity>, String> {
        let blame = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let origin = Origin::Files {
            certificate: self.cert.clone(),
            key: self.key.clone(),
        };
        let certificate =
            Certificate::from_pem(origin, &cert?, &key?, SystemTime::now()).map_err(|error| {
                let path = match error.part() {
                    Part::Certificate => &self.cert,
                    Part::Key => &self.key,
                };
                blame(path, &error)
            })?;
        let trust = TrustBundle::from_pem(&self.ca.to_string_lossy(), &ca?)
            .map_err(|error| blame(&self.ca, &error))?;
        let identity =
            Identity::new(Arc::new(certificate), trust).map_err(|error| blame(&self.cert, &error))?;
        Ok(Arc::new(identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_file_to_blame_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = IdentityFiles::of_directory(directory.path());
        let (chain, key) = crate::model::tls::test_pair(&["a.example"], false);
        let (_, other_key) = crate::model::tls::test_pair(&["a.example"], false);
        for (name, content, blamed) in [
            ("tls.crt", &chain, "tls.key cannot be read"),
            ("tls.key", &other_key, "tls.key: the private key does not belong"),
            ("tls.key", &key, "ca.crt cannot be read"),
            ("ca.crt", &key, "ca.crt: there is no certificate"),
            ("ca.crt", &chain, "tls.crt: the certificate has no URI"),
        ] {
            fs::write(path(name), content).unwrap();
            let read = files.read();
            let said = read.identity.unwrap_err();
            assert!(said.contains(blamed), "{said}");
            assert_eq!(read.files.len(), 3);
        }
    }
}
