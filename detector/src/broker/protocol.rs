//! What the daemon asks of the socket broker: one JSON object a line, as on the control socket; one request, one response
//! for each connection. Bound: a line, either way, is at most [`FRAME_MAX`] bytes.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most bytes of one line, its end included.
pub const FRAME_MAX: usize = 512;

/// What the daemon wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A TCP socket that listens: it comes along with the response (SCM_RIGHTS). Loopback, or what the configuration names.
    Listen {
        /// Where.
        address: SocketAddr,
    },
    /// To talk to a resolver of this host, port 53: what is sent after the response is relayed.
    Resolver {
        /// Which.
        address: IpAddr,
        /// How.
        over: Transport,
    },
    /// To talk over TCP to whoever listens on an address of this host: what is sent after the response is relayed.
    Check {
        /// Where.
        address: SocketAddr,
    },
}

/// How a resolver is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Each datagram, either way, has its length before it, in two bytes, as DNS itself has it over TCP.
    Udp,
    /// Bytes.
    Tcp,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// It is there.
    Done,
    /// The system didn't do it.
    Failed {
        /// Its error's number (errno(3)).
        errno: i32,
    },
    /// It isn't the daemon's to have.
    Refused {
        /// Why, and what would change that.
        reason: String,
    },
}

impl Request {
    /// The line, with its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        line(self)
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        read(bytes)
    }
}

impl Response {
    /// The line, with its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        line(self)
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        read(bytes)
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Plain data with text for keys: it has no way to fail.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_fixed() {
        let request = |text: &str| Request::decode(text.as_bytes());
        let address = "127.0.0.1:9464".parse().unwrap();
        assert_eq!(request(r#"{"verb":"listen","address":"127.0.0.1:9464"}"#), Ok(Request::Listen { address }));
        let resolver = Request::Resolver { address: "::1".parse().unwrap(), over: Transport::Udp };
        assert_eq!(request(r#"{"verb":"resolver","address":"::1","over":"udp"}"#), Ok(resolver));
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"verb":"connect","address":"127.0.0.1:1"}"#,
            r#"{"verb":"listen","address":"localhost:1"}"#,
            r#"{"verb":"listen","address":"127.0.0.1:65536"}"#,
            r#"{"verb":"listen","address":"127.0.0.1:1","device":"lo"}"#,
            r#"{"verb":"resolver","address":"::1"}"#,
        ] {
            assert!(request(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Response::decode(br#"{"outcome":"failed","errno":98}"#), Ok(Response::Failed { errno: 98 }));
    }

    fn requests() -> impl Strategy<Value = Request> {
        let ip = || any::<IpAddr>();
        let address = || (ip(), any::<u16>()).prop_map(SocketAddr::from);
        prop_oneof![
            address().prop_map(|address| Request::Listen { address }),
            address().prop_map(|address| Request::Check { address }),
            (ip(), any::<bool>()).prop_map(|(address, udp)| Request::Resolver {
                address,
                over: if udp { Transport::Udp } else { Transport::Tcp },
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_and_fits(request in requests()) {
            let line = request.encode();
            prop_assert!(line.len() <= FRAME_MAX);
            prop_assert_eq!(Request::decode(line.strip_suffix(b"\n").unwrap()), Ok(request));
        }

        #[test]
        fn any_bytes_are_a_request_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..FRAME_MAX)) {
            let _ = Request::decode(&bytes);
            let _ = Response::decode(&bytes);
        }
    }
}
