//! Whether the program is on its interfaces, as the daemon sees it.

use super::Finding::{self, Ill, Well};
use crate::admin::protocol::Interface;

/// Of the interfaces that the daemon was attached to.
pub(super) fn of(interfaces: &[Interface]) -> Vec<Finding> {
    let names = |attached| {
        let of_it = interfaces.iter().filter(move |interface| interface.attached == attached);
        of_it.map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (with, without) = (names(true), names(false));
    let mut findings = Vec::new();
    if !with.is_empty() {
        findings.push(Well(format!("the program is on {with}")));
    }
    if !without.is_empty() {
        let help = "`systemctl restart detector` attaches again; `systemctl status detector-loader` says what fails";
        findings.push(Ill(format!("no program on {without}: packets there pass unlooked at"), help.to_owned()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::XdpMode;

    #[test]
    fn a_lost_interface_is_told_with_what_brings_it_back() {
        let interface = |name: &str, attached| Interface {
            name: name.to_owned(),
            xdp_mode: XdpMode::Native,
            attached,
            pinned: true,
        };
        assert_eq!(of(&[interface("eth0", true)]), [Well("the program is on eth0".to_owned())]);
        let found = of(&[interface("eth0", false), interface("eth1", false)]);
        let [Ill(what, help)] = found.as_slice() else { panic!("{found:?}") };
        assert!(what.starts_with("no program on eth0, eth1") && help.contains("systemctl restart"), "{what}: {help}");
        assert_eq!(of(&[]), []);
    }
}
