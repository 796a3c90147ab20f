//! Visits to a site by clients of many kinds (`clients/visits.py`), each from an address and a network of its own: the
//! visit's programs run as a user of their own, whose packets have that address by a rule of routing, whatever they are.
//!
//! In: a kind and a number. Out: what the client says of its visit, and its address. Memory: a line for each.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::lab::{CLIENT_INTERFACE, Lab, SERVER_INTERFACE, SERVER_V4};
use crate::process::output;
use crate::programs;
use crate::server::SERVER_NAME;

/// Networks of 256 addresses from which visits come.
const NETWORKS: &str = "10.80.0.0/12";
/// Visits at most: one for each of those networks.
const MOST: u16 = 4095;
/// What a visit may take, in seconds.
const LONGEST: &str = "900";
/// The user of visit 0.
const FIRST_USER: u32 = 20_000;

/// What a kind of client is, as `visits.py` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A browser that is read with: a real one, or one in text.
    Person,
    /// A real browser that is driven, or what does all that one does.
    Robot,
    /// A library or a tool with a browser's name.
    Forged,
    /// One with a browser's hello and headers.
    Imitator,
    /// One with its own name.
    Honest,
    /// One with the name of a known crawler.
    Crawler,
    /// A harmless machine.
    Welcome,
}

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Kind {
    /// What it is.
    pub what: What,
    /// It is a real browser with an engine.
    pub browser: bool,
    /// Nobody looks at what is made of it while weights and thresholds are chosen.
    pub held: bool,
}

/// All kinds by their names.
pub type Kinds = BTreeMap<String, Kind>;

/// What a client says of its visit.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// Pages that it got, or believes it got.
    pub pages: u32,
    /// What went wrong.
    pub error: Option<String>,
}

/// Where visits come from, and how.
#[derive(Debug)]
pub struct Visits<'a> {
    lab: &'a Lab,
    python: PathBuf,
    certificate: PathBuf,
    hosts: PathBuf,
}

/// How a visit is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Of which kind.
    pub kind: &'a str,
    /// Which of all visits it is, from 0: its address depends on it.
    pub number: u16,
    /// Pages.
    pub pages: u32,
    /// Its pauses are as many times as long as the kind's own.
    pub pace: f32,
}

impl Plan<'_> {
    /// Where it comes from.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        address(self.number)
    }
}

const fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 80 + high, low, 7)
}

/// Whose packets have that address, and whose routes have this number.
const fn user(number: u16) -> u32 {
    FIRST_USER + number as u32
}

/// How a visit's packets get their address, for `ip -batch`.
fn ways(number: u16) -> String {
    let (address, user) = (address(number), user(number));
    format!(
        "address add {address}/32 dev {CLIENT_INTERFACE}\n\
         route add default via {SERVER_V4} dev {CLIENT_INTERFACE} src {address} table {user}\n\
         rule add uidrange {user}-{user} lookup {user}\n"
    )
}

/// All kinds.
///
/// # Errors
/// When the Python of `cargo xtask setup` is missing.
pub fn kinds() -> Result<Kinds> {
    let mut command = Command::new(programs::python()?);
    let listed = output(command.arg("-B").arg(programs::script("visits.py")).arg("--list"))?;
    Ok(serde_json::from_str(&listed)?)
}

impl<'a> Visits<'a> {
    /// From the lab's client namespace, to a server with this certificate: room for so many. All of their addresses are
    /// there from the beginning, for to a browser a new one is another network.
    ///
    /// # Errors
    /// When there are no addresses for so many, or the routes can't be made.
    pub fn new(lab: &'a Lab, certificate: &Path, most: u16) -> Result<Self> {
        ensure!(most <= MOST, "{most} visits; there are addresses for {MOST}");
        let batch = lab.file("visits.ip");
        fs::write(&batch, (0..most).map(ways).collect::<String>())?;
        output(lab.client().command("ip").arg("-batch").arg(&batch))?;
        lab.server().ip(&format!("route add {NETWORKS} dev {SERVER_INTERFACE}"))?;
        let (own, hosts) = (lab.file("visits.pem"), lab.file("hosts"));
        fs::copy(certificate, &own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o644))?;
        fs::write(&hosts, format!("127.0.0.1 localhost\n{SERVER_V4} {SERVER_NAME}\n"))?;
        Ok(Self { lab, python: programs::python()?, certificate: own, hosts })
    }

    /// Makes a visit, and waits for its end.
    ///
    /// # Errors
    /// When the client's program says nothing.
    pub fn make(&self, plan: &Plan<'_>) -> Result<Told> {
        let user = user(plan.number);
        let mut command = self.lab.client().command("sh");
        // The mount is the namespace's own, as `ip netns exec` makes it.
        let become_user = "mount --bind \"$0\" /etc/hosts && user=$1 && shift && exec setpriv --reuid=$user \
                           --regid=$user --clear-groups -- \"$@\"";
        command.arg("-c").arg(become_user).arg(&self.hosts).arg(user.to_string());
        command
            .args(["timeout", "--kill-after=5", LONGEST])
            .arg(&self.python)
            .arg("-B")
            .arg(programs::script("visits.py"));
        command.args(["--kind", plan.kind, "--seed", &plan.number.to_string(), "--pages", &plan.pages.to_string()]);
        command.args(["--pace", &plan.pace.to_string()]);
        command.args(["--name", SERVER_NAME]);
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
            command.env(name, &self.certificate);
        }
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("HOME", "/tmp").stdin(Stdio::null()).stderr(Stdio::null());
        let done = command.output()?;
        let line = String::from_utf8_lossy(&done.stdout);
        let last = line.lines().last().with_context(|| format!("{} said nothing: {}", plan.kind, done.status))?;
        Ok(serde_json::from_str(last)?)
    }
}
