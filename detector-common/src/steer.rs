//! What steers new connections to a challenge listener: which socket takes them, and until when it counts as healthy.

/// Most sockets of challenge listeners, one for each port and family.
pub const CHALLENGERS_MAX: u32 = 128;

/// From one sign of health of a listener, so many nanoseconds it counts as healthy: with the daemon hung nobody is
/// steered after them (threats.md T37).
pub const HEALTHY_NS: u64 = 1_500_000_000;

/// The key of a listener in `CHALLENGERS` and `HEALTHY_UNTIL`. `port`: the protected one, host byte order. `ipv6`: the
/// family of the connections.
#[inline(always)]
#[must_use]
pub const fn challenger(port: u16, ipv6: bool) -> u32 {
    (port as u32) << 1 | ipv6 as u32
}
