//! What hangs on an interface: in goes `ip`'s JSON, out come the XDP program's mode and id.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::lab::Namespace;

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// After the driver, on the kernel's own packet.
    Generic,
}

impl XdpMode {
    /// As `--xdp-mode` takes it.
    #[must_use]
    pub fn argument(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// How an interface's XDP program is attached, if it has one.
///
/// # Errors
/// When there is no such interface, or it has programs in several modes.
pub fn xdp(namespace: &Namespace, interface: &str) -> Result<Option<XdpMode>> {
    let Some(shown) = shown(namespace, interface)? else { return Ok(None) };
    // XDP_ATTACHED_* of linux/if_link.h: 0 none, 1 driver, 2 generic, 3 hardware, 4 several.
    match shown["mode"].as_u64() {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(XdpMode::Native)),
        Some(2) => Ok(Some(XdpMode::Generic)),
        Some(_) => bail!("`{interface}` has an XDP program in an unexpected mode: {shown}"),
    }
}

/// The kernel's id of an interface's XDP program, if it has one.
///
/// # Errors
/// When there is no such interface.
pub fn program(namespace: &Namespace, interface: &str) -> Result<Option<u64>> {
    Ok(shown(namespace, interface)?.and_then(|shown| shown.pointer("/prog/id")?.as_u64()))
}

fn shown(namespace: &Namespace, interface: &str) -> Result<Option<Value>> {
    let shown: Value = serde_json::from_str(&namespace.ip(&format!("-d -j link show dev {interface}"))?)?;
    Ok(shown.pointer("/0/xdp").cloned())
}
