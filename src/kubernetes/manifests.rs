//! stub
pub struct Manifests;
pub struct OpenError;
