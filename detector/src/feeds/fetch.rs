//! HTTPS: a URL in, its bytes out. Nothing else than HTTPS, nor by a redirect; as many bytes as may be; what may work a
//! moment later is tried again after a random part of a growing time ("full jitter"), so that all hosts that a publisher's
//! trouble stopped don't come back at once.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::Error;
use crate::config::Checksum;

/// The most bytes of a checksum's answer.
const CHECKSUM_MAX: u64 = 4096;

/// How often, and how long between, one is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Times in all.
    pub tries: u32,
    /// The longest pause after the first, twice as long after each more.
    pub pause: Duration,
    /// The longest of all.
    pub pause_max: Duration,
    /// For one try.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { tries: 5, pause: seconds(2), pause_max: seconds(60), answer: seconds(30) }
    }
}

impl Patience {
    /// How long to wait after so many tries; `dice` is any number.
    fn wait(&self, tried: u32, dice: u64) -> Duration {
        let most = self.pause.saturating_mul(1 << tried.min(16)).min(self.pause_max);
        most.mul_f64((dice % 1000) as f64 / 1000.0)
    }
}

/// Fetches.
#[derive(Debug)]
pub struct Fetcher {
    agent: Agent,
    patience: Patience,
    most: u64,
}

impl Fetcher {
    /// Publishers are known by the certificates in this file (PEM); lists are `most` bytes long, at most.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(certificates: &Path, most: u64, patience: Patience) -> Result<Self, Error> {
        let fail = |why: String| Error::Certificates { path: certificates.to_owned(), why };
        let pem = fs::read(certificates).map_err(|error| fail(error.to_string()))?;
        let roots: Vec<Certificate<'static>> = parse_pem(&pem)
            .filter_map(|item| if let Ok(PemItem::Certificate(found)) = item { Some(found) } else { None })
            .collect();
        if roots.is_empty() {
            return Err(fail("there is none in it".to_owned()));
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .https_only(true)
            .timeout_global(Some(patience.answer))
            .max_redirects(3)
            .user_agent(concat!("detector/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls);
        Ok(Self { agent: config.build().new_agent(), patience, most })
    }

    /// A list, if it is the one that its checksum says.
    ///
    /// # Errors
    /// The last try's.
    pub fn list(&self, url: &str, checksum: Option<&Checksum>) -> Result<String, Error> {
        let bytes = self.fetch(url, self.most)?;
        let wanted = match checksum {
            None => None,
            Some(Checksum::Pinned(wanted)) => Some(wanted.clone()),
            // As sha256sum(1) writes it: the digits, then the file's name.
            Some(Checksum::Url(url)) => {
                let answer = self.fetch(url, CHECKSUM_MAX)?;
                let text = String::from_utf8_lossy(&answer);
                Some(text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase())
            }
        };
        let found = hex(&Sha256::digest(&bytes));
        match wanted.filter(|wanted| *wanted != found) {
            Some(wanted) => Err(Error::Checksum { found, wanted: wanted.chars().take(64).collect() }),
            None => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    fn fetch(&self, url: &str, most: u64) -> Result<Vec<u8>, Error> {
        let mut tried = 0;
        loop {
            let error = match self.try_once(url, most) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            tried += 1;
            if tried >= self.patience.tries || !matches!(error, Error::Fetch { transient: true, .. }) {
                return Err(error);
            }
            // std seeds it from the system.
            thread::sleep(self.patience.wait(tried - 1, RandomState::new().hash_one(tried)));
        }
    }

    fn try_once(&self, url: &str, most: u64) -> Result<Vec<u8>, Error> {
        let answer = self.agent.get(url).call();
        answer.and_then(|mut answer| answer.body_mut().with_config().limit(most).read_to_vec()).map_err(|error| {
            Error::Fetch { url: url.to_owned(), transient: is_transient(&error), why: error.to_string() }
        })
    }
}

/// Whether it may work a moment later. A certificate, a missing page or a list too long will be the same then.
fn is_transient(error: &ureq::Error) -> bool {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, StatusCode, Timeout};
    match error {
        StatusCode(status) => matches!(status, 429 | 500 | 502 | 503 | 504),
        Timeout(_) | HostNotFound | ConnectionFailed => true,
        Io(error) => !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput),
        _ => false,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a String can't fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_all_of_chance() {
        let patience = Patience::default();
        let second = Duration::from_secs(1);
        assert_eq!(patience.wait(0, 0), Duration::ZERO);
        assert_eq!(patience.wait(0, 500), second);
        assert_eq!(patience.wait(2, 500), second * 4);
        assert!(patience.wait(40, 999) < patience.pause_max);
    }

    #[test]
    fn a_publisher_in_trouble_holds_up_the_others_for_minutes_at_most() {
        let patience = Patience::default();
        let pauses: Duration = (1..patience.tries).map(|tried| patience.wait(tried - 1, 999)).sum();
        assert!(pauses + patience.answer * patience.tries <= Duration::from_secs(240), "{pauses:?}");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, again) in [(200, false), (404, false), (403, false), (429, true), (500, true), (503, true)] {
            assert_eq!(is_transient(&ureq::Error::StatusCode(status)), again, "{status}");
        }
        assert!(is_transient(&ureq::Error::HostNotFound));
        assert!(is_transient(&ureq::Error::Io(io::ErrorKind::ConnectionReset.into())));
        assert!(!is_transient(&ureq::Error::Io(io::ErrorKind::InvalidData.into())));
        assert!(!is_transient(&ureq::Error::BodyExceedsLimit(1)));
    }

    #[test]
    fn without_certificates_nobody_is_asked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Fetcher::new(file.path(), 1, Patience::default()).unwrap_err().to_string();
        assert!(error.contains("there is none in it") && error.contains("`certificates` in [feeds]"), "{error}");
    }
}
