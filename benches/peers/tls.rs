//! The client's side of a connection, in clear text or behind TLS, and the certificate that all proxies use.
//!
//! TLS is the same work for all: version 1.3, X25519, one ECDSA P-256 certificate, no session taken up again. The client
//! trusts everybody; what a proxy costs does not depend on it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

/// Writes the certificate and its key, each alone and both in one file.
pub fn write_certificate(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["bench.test".to_owned()])?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(folder.join("tls.crt"), &chain)?;
    fs::write(folder.join("tls.key"), &key)?;
    fs::write(folder.join("tls.pem"), chain + &key)?;
    write_identity(folder)
}

/// Writes who both of a pair are, in the same way, and the authority that says so. Both are the same workload: what it costs to look
/// does not depend on the name.
fn write_identity(folder: &Path) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority
        .distinguished_name
        .push(DnType::CommonName, "bench authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(authority, authority_key)?;
    let key = KeyPair::generate()?;
    let mut workload = CertificateParams::new(Vec::new())?;
    let name = "spiffe://bench.test/ns/bench/sa/app".try_into()?;
    workload.subject_alt_names = vec![SanType::URI(name)];
    workload.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    workload.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let chain = workload.signed_by(&key, &authority)?.pem();
    let key = key.serialize_pem();
    fs::write(folder.join("ca.crt"), authority.pem())?;
    fs::write(folder.join("id.crt"), &chain)?;
    fs::write(folder.join("id.key"), &key)?;
    fs::write(folder.join("id.pem"), chain + &key)?;
    Ok(())
}

/// A connection to a proxy.
pub enum Wire {
    Clear(TcpStream),
    Tls(Box<(TcpStream, ClientConnection)>),
}

/// What is agreed on in a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tls {
    None,
    Http1,
    Http2,
}

impl Wire {
    /// Connects; a handshake is over when this returns.
    pub fn open(address: SocketAddr, tls: Tls, patience: Duration) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, patience)
            .with_context(|| format!("no connection to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        if tls == Tls::None {
            return Ok(Self::Clear(stream));
        }
        let config = if tls == Tls::Http2 { &HTTP2 } else { &HTTP1 };
        let name = ServerName::try_from("bench.test")?;
        let mut connection = ClientConnection::new(Arc::clone(config), name)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).context("the handshake")?;
        }
        Ok(Self::Tls(Box::new((stream, connection))))
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(stream) => stream,
            Self::Tls(both) => &both.0,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (stream, connection) = match self {
            Self::Clear(stream) => return stream.read(buffer),
            Self::Tls(both) => (&mut both.0, &mut both.1),
        };
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if connection.read_tls(stream)? == 0 {
                return Ok(0);
            }
            connection.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Tls(both) => {
                both.1.writer().write_all(bytes)?;
                while both.1.wants_write() {
                    both.1.write_tls(&mut both.0)?;
                }
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static HTTP1: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| config(b"http/1.1"));
static HTTP2: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| config(b"h2"));

fn config(protocol: &[u8]) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap_or_else(|error| panic!("TLS 1.3 is there: {error}"));
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
