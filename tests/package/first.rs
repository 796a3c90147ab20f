//! From nothing to the first fingerprint: two commands, on a host that has only the package, for anybody.

use std::path::Path;

use anyhow::{Result, ensure};
use detector_tests::lab::{Lab, LabOptions};

use crate::{VERSION, deb, machine::Machine};

/// What is typed after the package is there, with the two TABs that bash's completion takes. `x.pcap` is the file.
const KEYS: &str = "detector fi\tx\t\n";
const MOST_KEYS: usize = 25;
/// From the command to its end, seconds.
const MOST_SECONDS: u32 = 5;

const CAPTURE: &str = "fixtures/captures/pcaps/chromium-h2.pcap";

#[test]
fn a_capture_is_read_by_anybody_with_the_package_alone() -> Result<()> {
    // Nothing runs there, and no network is to be had.
    let lab = Lab::new(LabOptions::default())?;
    let machine = Machine::idle(&lab, "first")?;
    let packages = "dpkg-query --show --showformat '${Package}\\n'";
    let before = machine.run(packages)?;
    machine.bring(&deb(VERSION)?, "/root/detector.deb")?;
    machine.run("dpkg --install /root/detector.deb 2>&1")?;
    let added: Vec<_> =
        machine.run(packages)?.lines().filter(|name| !before.contains(name)).map(str::to_owned).collect();
    assert_eq!(added, ["detector"], "it brought others");
    machine.run("rm -r /etc/detector")?;

    ensure!(KEYS.len() <= MOST_KEYS, "{} keys", KEYS.len());
    // What the first TAB makes of what was typed; the second one completes the name of a file, as bash itself does.
    let complete = "source /usr/share/bash-completion/completions/detector; COMP_WORDS=(detector fi); COMP_CWORD=1; \
                    _detector detector fi detector; echo \"${COMPREPLY[@]}\"";
    let completed = machine.run(&format!("bash -c '{complete}'"))?;
    assert_eq!(completed.trim(), "fingerprint");

    machine.bring(&Path::new(env!("CARGO_MANIFEST_DIR")).join(CAPTURE), "/tmp/x.pcap")?;
    let anybody = format!("cd /tmp && runuser --user nobody -- timeout {MOST_SECONDS} detector {completed}");
    let said = machine.run(&format!("{} x.pcap", anybody.trim_end()))?;
    ensure!(said.lines().any(|line| line.contains("\"ja4\":\"t13d")), "{said}");
    Ok(())
}
