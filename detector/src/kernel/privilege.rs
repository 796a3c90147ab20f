//! What this process may ask of the kernel: its capabilities in, whether it loads programs itself out.

use rustix::thread::{CapabilitySet, capabilities};

/// Whether this process may load and attach programs. If not, it can use what another one has pinned and lent.
#[must_use]
pub fn may_load() -> bool {
    capabilities(None).is_ok_and(|sets| suffice(sets.effective))
}

/// CAP_SYS_ADMIN stands for the first two, as it did before Linux 5.8.
fn suffice(has: CapabilitySet) -> bool {
    let loads = CapabilitySet::BPF | CapabilitySet::PERFMON;
    (has.contains(loads) || has.contains(CapabilitySet::SYS_ADMIN)) && has.contains(CapabilitySet::NET_ADMIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_are_needed() {
        let [bpf, perfmon, net_admin] = [CapabilitySet::BPF, CapabilitySet::PERFMON, CapabilitySet::NET_ADMIN];
        assert!(suffice(bpf | perfmon | net_admin) && suffice(CapabilitySet::SYS_ADMIN | net_admin));
        for missing in [bpf, perfmon, net_admin] {
            assert!(!suffice((bpf | perfmon | net_admin) - missing));
        }
        assert!(!suffice(CapabilitySet::empty()) && !suffice(CapabilitySet::SYS_ADMIN));
    }
}
