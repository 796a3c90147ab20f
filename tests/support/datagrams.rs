//! Servers over UDP in the lab's server namespace, an HTTP/3 server that counts its handshakes and openssl's for DTLS,
//! and a browser for the former. In: the lab. Out: the client's port of each handshake.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::deadline::{PATIENCE, until};
use crate::lab::Lab;
use crate::process::{Process, output};
use crate::programs;
use crate::server::{Certificate, SERVER_NAME};

/// What the browser may take: it starts a dozen processes.
const VISIT: &str = "120";

/// A running HTTP/3 server, on all addresses.
#[derive(Debug)]
pub struct Http3 {
    process: Process,
    certificate: Certificate,
    printed: PathBuf,
}

impl Http3 {
    /// Starts it and waits until it listens. `retry`: it answers each client with a Retry packet first.
    ///
    /// # Errors
    /// When it doesn't listen in time; the error holds what it said.
    pub fn start(lab: &Lab, retry: bool) -> Result<Self> {
        let directory = lab.file("http3");
        fs::create_dir(&directory)?;
        let certificate = Certificate::make(&directory)?;
        let (printed, said) = (directory.join("handshakes"), directory.join("stderr"));
        let mut command = lab.server().command(programs::python()?);
        command.arg("-B").arg(programs::script("h3_server.py"));
        command.arg("--certificate").arg(&certificate.certificate).arg("--key").arg(&certificate.key);
        command.args(retry.then_some("--retry"));
        command.stdin(Stdio::null()).stdout(File::create(&printed)?).stderr(File::create(&said)?);
        let process = Process::start("h3_server.py", &mut command)?;
        let mut server = Self { process, certificate, printed };
        until("the HTTP/3 server to listen", PATIENCE, || {
            if let Some(status) = server.process.ended()? {
                bail!("h3_server.py ended at once: {status}");
            }
            Ok(fs::read_to_string(&server.printed)?.starts_with("ready\n").then_some(()))
        })
        .with_context(|| fs::read_to_string(&said).unwrap_or_default())?;
        Ok(server)
    }

    /// The client's port of each handshake that is complete.
    ///
    /// # Errors
    /// When it printed something else.
    pub fn handshakes(&self) -> Result<Vec<u16>> {
        let printed = fs::read_to_string(&self.printed)?;
        printed
            .lines()
            .skip(1)
            .map(|port| port.parse().with_context(|| format!("h3_server.py printed `{port}`")))
            .collect()
    }

    /// Lets Chromium, with a fresh profile and nothing but QUIC, load a page with pictures of `hosts` - 1 other hosts.
    /// The certificate is for none of these, so that it makes a connection for each.
    ///
    /// # Errors
    /// When it doesn't show the page.
    pub fn visit(&self, lab: &Lab, address: IpAddr, hosts: usize) -> Result<()> {
        let pictures = hosts - 1;
        let mut command = self.chromium(lab, address, "chromium", "*")?;
        let page = output(command.arg(format!("https://{SERVER_NAME}/{pictures}")))?;
        ensure!(page.matches("<img ").count() == pictures, "Chromium shows another page: {page}");
        Ok(())
    }

    /// Chromium, with a fresh profile of that name, on its way to a page of an nginx beside this server that offers HTTP/3.
    /// It prints the page with the protocols of its further requests: see [`protocols`].
    ///
    /// # Errors
    /// When openssl is missing.
    pub fn choosing(&self, lab: &Lab, address: IpAddr, profile: &str) -> Result<Command> {
        // A certificate that nobody signed does for QUIC only if some port of its host is forced to it.
        let mut command = self.chromium(lab, address, profile, &format!("{SERVER_NAME}:444"))?;
        command.arg(format!("https://{SERVER_NAME}/protocols.html"));
        Ok(command)
    }

    /// Chromium that prints a page; `forced`: where it speaks nothing but QUIC.
    fn chromium(&self, lab: &Lab, address: IpAddr, profile: &str, forced: &str) -> Result<Command> {
        let mut command = lab.client().command("timeout");
        command.args([VISIT, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-background-networking", &format!("--origin-to-force-quic-on={forced}")]);
        command.arg(format!("--user-data-dir={}", lab.file(profile).display()));
        command.arg(format!("--ignore-certificate-errors-spki-list={}", self.key_digest()?));
        // Each host of the test is the server, and there is no other host in the world.
        let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        command.arg(format!("--host-resolver-rules=MAP *.example {address}, MAP * ~NOTFOUND"));
        command.arg("--dump-dom").env("HOME", lab.file("home")).env_remove("DISPLAY");
        Ok(command)
    }

    /// What it shows to its clients.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// SHA-256 of the certificate's public key, base64.
    fn key_digest(&self) -> Result<String> {
        let pipe = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der \
                    | openssl dgst -sha256 -binary | base64";
        Ok(output(Command::new("sh").args(["-c", pipe]).arg(&self.certificate.certificate))?.trim().to_owned())
    }
}

/// The protocols in the page that [`Http3::choosing`] asks for, in the order of the requests: `h2`, `h3`, `failed`.
#[must_use]
pub fn protocols(page: &str) -> Vec<&str> {
    let told = page.split_once("data-protocols=\"").and_then(|(_, after)| after.split_once('"'));
    told.map_or_else(Vec::new, |(protocols, _)| protocols.split_whitespace().collect())
}

/// The installed Chromium's major version.
///
/// # Errors
/// When it isn't installed.
pub fn chromium_version() -> Result<String> {
    let said = output(Command::new("chromium").arg("--version"))?;
    let version = said.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    let version = version.with_context(|| format!("chromium says `{said}`"))?;
    Ok(version.split('.').next().unwrap_or(version).to_owned())
}

/// A version of DTLS, and what openssl must be told to speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtls {
    /// RFC 4347. Its hashes are too weak for openssl's defaults.
    V1_0,
    /// RFC 6347.
    V1_2,
}

impl Dtls {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::V1_0 => &["-dtls1", "-cipher", "DEFAULT@SECLEVEL=0"],
            Self::V1_2 => &["-dtls1_2"],
        }
    }
}

/// Makes one handshake between openssl's client and its server, which asks for a cookie first.
///
/// # Errors
/// When there is none.
pub fn dtls_handshake(lab: &Lab, certificate: &Certificate, version: Dtls, server: IpAddr) -> Result<()> {
    let said = lab.file("s_server.out");
    let mut command = lab.server().command("openssl");
    command.arg("s_server").args(version.arguments()).args(["-listen", "-naccept", "1", "-accept", "443"]);
    command.arg(if server.is_ipv6() { "-6" } else { "-4" });
    command.arg("-cert").arg(&certificate.certificate).arg("-key").arg(&certificate.key);
    // It ends with its input.
    command.stdin(Stdio::piped()).stdout(File::create(&said)?).stderr(Stdio::null());
    let _server = Process::start("openssl s_server", &mut command)?;
    until("openssl s_server to listen", PATIENCE, || Ok(fs::read_to_string(&said)?.contains("ACCEPT").then_some(())))?;
    let mut command = lab.client().command("timeout");
    command.args(["20", "openssl", "s_client"]).args(version.arguments());
    command.args(["-connect", &SocketAddr::new(server, 443).to_string(), "-servername", SERVER_NAME]);
    output(&mut command)?;
    Ok(())
}

/// A self-made certificate for [`dtls_handshake`].
///
/// # Errors
/// When openssl is missing.
pub fn dtls_certificate(lab: &Lab) -> Result<Certificate> {
    let directory = lab.file("dtls");
    fs::create_dir(&directory)?;
    Certificate::make(&directory)
}
