//! Names of the things in a model: one type each, so that a backend's name is never taken for a route's.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name from its text. Any text is a name; sources choose a form that is unique to them.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

name!(
    /// A listener: `http` in a file, `namespace/gateway/listener` in Kubernetes.
    ListenerName
);
name!(
    /// A route: its name in a file, `kind/namespace/name` in Kubernetes.
    RouteName
);
name!(
    /// A backend: its name in a file, `namespace/service:port` in Kubernetes.
    BackendName
);
name!(
    /// Where parts of the model come from: a file's path, a directory, an API server.
    SourceName
);
