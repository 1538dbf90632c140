//! Certificates for tests.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Certificate, Origin};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};

/// A chain and a key in PEM, signed by itself.
pub(crate) fn test_pair(names: &[&str], rsa: bool) -> (String, String) {
    let algorithm: &SignatureAlgorithm = if rsa {
        &PKCS_RSA_SHA256
    } else {
        &PKCS_ECDSA_P256_SHA256
    };
    let key = KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A certificate for these names.
pub(crate) fn test_certificate(names: &[&str], rsa: bool) -> Arc<Certificate> {
    let (chain, key) = test_pair(names, rsa);
    let origin = Origin::Named(names.join(",").into());
    let now = SystemTime::now();
    Arc::new(Certificate::from_pem(origin, chain.as_bytes(), key.as_bytes(), now).unwrap())
}
