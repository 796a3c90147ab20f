//! Room 5: the headers of a SYN in, what they say about the client's system out.

use crate::capture::Network;

/// What a SYN says about its sender's system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynSignature {}

impl SynSignature {
    /// Reads the TCP header `tcp`, options included. `None` if it is too short to be one.
    #[must_use]
    pub fn parse(_network: &Network, _tcp: &[u8]) -> Option<Self> {
        None
    }
}
