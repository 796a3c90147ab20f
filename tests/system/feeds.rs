//! Lists of addresses, from a real HTTPS server to what the daemon knows (threats.md T10, T38).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{Lab, LabOptions, SERVER_V4};
use detector_tests::process::{Process, output};
use detector_tests::programs;
use serde_json::Value;

/// A publisher: nginx with a certificate of a CA of its own, for its address.
struct Publisher {
    lists: PathBuf,
    _nginx: Process,
    lab: Lab,
}

const NGINX: &str = "\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 64; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    access_log requests.log;
    server {
        listen 8443 ssl;
        ssl_certificate leaf.pem;
        ssl_certificate_key leaf.key;
        root lists;
        location = /flaky.txt { if (!-f $document_root/well) { return 503; } }
        location = /moved { return 302 http://10.77.0.1:8080/bad.txt; }
    }
    server { listen 8080; root lists; }
}
";

/// A CA, and a leaf of it for the server's address.
const CERTIFICATES: &str = "\
set -e
new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
$new -x509 -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem
$new -subj /CN=publisher -keyout leaf.key -out leaf.csr
printf 'subjectAltName=IP:10.77.0.1\\n' >extensions
openssl x509 -req -days 2 -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out leaf.pem
";

impl Publisher {
    fn start() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let directory = lab.file("publisher");
        let lists = directory.join("lists");
        fs::create_dir_all(&lists)?;
        output(Command::new("sh").args(["-c", CERTIFICATES]).current_dir(&directory))?;
        // nginx's workers without privileges read them.
        output(Command::new("chmod").args(["-R", "a+rX"]).arg(&directory))?;
        output(Command::new("chmod").arg("0711").arg(directory.parent().context("a lab has a directory")?))?;
        fs::write(directory.join("nginx.conf"), NGINX)?;
        let mut command = lab.server().command("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf")).args(["-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Process::start("nginx", &mut command)?;
        let this = Self { lists, _nginx: nginx, lab };
        this.publish("ready", "ready\n")?;
        until("the publisher to answer", PATIENCE, || {
            let url = format!("https://{SERVER_V4}:8443/ready");
            let mut curl = this.lab.client().command("curl");
            curl.args(["-s", "--noproxy", "*", "--max-time", "2", "--cacert"]).arg(this.authority()).arg(url);
            Ok(output(&mut curl).is_ok().then_some(()))
        })?;
        Ok(this)
    }

    fn authority(&self) -> PathBuf {
        self.lab.file("publisher").join("ca.pem")
    }

    fn publish(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.lists.join(name), text)?)
    }

    /// The part of the configuration, with these lists.
    fn config(&self, lists: &str) -> String {
        let (directory, authority) = (self.lab.file("feeds"), self.authority());
        let (directory, authority) = (directory.display(), authority.display());
        format!("[feeds]\ndirectory = \"{directory}\"\ncertificates = \"{authority}\"\n{lists}")
    }

    /// `detector feeds` with a configuration.
    fn feeds(&self, config: &str, arguments: &[&str]) -> Result<Output> {
        let file = self.lab.file("feeds.toml");
        fs::write(&file, config)?;
        let mut command = self.lab.client().command(programs::detector()?);
        for proxy in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.args(["feeds"]).args(arguments).args(["--format", "json", "--config"]).arg(file);
        command.stdin(Stdio::null()).output().context("detector feeds")
    }

    /// One list, updated: its row.
    fn update(&self, config: &str, more: &[&str]) -> Result<(Option<i32>, Value)> {
        let done = self.feeds(config, &[&["update"], more].concat())?;
        let row = serde_json::from_slice(&done.stdout).with_context(|| format!("{done:?}"))?;
        Ok((done.status.code(), row))
    }

    fn stored(&self) -> Result<String> {
        Ok(fs::read_to_string(self.lab.file("feeds").join("bad.list"))?)
    }
}

const BAD: &str = "lists.bad = { class = \"abuse\", url = \"https://10.77.0.1:8443/bad.txt\" }\n";

/// So many addresses that nobody has.
fn addresses(count: u32) -> String {
    (0..count).map(|n| format!("198.{}.{}.{}\n", 18 + (n >> 15), n >> 7 & 255, n << 1 & 255)).collect()
}

#[test]
fn a_poisoned_list_is_refused_and_the_last_good_one_stays() -> Result<()> {
    let publisher = Publisher::start()?;
    let config = publisher.config(BAD);
    let good = addresses(1000);
    publisher.publish("bad.txt", &good)?;
    let (code, row) = publisher.update(&config, &[])?;
    assert_eq!((code, row["prefixes"].as_u64(), row["added"].as_u64()), (Some(0), Some(1000), Some(1000)), "{row}");
    let stored = publisher.stored()?;
    ensure!(stored.lines().nth(1) == Some("198.18.0.0/32"), "{}", &stored[..200]);
    for (what, text, says) in [
        ("everybody", format!("{good}0.0.0.0/0\n"), "0.0.0.0/0"),
        ("everybody of IPv6", format!("{good}::/0\n"), "::/0"),
        ("a million", addresses(1_000_000), "more than 100000"),
        ("a page", "<html>\n<body>\nGo away\n</body>\n</html>\n".to_owned(), "neither an address nor a prefix"),
        ("nothing", String::new(), "nothing in it"),
        ("another list", addresses(1300), "30 % of it changed"),
    ] {
        publisher.publish("bad.txt", &text)?;
        let (code, row) = publisher.update(&config, &[])?;
        let error = row["error"].as_str().unwrap_or_default();
        ensure!(code == Some(1) && error.contains(says), "{what}: {code:?} {row}");
        ensure!(publisher.stored()? == stored, "{what}: the last good one is gone");
    }
    let (code, row) = publisher.update(&config, &["--accept"])?;
    assert_eq!((code, row["prefixes"].as_u64(), row["added"].as_u64()), (Some(0), Some(1300), Some(300)), "{row}");
    // The host's own, private ones and resolvers of others: what is nobody's on the Internet is left out.
    publisher.publish("bad.txt", &format!("{}10.77.0.1\n10.0.0.0/8\n127.0.0.1\n192.168.1.1\n", addresses(1300)))?;
    let (code, row) = publisher.update(&config, &[])?;
    assert_eq!((code, row["left_out"].as_u64(), row["prefixes"].as_u64()), (Some(0), Some(4), Some(1300)), "{row}");
    Ok(())
}

#[test]
fn a_publisher_is_believed_by_its_certificate_and_its_checksum() -> Result<()> {
    let publisher = Publisher::start()?;
    let text = addresses(10);
    publisher.publish("bad.txt", &text)?;
    let sums = output(Command::new("sha256sum").arg("bad.txt").current_dir(&publisher.lists))?;
    publisher.publish("bad.sha256", &sums)?;
    let digits = sums.split(' ').next().context("sha256sum prints digits first")?;
    let list = |more: &str| BAD.replace(" }", &format!(", {more} }}"));
    let error = |config: &str| -> Result<Option<String>> {
        let (_, row) = publisher.update(config, &[])?;
        Ok(row["error"].as_str().map(str::to_owned))
    };
    for good in [format!("sha256 = \"{digits}\""), "checksum_url = \"https://10.77.0.1:8443/bad.sha256\"".to_owned()] {
        assert_eq!(error(&publisher.config(&list(&good)))?, None, "{good}");
    }
    let wrong = error(&publisher.config(&list(&format!("sha256 = \"{}\"", "0".repeat(64)))))?.unwrap_or_default();
    ensure!(wrong.contains(digits) && wrong.contains("should be 0000"), "{wrong}");
    let other = publisher.config(BAD).replace("publisher/ca.pem", "publisher/leaf.pem");
    let unknown = error(&other)?.context("a publisher that nobody vouches for")?;
    ensure!(unknown.contains("can't fetch"), "{unknown}");
    let moved = error(&publisher.config(&BAD.replace("bad.txt", "moved")))?.context("sent on to plain HTTP")?;
    ensure!(moved.contains("can't fetch"), "{moved}");
    let gone = error(&publisher.config(&BAD.replace("bad.txt", "gone.txt")))?.context("there is no such list")?;
    ensure!(gone.contains("404"), "{gone}");
    let asked = fs::read_to_string(publisher.lab.file("publisher").join("requests.log"))?;
    assert_eq!(asked.matches("/gone.txt").count(), 1, "what will not change is asked for once");
    Ok(())
}

/// What may work a moment later is tried again, after pauses of chance: five times at most, some seconds in all.
#[test]
fn a_publisher_in_trouble_is_asked_again_and_one_that_says_something_else_is_not() -> Result<()> {
    let publisher = Publisher::start()?;
    publisher.publish("flaky.txt", &addresses(10))?;
    let config = publisher.config(&BAD.replace("bad.txt", "flaky.txt"));
    let answers = |path: &str, status: &str| -> Result<usize> {
        let log = fs::read_to_string(publisher.lab.file("publisher").join("requests.log"))?;
        let (path, status) = (format!("GET /{path} "), format!("\" {status} "));
        Ok(log.lines().filter(|line| line.contains(&path) && line.contains(&status)).count())
    };
    let began = Instant::now();
    let (code, row) = thread::scope(|scope| {
        let update = scope.spawn(|| publisher.update(&config, &[]));
        until("two tries", PATIENCE, || Ok((answers("flaky.txt", "503")? >= 2).then_some(())))?;
        publisher.publish("well", "")?;
        update.join().map_err(|_| anyhow::anyhow!("the update panicked"))?
    })?;
    let took = began.elapsed();
    assert_eq!((code, row["prefixes"].as_u64()), (Some(0), Some(10)), "{row}");
    let (refused, given) = (answers("flaky.txt", "503")?, answers("flaky.txt", "200")?);
    ensure!(given == 1 && refused <= 4 && took < Duration::from_secs(35), "{refused} times 503, {took:?}");
    // A list that isn't the one that was meant is the same a moment later.
    publisher.publish("bad.txt", &addresses(10))?;
    let pinned = BAD.replace(" }", &format!(", sha256 = \"{}\" }}", "0".repeat(64)));
    let (code, row) = publisher.update(&publisher.config(&pinned), &[])?;
    ensure!(code == Some(1) && row["error"].as_str().is_some_and(|error| error.contains("SHA-256")), "{row}");
    assert_eq!(answers("bad.txt", "200")?, 1, "it is asked for once");
    Ok(())
}

/// threats.md T10: the largest list, while the daemon runs.
#[test]
fn the_daemon_reads_a_new_list_by_itself() -> Result<()> {
    let publisher = Publisher::start()?;
    let config = publisher.config(BAD);
    let options = DaemonOptions { config: config.clone().leak(), ..DaemonOptions::default() };
    let daemon = Daemon::start(&publisher.lab, options)?;
    let prefixes = || {
        Ok::<f64, anyhow::Error>(
            daemon.metrics(&publisher.lab)?.sum("detector_table_entries", &[("table", "list_prefixes")]),
        )
    };
    let shipped = until("the shipped ranges", PATIENCE, || Ok(Some(prefixes()?).filter(|count| *count > 1000.0)))?;
    publisher.publish("bad.txt", &addresses(100_000))?;
    let began = Instant::now();
    let (code, row) = publisher.update(&config, &[])?;
    assert_eq!((code, row["prefixes"].as_u64()), (Some(0), Some(100_000)), "{row}");
    until("the daemon to know them", PATIENCE, || Ok((prefixes()? >= shipped + 100_000.0).then_some(())))?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(10), "fetched and known after {took:?}");
    // Nobody believes what stands on the disk either.
    fs::write(publisher.lab.file("feeds").join("bad.list"), "0.0.0.0/0\n")?;
    until("the alarm", PATIENCE, || {
        let refused = daemon
            .metrics(&publisher.lab)?
            .sum("detector_files_total", &[("file", "reputation"), ("outcome", "too_wide")]);
        Ok((refused == 1.0).then_some(()))
    })?;
    assert_eq!(prefixes()?, shipped + 100_000.0, "the last good one stays");
    Ok(())
}
