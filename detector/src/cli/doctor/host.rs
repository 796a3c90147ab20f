//! The kernel and what this process may ask it.

use super::finding::{Finding, problem, warning, well};
use crate::kernel::features;

/// `bpf_xdp_load_bytes`, which reads frames in several buffers.
const OLDEST: (u32, u32) = (5, 18);
/// tcx: what goes out is seen.
const WHOLE: (u32, u32) = (6, 6);

/// Looks; `running`: a daemon shows already that the kernel does.
pub(super) fn look(running: bool) -> Vec<Finding> {
    let mut findings = vec![match features::release() {
        Some((release, version)) => kernel(&release, version),
        None => warning("kernel", "its release can't be told", "uname -r should say 5.18 or newer"),
    }];
    findings.push(match features::missing() {
        Ok(missing) => kinds(&missing),
        Err(_) if running => well("bpf", "the daemon's programs are loaded; as root this looks closer"),
        Err(error) => {
            warning("bpf", format!("this user may not ask the kernel about BPF ({error})"), "sudo detector doctor")
        }
    });
    findings.push(if features::has_btf() {
        well("btf", "the kernel describes its types: /sys/kernel/btf/vmlinux")
    } else {
        warning(
            "btf",
            "there is no /sys/kernel/btf/vmlinux: the programs load all the same, bpftool tells less about them",
            "nothing, or a kernel built with CONFIG_DEBUG_INFO_BTF",
        )
    });
    if features::compiles() == Some(false) {
        findings.push(warning(
            "jit",
            "the kernel interprets programs: each packet costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1, and keep it in /etc/sysctl.d",
        ));
    }
    findings
}

fn kernel(release: &str, version: (u32, u32)) -> Finding {
    if version < OLDEST {
        return problem(
            "kernel",
            format!("Linux {release} is older than {}.{}: the programs don't load", OLDEST.0, OLDEST.1),
            "boot a newer kernel",
        );
    }
    if version < WHOLE {
        return warning(
            "kernel",
            format!(
                "Linux {release} has no tcx, which came with {}.{}: no JA3S, and sockets prove addresses",
                WHOLE.0, WHOLE.1
            ),
            "nothing, or a newer kernel; `egress = false` in [capture] ends the warning in the log",
        );
    }
    well("kernel", format!("Linux {release} has all that is used"))
}

fn kinds(missing: &[&str]) -> Finding {
    match missing {
        [] => well("bpf", "xdp, sched_cls and sk_lookup programs, ring buffers and tries are there"),
        missing => problem(
            "bpf",
            format!("this kernel is built without {}", missing.join(", ")),
            "boot a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_XDP_SOCKETS",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_what_they_lack() {
        for (version, state) in [
            ((5, 17), State::Problem),
            ((5, 18), State::Warning),
            ((6, 1), State::Warning),
            ((6, 6), State::Ok),
            ((7, 0), State::Ok),
        ] {
            assert_eq!(kernel("x", version).state, state, "{version:?}");
        }
        assert_eq!(kinds(&[]).state, State::Ok);
        let found = kinds(&["ringbuf maps"]);
        assert!(found.state == State::Problem && found.what.contains("without ringbuf maps"), "{found:?}");
    }
}
