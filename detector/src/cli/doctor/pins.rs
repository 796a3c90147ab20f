//! The pins: gone, or whole. What is pinned keeps the program attached when the daemon goes.

use std::fs;
use std::io;
use std::path::Path;

use super::super::client::quoted;
use super::finding::{Finding, problem, warning, well};
use crate::admin::protocol::{Interface, Status};
use crate::kernel::{Pins, features};

/// Looks at the directory, and at what the daemon says to be pinned there.
pub(super) fn look(root: &Path, status: Option<&Status>) -> Finding {
    let shown = root.display();
    let pinned: Vec<&Interface> =
        status.into_iter().flat_map(|status| &status.interfaces).filter(|interface| interface.pinned).collect();
    let there = match fs::symlink_metadata(root.join("current")) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return warning("pins", format!("this user may not look into {shown}"), "sudo detector doctor");
        }
        Err(_) => Pins::are_in(root),
    };
    let attach = |interface: &str| format!("detector attach --interface {interface} --pins {}", quoted(root));
    if !there {
        return match (pinned.first(), status) {
            (Some(first), _) => problem(
                "pins",
                format!("the pins in {shown} are gone: when the daemon ends, its program leaves {}", first.name),
                format!("stop detector, {}, start it", attach(&first.name)),
            ),
            (None, _) if features::is_bpf_fs(root) => {
                well("pins", format!("nothing is pinned in {shown}: the program goes with the daemon"))
            }
            (None, _) => warning(
                "pins",
                format!("{shown} is in no BPF file system: `detector attach` can't pin there"),
                "mount -t bpf bpf /sys/fs/bpf",
            ),
        };
    }
    if fs::metadata(root.join("current")).is_err() {
        return problem(
            "pins",
            format!("the pins in {shown} are broken: `current` leads nowhere"),
            format!("detector detach --pins {}, then detector attach", quoted(root)),
        );
    }
    let lost = pinned.iter().find(|interface| {
        let link = format!("{}-{}", interface.xdp_mode.label(), interface.name);
        !root.join("links").join(link).exists()
    });
    match lost {
        Some(lost) => problem(
            "pins",
            format!("the link of {} is gone from {shown}: its program leaves with the daemon", lost.name),
            format!("stop detector, {}, start it", attach(&lost.name)),
        ),
        None => well("pins", format!("the pins in {shown} are whole: the program stays when the daemon goes")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::config::XdpMode;

    #[test]
    fn pins_that_are_gone_are_a_problem_and_none_at_all_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("detector");
        let interface =
            |pinned| Interface { name: "eth0".to_owned(), xdp_mode: XdpMode::Native, attached: true, pinned };
        let found = |pinned| {
            let status = Status { interfaces: vec![interface(pinned)], ..Status::default() };
            look(&root, Some(&status)).state
        };
        assert_eq!(found(false), State::Warning, "no BPF file system");
        assert_eq!(found(true), State::Problem);
        fs::create_dir_all(root.join("links")).unwrap();
        std::os::unix::fs::symlink("v1", root.join("current")).unwrap();
        assert_eq!(found(true), State::Problem, "`current` leads nowhere");
        fs::create_dir(root.join("v1")).unwrap();
        assert_eq!(found(true), State::Problem, "the link is gone");
        fs::write(root.join("links/native-eth0"), "").unwrap();
        assert_eq!(found(true), State::Ok);
    }
}
