//! Whether a challenge listener is healthy: its address in, the outcome of a TLS 1.3 handshake out. Its certificate must be
//! for the site's name, if that is configured, and its key must be the certificate's; who signed it doesn't matter, for
//! clients look at that.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, DnsName, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::{broker::Opener, clock::monotonic};

/// Most characters of what went wrong: a certificate may have many names.
const TROUBLE: usize = 120;

/// Why a check was not passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Not done in time.
    Late,
    /// What went wrong.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("no TLS handshake in time"),
            Self::Failed(why) => write!(f, "no TLS handshake: {why}"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            _ => Self::failed(&error),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::failed(&error)
    }
}

impl Trouble {
    fn failed(error: &dyn fmt::Display) -> Self {
        Self::Failed(error.to_string().chars().take(TROUBLE).collect())
    }
}

/// Makes handshakes.
pub(super) struct Check {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    opener: Opener,
}

impl Check {
    /// `name`: the site's, that the certificate must be for. Connections are `opener`'s.
    ///
    /// # Errors
    /// rustls', which has none for ring.
    pub(super) fn new(name: Option<DnsName<'static>>, opener: Opener) -> Result<Self, Error> {
        let name = name.map(ServerName::DnsName);
        let provider = Arc::new(ring::default_provider());
        let verifier = Presented { provider: Arc::clone(&provider), name: name.clone() };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // A whole handshake each time.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name, opener })
    }

    /// Connects and makes a handshake within `limit`.
    pub(super) fn handshake(&self, at: SocketAddr, limit: Duration) -> Result<(), Trouble> {
        let end = monotonic().plus(limit);
        let left = || match end.since(monotonic()) {
            Duration::ZERO => Err(Trouble::Late),
            left => Ok(left),
        };
        let mut socket = self.opener.check(at, left()?)?;
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(at.ip()));
        let mut tls = ClientConnection::new(Arc::clone(&self.config), name)?;
        while tls.is_handshaking() {
            socket.set_timeout(left()?)?;
            if tls.wants_write() {
                tls.write_tls(&mut socket)?;
            } else {
                if tls.read_tls(&mut socket)? == 0 {
                    return Err(Trouble::Failed("it hung up".to_owned()));
                }
                tls.process_new_packets()?;
            }
        }
        // The end of the handshake, and of the connection, in its good form.
        tls.send_close_notify();
        while tls.wants_write() {
            socket.set_timeout(left()?)?;
            tls.write_tls(&mut socket)?;
        }
        Ok(())
    }
}

/// Takes any certificate for the name, or for whatever, whose key the peer has.
#[derive(Debug)]
struct Presented {
    provider: Arc<CryptoProvider>,
    name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for Presented {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(name) = &self.name {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
