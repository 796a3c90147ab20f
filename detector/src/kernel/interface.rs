//! Which interfaces there are, and which of them a program can be attached to: physical ports, not what is built on them.

use std::{fs, io, path::Path};

/// Why an interface can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such interface.
    #[error("there is no interface `{name}`; this host has: {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Frames must be seen before they are put together.
    #[error("`{name}` is a {kind}; attach to its port instead: {}", flags(ports))]
    NotAPort {
        /// The name that was asked for.
        name: String,
        /// `bridge`, `bond`, ...
        kind: &'static str,
        /// The ports below it.
        ports: Vec<String>,
    },
    /// Can't choose.
    #[error("{reason}; name the one to watch:\n{}", command(choices))]
    Ambiguous {
        /// Why.
        reason: &'static str,
        /// The names to choose from.
        choices: Vec<String>,
    },
    /// Sysfs or procfs isn't readable.
    #[error("can't read `{0}`: {1}; is /sys mounted?")]
    Read(&'static str, io::Error),
}

fn flags(ports: &[String]) -> String {
    if ports.is_empty() {
        return "it has none at the moment".to_owned();
    }
    ports.iter().map(|port| format!("--interface {port}")).collect::<Vec<_>>().join(" ")
}

/// Two lines at most, however many there are.
fn command(choices: &[String]) -> String {
    match choices {
        [] => "  none can be attached to; `ip link` lists them all".to_owned(),
        [one] => format!("  detector run --interface {one}"),
        [first, others @ ..] => format!("  detector run --interface {first}\n  likewise: {}", others.join(", ")),
    }
}

const SYS: &str = "/sys/class/net";

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The interfaces of this network namespace.
///
/// # Errors
/// If sysfs isn't there.
pub fn names() -> Result<Vec<String>, Error> {
    fs::read_dir(SYS).map_err(|error| Error::Read(SYS, error))?;
    Ok(names_in(Path::new(SYS)).into_iter().filter(|name| Path::new(SYS).join(name).is_dir()).collect())
}

/// Says whether a program can be attached to `name`, and if not, to what instead.
///
/// # Errors
/// If it is unknown, or isn't a port.
pub fn check(name: &str) -> Result<(), Error> {
    let directory = Path::new(SYS).join(name);
    // A name with a slash or of dots only would lead elsewhere.
    if name.is_empty() || name.contains('/') || name == "." || name == ".." || !directory.is_dir() {
        return Err(Error::Unknown { name: name.to_owned(), known: names()?.join(", ") });
    }
    let lower =
        || names_in(&directory).iter().filter_map(|entry| entry.strip_prefix("lower_").map(str::to_owned)).collect();
    let kind = if directory.join("bridge").is_dir() {
        return Err(Error::NotAPort {
            name: name.to_owned(),
            kind: "bridge",
            ports: names_in(&directory.join("brif")),
        });
    } else if directory.join("bonding").is_dir() {
        "bond"
    } else if Path::new("/proc/net/vlan").join(name).exists() {
        "VLAN interface"
    } else {
        return Ok(());
    };
    Err(Error::NotAPort { name: name.to_owned(), kind, ports: lower() })
}

/// The interface that holds the default route.
///
/// # Errors
/// If there is none, or more than one.
pub fn default_route() -> Result<String, Error> {
    let mut found = Vec::new();
    if let Ok(table) = fs::read_to_string("/proc/net/route") {
        found.extend(table.lines().skip(1).filter_map(default_v4));
    }
    if let Ok(table) = fs::read_to_string("/proc/net/ipv6_route") {
        found.extend(table.lines().filter_map(default_v6));
    }
    found.sort_unstable();
    found.dedup();
    match <[String; 1]>::try_from(found) {
        Ok([name]) => Ok(name),
        Err(found) if found.is_empty() => Err(Error::Ambiguous {
            reason: "no interface has a default route",
            choices: names()?.into_iter().filter(|name| name != "lo" && check(name).is_ok()).collect(),
        }),
        Err(choices) => Err(Error::Ambiguous { reason: "several interfaces have a default route", choices }),
    }
}

/// A line of /proc/net/route: name, destination, gateway, flags, ..., mask (eighth), in hexadecimal.
fn default_v4(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
    default.then(|| fields.first().map(|name| (*name).to_owned()))?
}

/// A line of /proc/net/ipv6_route: destination, its length, ..., flags, name. The kernel keeps a reject route on `lo`.
fn default_v6(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let default = fields.first() == Some(&"00000000000000000000000000000000") && fields.get(1) == Some(&"00");
    let name = fields.last()?;
    (default && *name != "lo").then(|| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_found_by_destination_and_mask() {
        assert_eq!(default_v4("eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"), Some("eth0".to_owned()));
        assert_eq!(default_v4("eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0"), None);
        let zero = "0".repeat(32);
        assert_eq!(default_v6(&format!("{zero} 00 {zero} 00 fe80 00000400 1 0 3 eth1")), Some("eth1".to_owned()));
        assert_eq!(default_v6(&format!("{zero} 00 {zero} 00 {zero} ffffffff 1 0 200200 lo")), None);
        assert_eq!(default_v6(""), None);
    }

    #[test]
    fn whoever_must_choose_is_told_the_command_in_three_lines() {
        let said = |choices: &[&str]| {
            let choices = choices.iter().map(|name| (*name).to_owned()).collect();
            Error::Ambiguous { reason: "no interface has a default route", choices }.to_string()
        };
        let expected = "no interface has a default route; name the one to watch:\n  detector run --interface eth0\n  \
                        likewise: eth1, eth2";
        assert_eq!(said(&["eth0", "eth1", "eth2"]), expected);
        assert!(said(&["eth0"]).ends_with(":\n  detector run --interface eth0"));
        assert!(said(&[]).contains("`ip link`"));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = check("nosuch0").unwrap_err().to_string();
        assert!(error.contains("`nosuch0`") && error.contains("lo"), "{error}");
        assert!(check("../net/lo").is_err());
    }
}
