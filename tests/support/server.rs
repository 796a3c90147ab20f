//! nginx with TLS in the lab's server namespace: HTTP/1.1 and h2 on port 443, and plain HTTP on a port that nobody
//! protects. Out: a running server, and the requests it answered.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::deadline::{PATIENCE, until};
use crate::lab::Lab;
use crate::process::{Process, output};

/// The name in the certificate and in every client's SNI.
pub const SERVER_NAME: &str = "shop.example";
/// Plain HTTP: not a protected port.
pub const PLAIN_PORT: u16 = 8080;

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";

/// A page that says over which protocols a browser came back, of which it offers HTTP/3 besides its own.
const PROTOCOLS: &str = include_str!("../clients/protocols.html");

/// A key and its self-made certificate for [`SERVER_NAME`], in files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
}

impl Certificate {
    /// Makes `key.pem` and `certificate.pem` in a directory.
    ///
    /// # Errors
    /// When openssl is missing.
    pub fn make(directory: &Path) -> Result<Self> {
        let made = Self { key: directory.join(KEY), certificate: directory.join(CERTIFICATE) };
        output(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
                .args(["-days", "2", "-subj", &format!("/CN={SERVER_NAME}")])
                .args(["-addext", &format!("subjectAltName=DNS:{SERVER_NAME}")])
                .arg("-keyout")
                .arg(&made.key)
                .arg("-out")
                .arg(&made.certificate),
        )?;
        Ok(made)
    }
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    access_log: PathBuf,
}

impl Nginx {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When nginx or openssl is missing, or it doesn't answer in time; the error holds its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, "")
    }

    /// Likewise, with further parameters of its `listen` lines: `deferred`, `fastopen=256`.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_with(lab: &Lab, listen: &str) -> Result<Self> {
        let directory = directory(lab)?;
        Certificate::make(&directory)?;
        Self::run(lab, &directory, listen)
    }

    /// Likewise, with a certificate that another server has too.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_beside(lab: &Lab, other: &Certificate) -> Result<Self> {
        let directory = directory(lab)?;
        fs::copy(&other.key, directory.join(KEY))?;
        fs::copy(&other.certificate, directory.join(CERTIFICATE))?;
        Self::run(lab, &directory, "")
    }

    fn run(lab: &Lab, directory: &Path, listen: &str) -> Result<Self> {
        fs::write(directory.join("protocols.html"), PROTOCOLS)?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, CONFIGURATION.replace(LISTEN, &format!("backlog=4096 {listen}")))?;
        let errors = directory.join("error.log");
        let mut command = lab.web().command("nginx");
        command.arg("-p").arg(directory).arg("-c").arg(&configuration).args(["-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(directory.join("stderr"))?);
        let process = Process::start("nginx", &mut command)?;
        let mut server = Self { process, access_log: directory.join("access.log") };
        until("nginx to answer", PATIENCE, || server.answers(lab))
            .with_context(|| fs::read_to_string(&errors).unwrap_or_default())?;
        Ok(server)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The client ports of the requests answered on port 443 so far.
    ///
    /// # Errors
    /// When the access log can't be read.
    pub fn answered(&self) -> Result<Vec<u16>> {
        let log = fs::read_to_string(&self.access_log)?;
        log.lines().map(|port| port.parse().with_context(|| format!("access log line `{port}`"))).collect()
    }

    fn answers(&mut self, lab: &Lab) -> Result<Option<()>> {
        if let Some(status) = self.process.ended()? {
            bail!("nginx ended at once: {status}");
        }
        let url = "https://127.0.0.1/ready";
        let asked = output(lab.web().command("curl").args(["-sk", "--noproxy", "*", "--max-time", "2", url]));
        Ok(asked.is_ok().then_some(()))
    }
}

/// A directory for a server's files.
fn directory(lab: &Lab) -> Result<PathBuf> {
    let directory = lab.file("nginx");
    fs::create_dir(&directory)?;
    Ok(directory)
}

/// What the parameters of a `listen` line are put in place of.
const LISTEN: &str = "backlog=4096";

/// Paths are below the directory given by `-p`. One worker: the machine's cores are few, and the clients need them.
const CONFIGURATION: &str = "\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 8192; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    default_type text/plain;
    log_format port $remote_port;
    access_log off;
    keepalive_timeout 75s;
    keepalive_requests 1000000;
    server {
        listen 443 ssl http2 backlog=4096;
        listen [::]:443 ssl http2 ipv6only=on backlog=4096;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        location / { access_log access.log port; return 200 'hello\\n'; }
        location = /ready { return 200 'ready\\n'; }
        location = /protocols.html { root .; default_type text/html; add_header Alt-Svc 'h3=\":443\"; ma=3600'; }
    }
    server {
        listen 8080;
        location / { return 200 'hello\\n'; }
        location = /status { stub_status; }
    }
}
";

#[cfg(test)]
mod tests {
    use super::{CONFIGURATION, PLAIN_PORT};

    #[test]
    fn the_configuration_has_the_plain_port() {
        assert!(CONFIGURATION.contains(&format!("listen {PLAIN_PORT};")));
    }
}
