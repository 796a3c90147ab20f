//! The interfaces: whether the program is on them, where it runs, and what they do to frames before.

use std::fs;
use std::path::Path;

use super::finding::{Finding, problem, warning, well};
use crate::admin::protocol::{Interface, Status};
use crate::config::{Config, XdpMode};
use crate::kernel::{features, interface};

/// Looks at those of the daemon; without one, at those that it would take.
pub(super) fn look(config: &Config, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names: Vec<String> = match status {
        Some(status) => {
            findings.extend(status.interfaces.iter().map(|one| attached(one, features::driver(&one.name).as_deref())));
            if status.interfaces.is_empty() {
                findings.push(problem(
                    "xdp",
                    "the daemon is attached to no interface",
                    "detector run --interface NAME",
                ));
            }
            status.interfaces.iter().map(|interface| interface.name.clone()).collect()
        }
        None => match wanted(config) {
            Ok(names) => {
                findings.extend(names.iter().map(|name| candidate(name)));
                names
            }
            Err(error) => {
                let text = error.to_string();
                let (what, help) =
                    text.split_once('\n').unwrap_or((&text, "name one in [capture] or with --interface"));
                findings.push(problem("interface", what, help.lines().map(str::trim).collect::<Vec<_>>().join("; ")));
                Vec::new()
            }
        },
    };
    findings.extend(names.iter().filter_map(|name| offloads(name, features::merges(name).ok()?)));
    findings.extend(names.iter().filter_map(|name| {
        let state = fs::read_to_string(Path::new("/sys/class/net").join(name).join("operstate")).ok()?;
        (state.trim() == "down").then(|| {
            problem("interface", format!("{name} is down: nothing comes in there"), format!("ip link set {name} up"))
        })
    }));
    findings
}

fn wanted(config: &Config) -> Result<Vec<String>, interface::Error> {
    if config.capture.interfaces.is_empty() {
        return Ok(vec![interface::default_route()?]);
    }
    Ok(config.capture.interfaces.clone())
}

fn candidate(name: &str) -> Finding {
    match interface::check(name) {
        Ok(()) => {
            let driver =
                features::driver(name).map_or_else(|| "virtual".to_owned(), |driver| format!("driver {driver}"));
            well("interface", format!("{name} ({driver}) can be attached to"))
        }
        Err(error) => problem("interface", error.to_string(), "name another one in [capture], or with --interface"),
    }
}

fn attached(interface: &Interface, driver: Option<&str>) -> Finding {
    let Interface { name, xdp_mode, attached, .. } = interface;
    if !attached {
        return problem(
            "xdp",
            format!("the program is not on {name} any more: nothing there is seen or dropped"),
            format!(
                "systemctl restart detector; without systemd: detector attach --interface {name}; \
                 `systemctl status detector-loader` says what fails"
            ),
        );
    }
    let driver = driver.map_or_else(String::new, |driver| format!(" (driver {driver})"));
    if *xdp_mode == XdpMode::Generic {
        return warning(
            "xdp",
            format!(
                "{name}{driver} runs the program in generic mode: it works, and costs several times as much a packet"
            ),
            format!(
                "detector run --interface {name} --xdp-mode native tells why the driver can't; `ethtool -i {name}` names it"
            ),
        );
    }
    well("xdp", format!("{name}{driver} runs the program in native mode"))
}

fn offloads(name: &str, merges: bool) -> Option<Finding> {
    merges.then(|| {
        warning(
            "offloads",
            format!("{name} merges segments before the program sees them (LRO): limits count fewer, and drivers may refuse native mode"),
            format!("ethtool -K {name} lro off"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn each_interface_is_judged_by_where_the_program_runs() {
        let eth0 = Interface { name: "eth0".to_owned(), xdp_mode: XdpMode::Native, attached: true, pinned: false };
        assert_eq!(attached(&eth0, Some("ixgbe")).what, "eth0 (driver ixgbe) runs the program in native mode");
        let generic = Interface { xdp_mode: XdpMode::Generic, ..eth0.clone() };
        assert_eq!(attached(&generic, None).state, State::Warning);
        assert_eq!(attached(&Interface { attached: false, ..generic }, None).state, State::Problem);
        assert_eq!(offloads("eth0", false), None);
        assert_eq!(offloads("eth0", true).and_then(|found| found.help).as_deref(), Some("ethtool -K eth0 lro off"));
    }

    #[test]
    fn without_a_daemon_the_interfaces_of_the_configuration_are_looked_at() {
        let mut config = Config::default();
        config.capture.interfaces = vec!["nosuch0".to_owned(), "lo".to_owned()];
        let states: Vec<State> = look(&config, None).into_iter().map(|found| found.state).collect();
        assert_eq!(states, [State::Problem, State::Ok]);
    }
}
