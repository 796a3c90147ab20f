//! What comes from the distribution's archive.
//!
//! In: the files that tell whether a thing is there. Out: the missing packages installed by apt, with no service
//! started or enabled. A file tells more than the package database: it is right on any distribution, for a package of
//! another name (`nginx-full`), and for what was installed by hand.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use super::{State, announce};
use crate::shell;

/// A thing that is needed, the package that brings it, and what for.
struct Need {
    package: &'static str,
    /// A program's name, the absolute path of a file, or a line of Python that must work.
    sign: &'static str,
    why: &'static str,
}

const NEEDS: [Need; 34] = [
    Need { package: "gcc", sign: "cc", why: "links Rust programs" },
    Need { package: "libc6-dev", sign: "/usr/include/stdio.h", why: "links Rust programs" },
    Need { package: "ca-certificates", sign: "/etc/ssl/certs/ca-certificates.crt", why: "cargo's and pip's downloads" },
    Need { package: "nginx-light", sign: "nginx", why: "the protected web server" },
    Need {
        package: "libnginx-mod-http-js",
        sign: "/usr/lib/nginx/modules/ngx_http_js_module.so",
        why: "tells the order of headers",
    },
    Need { package: "haproxy", sign: "haproxy", why: "a web server that reports" },
    Need { package: "caddy", sign: "caddy", why: "another one" },
    Need { package: "apache2", sign: "apache2", why: "another one" },
    Need { package: "python3-yaml", sign: "import yaml", why: "reads what is for Envoy" },
    Need { package: "curl", sign: "curl", why: "a client" },
    Need { package: "wget", sign: "wget", why: "a client with GnuTLS" },
    Need { package: "chromium", sign: "chromium", why: "a browser that speaks QUIC" },
    Need { package: "xvfb", sign: "Xvfb", why: "a display for Chromium, which says so when it has none" },
    Need { package: "openssl", sign: "openssl", why: "certificates, and a client" },
    Need { package: "python3", sign: "/usr/bin/python3", why: "clients" },
    Need { package: "python3-venv", sign: "import ensurepip", why: "the clients' own environment" },
    Need { package: "iproute2", sign: "ip", why: "network namespaces and veth pairs" },
    Need { package: "ethtool", sign: "ethtool", why: "offloads of the veth pairs" },
    Need { package: "nftables", sign: "nft", why: "forwards to a web server in a namespace of its own" },
    Need { package: "dnsmasq-base", sign: "dnsmasq", why: "a DNS server that says who crawlers are" },
    Need { package: "tcpdump", sign: "tcpdump", why: "records what the daemon must agree with" },
    Need { package: "tshark", sign: "tshark", why: "reads the same packets as the daemon" },
    Need {
        package: "python3-scapy",
        sign: "/usr/lib/python3/dist-packages/scapy",
        why: "builds SYNs of other systems",
    },
    Need { package: "qemu-system-x86", sign: "qemu-system-x86_64", why: "runs tests on Debian's Linux 6.1" },
    Need { package: "busybox-static", sign: "busybox", why: "starts that Linux" },
    Need { package: "xdp-tools", sign: "xdp-filter", why: "its programs are what ours are measured beside" },
    Need { package: "bpftool", sign: "bpftool", why: "shows what is loaded" },
    Need {
        package: "libfaketime",
        sign: "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        why: "gives a daemon a wall clock of its own",
    },
    Need { package: "prometheus", sign: "promtool", why: "checks alert rules and the dashboard's queries" },
    Need { package: "procps", sign: "ps", why: "shows what is running" },
    Need { package: "binutils", sign: "objdump", why: "makes packages" },
    Need { package: "rpm", sign: "rpmbuild", why: "makes packages" },
    Need { package: "systemd", sign: "systemd-analyze", why: "checks the units" },
    Need { package: "debootstrap", sign: "debootstrap", why: "makes a fresh Debian to install packages into" },
];

/// What `cargo xtask lab` visits with.
const LAB_NEEDS: [Need; 10] = [
    Need { package: "firefox-esr", sign: "firefox-esr", why: "a browser" },
    Need { package: "lynx", sign: "lynx", why: "a browser in text" },
    Need { package: "w3m", sign: "w3m", why: "another one" },
    Need { package: "gobuster", sign: "gobuster", why: "a scanner, in Go" },
    Need { package: "apache2-utils", sign: "ab", why: "a load generator" },
    Need { package: "nodejs", sign: "node", why: "a library" },
    Need {
        package: "libio-socket-ssl-perl",
        sign: "/usr/share/perl5/IO/Socket/SSL.pm",
        why: "a library, with HTTP::Tiny",
    },
    Need {
        package: "liblwp-protocol-https-perl",
        sign: "/usr/share/perl5/LWP/Protocol/https.pm",
        why: "a library, libwww-perl",
    },
    Need { package: "ruby", sign: "ruby", why: "a library, Net::HTTP" },
    Need { package: "php-cli", sign: "php", why: "a library, PHP's streams" },
];

/// Run as root by `sh`; the packages are its arguments. An archive's daemon starts itself when it is installed unless
/// `policy-rc.d` says no, and at each boot unless it is disabled.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -yq --no-install-recommends "$@"
for package; do
    case $package in nginx* | haproxy | caddy | apache2 | prometheus)
        if [ -d /run/systemd/system ]; then systemctl disable "${package%-light}.service"; fi ;;
    esac
done
"#;

/// The step.
pub(super) fn install() -> Result<State> {
    install_all(&NEEDS)
}

/// The lab's.
pub(super) fn install_for_lab() -> Result<State> {
    install_all(&LAB_NEEDS)
}

fn install_all(needs: &[Need]) -> Result<State> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_there(need.sign)).collect();
    if missing.is_empty() {
        return Ok(State::Present(needs.iter().map(|need| need.package).collect::<Vec<_>>().join(" ")));
    }
    for need in &missing {
        println!("      missing: {} ({})", need.package, need.why);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    apt_install(&packages)?;
    if let Some(need) = missing.iter().find(|need| !is_there(need.sign)) {
        bail!("`{}` is installed, but `{}` isn't there", need.package, need.sign);
    }
    Ok(State::Done(packages.join(" ")))
}

fn is_there(sign: &str) -> bool {
    if sign.starts_with('/') {
        Path::new(sign).exists()
    } else if sign.starts_with("import ") {
        shell::output(Command::new(super::python::interpreter()).args(["-c", sign])).is_ok()
    } else {
        shell::find_program(sign).is_some()
    }
}

/// Installs packages with apt, as root or with sudo.
pub(super) fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if shell::find_program("apt-get").is_none() {
        bail!(
            "there is no apt-get here: install with your own package manager what Debian calls `{}`",
            packages.join(" ")
        );
    }
    let mut command = if shell::is_root() {
        Command::new("sh")
    } else if shell::find_program("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.arg("sh");
        command
    } else {
        bail!("installing packages needs root, and there is no sudo here: as root, run `{by_hand}`, then this again");
    };
    announce(&packages.join(" "));
    command.args(["-c", INSTALL, "setup"]).args(packages);
    let log = shell::tools()?.join("setup-apt.log");
    shell::run_to_log(&mut command, &log).map_err(|error| {
        let end = error.root_cause().to_string();
        let end = end.split_once("; the end of").map_or(end.as_str(), |(_, end)| end);
        anyhow::anyhow!("`{by_hand}` failed; the end of{end}")
    })
}
