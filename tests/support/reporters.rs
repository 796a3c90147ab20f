//! Web servers that report each request to the daemon, each with the lines of `dist/` and as little else as it starts
//! with: TLS on port 443 of the server's namespace, plain HTTP on 8080 (but for Caddy), a page for every path, workers of the user www-data.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::daemon::signal_socket;
use crate::deadline::{PATIENCE, until};
use crate::lab::{Lab, Namespace};
use crate::process::{Process, output};
use crate::programs;
use crate::server::Certificate;

/// Where the servers' own origin listens.
const ORIGIN: &str = "8090";

/// What the lines of `dist/` have in place of the lab's socket.
const SOCKET: &str = "/run/detector/signals.sock";

/// Where the lines of `dist/` ask.
const DECISION: &str = "/run/detector/decision.sock";

/// A running web server.
#[derive(Debug)]
pub struct Reporter {
    process: Process,
}

/// A server behind the web servers, for pages below `/slow/` and WebSockets below `/socket/` (`clients/origin.py`).
///
/// # Errors
/// When it doesn't listen in time.
pub fn origin(lab: &Lab) -> Result<Process> {
    let mut command = lab.web().command("/usr/bin/python3");
    command.arg("-B").arg(programs::script("origin.py")).arg(ORIGIN);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process::start("origin.py", &mut command)?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "origin.py doesn't listen: {line}");
    Ok(process)
}

/// HAProxy with a configuration of its own, which reports nothing: a proxy before a web server. `DIRECTORY` in it stands for
/// that of a certificate with its key, `both.pem`.
///
/// # Errors
/// When it is missing; it may not listen yet.
pub fn proxy(lab: &Lab, namespace: &Namespace, configuration: &str) -> Result<Process> {
    let directory = directory(lab, "proxy")?;
    both(&directory)?;
    let text = configuration.replace("DIRECTORY", &directory.display().to_string());
    fs::write(directory.join("haproxy.cfg"), text)?;
    let mut command = namespace.command("haproxy");
    command.arg("-db").arg("-f").arg(directory.join("haproxy.cfg"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(directory.join("stderr"))?);
    Process::start("haproxy", &mut command)
}

/// Certificate and key in one file, as HAProxy wants them.
fn both(directory: &Path) -> Result<PathBuf> {
    let pem = directory.join("both.pem");
    let read = |file: &str| fs::read_to_string(directory.join(file));
    fs::write(&pem, read("certificate.pem")? + &read("key.pem")?)?;
    Ok(pem)
}

/// A file of `dist/`.
///
/// # Errors
/// When there is none of that name.
pub fn shipped(file: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

impl Reporter {
    /// nginx, with njs or without.
    ///
    /// # Errors
    /// When it is missing, or doesn't answer in time; the error holds its log.
    pub fn nginx(lab: &Lab, njs: bool) -> Result<Self> {
        Self::nginx_with(lab, njs, HELLO)
    }

    /// nginx, with njs, and the files of a directory as its site.
    ///
    /// # Errors
    /// Likewise.
    pub fn nginx_serving(lab: &Lab, site: &Path) -> Result<Self> {
        Self::nginx_with(lab, true, &format!("location / {{ root {}; index index.html; }}", site.display()))
    }

    /// The same, which asks before it answers, with an application behind it that serves the files. `asked.log` of the lab
    /// has what it was answered, line by line as JSON, and `told.log` the same of what the application was told.
    ///
    /// # Errors
    /// Likewise.
    pub fn nginx_asking(lab: &Lab, site: &Path, decision: &Path) -> Result<Self> {
        let directory = lab.file("snippets");
        fs::create_dir(&directory)?;
        for name in ["server", "location", "proxy"] {
            let name = format!("detector-decision-{name}.conf");
            fs::write(directory.join(&name), shipped(&format!("nginx/{name}"))?)?;
        }
        let http = replaced("nginx/detector-decision-http.conf", DECISION, &decision.display().to_string())?;
        let absent = "$detector_asked_names { default \"\"; }";
        ensure!(http.contains(absent), "dist/nginx/detector-decision-http.conf has no `{absent}`");
        let http = http.replace(absent, "$detector_asked_names { default $detector_header_names; }");
        let fill = |text: &str| {
            let text = text.replace("SNIPPETS", &directory.display().to_string());
            let text =
                text.replace("SITE", &site.display().to_string()).replace("LOGS/", &lab.file("").display().to_string());
            text.replace("SOCKET", &format!("syslog:server=unix:{},nohostname", socket(lab)))
        };
        fs::write(directory.join("http.conf"), http + &fill(APPLICATION))?;
        let include = format!("include {}/http.conf;", directory.display());
        Self::nginx_configured(lab, true, &fill(ASKING), &include)
    }

    fn nginx_with(lab: &Lab, njs: bool, pages: &str) -> Result<Self> {
        Self::nginx_configured(lab, njs, pages, "")
    }

    fn nginx_configured(lab: &Lab, njs: bool, pages: &str, http: &str) -> Result<Self> {
        let directory = directory(lab, "nginx")?;
        fs::create_dir(directory.join("conf.d"))?;
        let mut lines = replaced("nginx/detector.conf", SOCKET, &socket(lab))?;
        let mut load = "";
        if njs {
            let absent = "map \"\" $detector_header_names";
            ensure!(lines.contains(absent), "dist/nginx/detector.conf has no `{absent}`");
            lines = lines.replace(absent, &format!("# {absent}"));
            for file in ["header-names.conf", "header-names.js"] {
                fs::write(directory.join("conf.d").join(file), shipped(&format!("nginx/{file}"))?)?;
            }
            load = "load_module /usr/lib/nginx/modules/ngx_http_js_module.so;";
        }
        fs::write(directory.join("conf.d/detector.conf"), lines)?;
        let text = NGINX.replace("LOAD_MODULE", load).replace("PAGES", pages).replace("HTTP", http);
        fs::write(directory.join("nginx.conf"), text)?;
        let mut command = lab.web().command("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf")).args(["-e", "error.log"]);
        Self::start(lab, "nginx", command, &directory)
    }

    /// HAProxy, in a chroot that is the lab's directory.
    ///
    /// # Errors
    /// Likewise.
    pub fn haproxy(lab: &Lab) -> Result<Self> {
        let directory = directory(lab, "haproxy")?;
        let pem = both(&directory)?;
        let path = signal_socket(lab);
        let inside = path.file_name().context("a socket has a name")?.to_string_lossy();
        let lines = replaced("haproxy/detector.cfg", "/dev/detector.sock len", &format!("/{inside} len"))?;
        let chroot = path.parent().context("a socket is in a directory")?.display().to_string();
        let text = HAPROXY.replace("CHROOT", &chroot).replace("CERTIFICATE", &pem.display().to_string());
        fs::write(directory.join("haproxy.cfg"), text.replace("DETECTOR", &lines))?;
        let mut command = lab.web().command("haproxy");
        command.arg("-db").arg("-f").arg(directory.join("haproxy.cfg"));
        Self::start(lab, "haproxy", command, &directory)
    }

    /// Caddy.
    ///
    /// # Errors
    /// Likewise.
    pub fn caddy(lab: &Lab) -> Result<Self> {
        let directory = directory(lab, "caddy")?;
        let lines = replaced("caddy/Caddyfile", SOCKET, &socket(lab))?;
        let site = CADDY.replace("DIRECTORY", &directory.display().to_string());
        let (options, site) = site.split_once("SNIPPET").context("the site has a place for the snippet")?;
        fs::write(directory.join("Caddyfile"), [options, &lines, site].concat())?;
        let mut command = lab.web().command("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(directory.join("Caddyfile"));
        command.env("HOME", &directory).env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
        Self::start(lab, "caddy", command, &directory)
    }

    /// Apache.
    ///
    /// # Errors
    /// Likewise.
    pub fn apache(lab: &Lab) -> Result<Self> {
        let directory = directory(lab, "apache")?;
        fs::create_dir(directory.join("pages"))?;
        fs::write(directory.join("pages/index.html"), "hello\n")?;
        let relay = format!("{} relay --socket", programs::detector()?.display());
        let relay = format!("{relay} {}", socket(lab));
        let lines = replaced("apache/detector.conf", "/usr/bin/detector relay", &relay)?;
        fs::write(directory.join("detector.conf"), lines)?;
        fs::write(directory.join("apache.conf"), APACHE.replace("DIRECTORY", &directory.display().to_string()))?;
        let mut command = lab.web().command("apache2");
        command.arg("-DFOREGROUND").arg("-f").arg(directory.join("apache.conf"));
        Self::start(lab, "apache2", command, &directory)
    }

    fn start(lab: &Lab, name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let log = directory.join("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let mut reporter = Self { process: Process::start(name, &mut command)? };
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        until(&format!("{name} to answer"), PATIENCE, || {
            let ended = reporter.process.ended()?;
            ensure!(ended.is_none(), "{name} ended at once: {ended:?}");
            let url = "https://shop.example/ready";
            let resolve = ["--resolve", "shop.example:443:127.0.0.1"];
            let asked = lab
                .web()
                .command("curl")
                .args(["-sk", "--noproxy", "*", "--max-time", "2", url])
                .args(resolve)
                .output()?;
            Ok(asked.status.success().then_some(()))
        })
        .with_context(|| read(log.clone()) + &read(directory.join("error.log")))?;
        Ok(reporter)
    }
}

fn socket(lab: &Lab) -> String {
    signal_socket(lab).display().to_string()
}

/// The lines of `dist/` with another path in them, which they must have.
fn replaced(file: &str, path: &str, by: &str) -> Result<String> {
    let lines = shipped(file)?;
    ensure!(lines.contains(path), "dist/{file} has no `{path}`");
    Ok(lines.replace(path, by))
}

/// A directory for a server's files, with a certificate; workers without privileges get at what is below it.
fn directory(lab: &Lab, name: &str) -> Result<PathBuf> {
    let directory = lab.file(name);
    fs::create_dir(&directory)?;
    let above = directory.parent().context("a lab has a directory")?;
    fs::set_permissions(above, fs::Permissions::from_mode(0o711))?;
    Certificate::make(&directory)?;
    output(Command::new("chmod").arg("0644").arg(directory.join("key.pem")))?;
    Ok(directory)
}

/// What the web servers answer to every path.
const HELLO: &str = "location / { return 200 'hello\\n'; }";

/// What asks, in the place of the pages.
const ASKING: &str = "\
        include SNIPPETS/detector-decision-server.conf;
        include SNIPPETS/detector-decision-location.conf;
        access_log SOCKET detector;
        access_log LOGS/asked.log asked;
        location / {
            include SNIPPETS/detector-decision-proxy.conf;
            proxy_pass http://127.0.0.1:8091;
            proxy_set_header Host $host;
        }
";

/// The application behind it.
const APPLICATION: &str = "
log_format asked escape=json '{\"path\":\"$request_uri\",\"status\":\"$status\",\"decision\":\"$detector_decision\",'
    '\"confidence\":\"$detector_confidence\",\"score\":\"$detector_score\",\"ja4\":\"$detector_ja4\",'
    '\"reasons\":\"$detector_reasons\",\"id\":\"$detector_id\"}';
log_format told escape=json '{\"path\":\"$request_uri\",\"status\":\"$status\",'
    '\"decision\":\"$http_x_detector_decision\",\"confidence\":\"$http_x_detector_confidence\",'
    '\"score\":\"$http_x_detector_score\",\"ja4\":\"$http_x_detector_ja4\",'
    '\"reasons\":\"$http_x_detector_reasons\",\"id\":\"$http_x_detector_id\"}';
server {
    listen 127.0.0.1:8091;
    access_log LOGS/told.log told;
    root SITE;
    index index.html;
    error_page 404 = @missing;
    location @missing { return 200 'hello\\n'; }
}
";

const NGINX: &str = "\
LOAD_MODULE
user www-data;
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 1024; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000;
    include conf.d/*.conf;
    HTTP
    server {
        listen 443 ssl http2;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        PAGES
        location ~ ^/(slow|socket)/ {
            proxy_pass http://127.0.0.1:8090;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Connection $http_connection;
            proxy_set_header Upgrade $http_upgrade;
        }
    }
    server { listen 8080; PAGES }
    server { listen 8081 proxy_protocol; PAGES }
    server {
        listen 8445 ssl http2 proxy_protocol;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        PAGES
    }
}
";

const HAPROXY: &str = "\
global
    chroot CHROOT
    user www-data
    group www-data
    maxconn 100
defaults
    mode http
    timeout client 75s
    timeout http-keep-alive 75s
    timeout connect 5s
    timeout server 75s
backend origin
    server origin 127.0.0.1:8090
frontend site
    bind :443 ssl crt CERTIFICATE alpn h2,http/1.1
    bind :8080
DETECTOR
    use_backend origin if { path_beg /slow/ /socket/ }
    http-request return status 200 content-type text/plain string hello unless { path_beg /slow/ /socket/ }
";

const CADDY: &str = "\
{
	admin off
	auto_https off
	storage file_system DIRECTORY/storage
}
SNIPPET
https://shop.example {
	tls DIRECTORY/certificate.pem DIRECTORY/key.pem
	import detector
	respond hello
}
";

const APACHE: &str = "\
ServerRoot DIRECTORY
ServerName shop.example
DefaultRuntimeDir DIRECTORY
PidFile DIRECTORY/apache.pid
ErrorLog DIRECTORY/error.log
Listen 443
Listen 8080
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule setenvif_module /usr/lib/apache2/modules/mod_setenvif.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
User www-data
Group www-data
Protocols h2 http/1.1
SSLEngine on
SSLCertificateFile DIRECTORY/certificate.pem
SSLCertificateKeyFile DIRECTORY/key.pem
DocumentRoot DIRECTORY/pages
FallbackResource /index.html
Include DIRECTORY/detector.conf
MaxKeepAliveRequests 0
<VirtualHost *:8080>
SSLEngine off
</VirtualHost>
";
