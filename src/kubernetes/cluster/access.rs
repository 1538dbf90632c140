//! Where the API server is and who we are there.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long a connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the API server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As `kubectl` does: the file of `KUBECONFIG` or `~/.kube/config`, and if there is none, the pod's service account.
    Infer,
    /// A kubeconfig file, with its current context.
    Kubeconfig(PathBuf),
}

/// Why the API server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Neither a kubeconfig nor a service account.
    #[error("there is neither a kubeconfig (KUBECONFIG, ~/.kube/config) nor a pod's service account: {0}")]
    Nowhere(#[source] Box<kube::config::InferConfigError>),
    /// A kubeconfig that is not there or not good.
    #[error("cannot use the kubeconfig {}: {error}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: Box<kube::config::KubeconfigError>,
    },
    /// What it says cannot be used.
    #[error("cannot use the access to the API server: {0}")]
    Unusable(#[source] Box<kube::Error>),
}

impl Access {
    /// A client for the API server. Nothing is asked of it yet.
    ///
    /// # Errors
    /// No configuration, or one that cannot be used.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match self {
            Self::Infer => Config::infer()
                .await
                .map_err(|error| AccessError::Nowhere(Box::new(error)))?,
            Self::Kubeconfig(path) => {
                let failed = |error| AccessError::Kubeconfig {
                    path: path.clone(),
                    error: Box::new(error),
                };
                let file = Kubeconfig::read_from(path).map_err(failed)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(failed)?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // Watches wait, with a bound of their own; trying again is decided where it is known what is at stake.
        config.read_timeout = None;
        config.default_retry = false;
        Client::try_from(config).map_err(|error| AccessError::Unusable(Box::new(error)))
    }
}
