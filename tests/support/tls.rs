//! TLS for tests: an authority that signs what a test wants, and clients that trust it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme,
};
use tidegate::model::tls::{Origin, TrustBundle, provider};
use tidegate::model::{Certificate, ListenerTls};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Proxy, Setup, soon};

/// One version alone, for [`Trust::versions`].
pub static V1_2: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub static V1_3: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A chain and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub chain: String,
    pub key: String,
    pub serial: u64,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new("authority")
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("test {name}"));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for these names; one with `://` in it is a URI.
    pub fn sign(&self, names: &[&str]) -> Pair {
        self.sign_with(names, false, |_| {})
    }

    pub fn sign_with(&self, names: &[&str], rsa: bool, edit: impl FnOnce(&mut CertificateParams)) -> Pair {
        let serial = fastrand::u64(1 << 32..1 << 62);
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.into());
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, names[0]);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => match name.parse() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => SanType::DnsName((*name).try_into().unwrap()),
                },
            })
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        edit(&mut params);
        let key = KeyPair::generate_for(if rsa {
            &PKCS_RSA_SHA256
        } else {
            &PKCS_ECDSA_P256_SHA256
        })
        .unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            serial,
        }
    }

    /// A certificate for somebody else's key, in PEM.
    pub fn sign_request(&self, params: &CertificateParams, key: &impl PublicKeyData) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// A list of certificates that are taken back, in PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem("test", self.pem.as_bytes()).unwrap()
    }

    /// A client that trusts it.
    pub fn trusted_by(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
            .unwrap();
        Trust {
            roots: Arc::new(roots),
            versions: rustls::DEFAULT_VERSIONS,
            alpn: vec![b"http/1.1".to_vec()],
            own: None,
            suites: None,
        }
    }
}

impl Pair {
    /// As the model has it.
    pub fn certificate(&self) -> Arc<Certificate> {
        let (chain, key) = (self.chain.as_bytes(), self.key.as_bytes());
        let origin = Origin::Named(self.serial.to_string().into());
        Arc::new(Certificate::from_pem(origin, chain, key, SystemTime::now()).unwrap())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }
}

/// TLS with these certificates.
pub fn with(pairs: &[&Pair]) -> ListenerTls {
    ListenerTls::new(pairs.iter().map(|pair| pair.certificate()).collect()).unwrap()
}

/// What an endpoint behind TLS is made with.
pub fn server(pair: &Pair, alpn: &[&str], clients: Option<&Authority>) -> Arc<rustls::ServerConfig> {
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let roots = Arc::clone(authority.bundle().roots());
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(vec![pair.der()], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A client in the making.
#[derive(Clone)]
pub struct Trust {
    pub roots: Arc<RootCertStore>,
    pub versions: &'static [&'static rustls::SupportedProtocolVersion],
    pub alpn: Vec<Vec<u8>>,
    pub own: Option<Pair>,
    pub suites: Option<Vec<CipherSuite>>,
}

impl Trust {
    pub fn speaking(mut self, alpn: &[&str]) -> Self {
        self.alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub fn versions(mut self, versions: &'static [&'static rustls::SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// Asking for these in this order.
    pub fn suites(mut self, suites: &[CipherSuite]) -> Self {
        self.suites = Some(suites.to_vec());
        self
    }

    pub fn showing(mut self, pair: &Pair) -> Self {
        self.own = Some(pair.clone());
        self
    }

    /// With sessions of its own.
    pub fn config(&self) -> Arc<ClientConfig> {
        let mut able = CryptoProvider::clone(provider());
        if let Some(asked) = &self.suites {
            let place = |suite| asked.iter().position(|one| *one == suite);
            able.cipher_suites.retain(|own| place(own.suite()).is_some());
            able.cipher_suites.sort_by_key(|own| place(own.suite()));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(able))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.own {
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![pair.der()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        Arc::new(config)
    }
}

/// A handshake on a connection of its own. An address as the name: none is asked for.
pub async fn shake(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon(
        "a handshake",
        TlsConnector::from(Arc::clone(config)).connect(name, stream),
    )
    .await
}

/// The certificate that a client was shown.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

pub fn version(stream: &TlsStream<TcpStream>) -> ProtocolVersion {
    stream.get_ref().1.protocol_version().unwrap()
}

impl Setup {
    /// The listener has TLS, and the admin listener says how handshakes end.
    pub fn tls(mut self, tls: ListenerTls) -> Self {
        self.listener.tls = Some(Arc::new(tls));
        self.settings.admin.address = Some(super::proxy::any_port());
        self
    }
}

impl Proxy {
    /// How many handshakes have ended how.
    pub async fn handshakes(&self) -> BTreeMap<String, u64> {
        let admin = self.running.admin.unwrap();
        let mut client = super::Client::connect(super::Down::H1, admin).await;
        let mut asked = super::client::request(http::Method::GET, "/metrics");
        asked
            .headers_mut()
            .insert("host", admin.to_string().try_into().unwrap());
        let answer = client.send(asked).await;
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let mut ends = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("tidegate_tls_handshakes_total{")
                && let Some((labels, count)) = rest.split_once("} ")
                && let Some((_, outcome)) = labels.split_once("outcome=\"")
            {
                *ends.entry(outcome.trim_end_matches('"').to_owned()).or_default() +=
                    count.parse::<u64>().unwrap();
            }
        }
        ends
    }

    /// Waits until so many handshakes have ended so, and no other way but well.
    pub async fn ended(&self, end: &str, count: u64) {
        soon(&format!("{count} handshakes that ended: {end}"), async {
            loop {
                let ends = self.handshakes().await;
                if ends.get(end) == Some(&count) {
                    let others: u64 = ends
                        .iter()
                        .filter(|(other, _)| !["full", "resumed", end].contains(&other.as_str()))
                        .map(|(_, count)| count)
                        .sum();
                    assert_eq!(others, 0, "{ends:?}");
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A client's verifier: trusts everybody who can sign with these schemes.
#[derive(Debug)]
pub struct Able(pub Vec<SignatureScheme>);

impl ServerCertVerifier for Able {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
