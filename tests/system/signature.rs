//! Done when 4 of part 2: the SYN signature is what tshark reads from the same packet, field by field, for Linux with its
//! defaults and with changed settings; systems that the lab doesn't have, built by scapy, are classed apart.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use detector::capture::{Packet, frame, pcap};
use detector::signature::{Class, SynSignature};
use detector_tests::capture::Tcpdump;
use detector_tests::clients::{Kind, Target, batch};
use detector_tests::daemon::offline;
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_INTERFACE, CLIENT_V4, Lab, LabOptions, SERVER_V4, SERVER_V6};
use detector_tests::process::output;
use detector_tests::server::Nginx;
use serde_json::Value;

/// What is changed in the client's namespace, back to what, and the class that is sure all the same.
struct Setting {
    name: &'static str,
    change: &'static [&'static str],
    back: &'static [&'static str],
    class: Class,
}

const fn setting(name: &'static str, change: &'static [&'static str], back: &'static [&'static str]) -> Setting {
    Setting { name, change, back, class: Class::Linux }
}

/// Words that begin with `net.` are for sysctl, others for ip.
const SETTINGS: [Setting; 12] = [
    setting("defaults", &[], &[]),
    setting("no timestamps", &["net.ipv4.tcp_timestamps=0"], &["net.ipv4.tcp_timestamps=1"]),
    setting("no SACK", &["net.ipv4.tcp_sack=0"], &["net.ipv4.tcp_sack=1"]),
    setting("no window scaling", &["net.ipv4.tcp_window_scaling=0"], &["net.ipv4.tcp_window_scaling=1"]),
    Setting {
        name: "none of the three",
        change: &["net.ipv4.tcp_timestamps=0", "net.ipv4.tcp_sack=0", "net.ipv4.tcp_window_scaling=0"],
        back: &["net.ipv4.tcp_timestamps=1", "net.ipv4.tcp_sack=1", "net.ipv4.tcp_window_scaling=1"],
        class: Class::Unknown,
    },
    setting(
        "another TTL",
        &["net.ipv4.ip_default_ttl=100", "net.ipv6.conf.client0.hop_limit=200"],
        &["net.ipv4.ip_default_ttl=64", "net.ipv6.conf.client0.hop_limit=64"],
    ),
    setting("ECN", &["net.ipv4.tcp_ecn=1"], &["net.ipv4.tcp_ecn=2"]),
    setting("fragments allowed", &["net.ipv4.ip_no_pmtu_disc=1"], &["net.ipv4.ip_no_pmtu_disc=0"]),
    setting("a small buffer", &["net.ipv4.tcp_rmem=4096 8192 16384"], &["net.ipv4.tcp_rmem=4096 131072 6291456"]),
    setting("a small MTU", &["link set client0 mtu 1380"], &["link set client0 mtu 1500"]),
    setting("a small MSS", &["route add 10.77.0.1 dev client0 advmss 1000"], &["route del 10.77.0.1"]),
    setting("a small window", &["route add 10.77.0.1 dev client0 window 4000"], &["route del 10.77.0.1"]),
];

#[test]
fn linux_settings_read_as_tshark_reads_them() -> Result<()> {
    assert_eq!(CLIENT_INTERFACE, "client0");
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let tcpdump = Tcpdump::start(&lab)?;
    let mut made = Vec::new();
    for setting in &SETTINGS {
        apply(&lab, setting.change)?;
        for address in [SERVER_V4, SERVER_V6] {
            let reports = batch(&lab, &Target::new(address), &[Kind::Curl], 1)?;
            let [report] = reports.as_slice() else { anyhow::bail!("{}: {reports:?}", setting.name) };
            ensure!(report.answered(), "{}: {report:?}", setting.name);
            made.push((setting, address, report.port.context("the client couldn't tell its port")?));
        }
        apply(&lab, setting.back)?;
    }
    let capture = tcpdump.finish(&lab)?;
    let (lines, syns) = (offline(&capture)?, tshark(&capture)?);
    let mut signatures = BTreeMap::new();
    for (setting, address, port) in made {
        let at = format!("{} to {address}", setting.name);
        let line = lines
            .iter()
            .find(|line| line["src_port"] == port && line["dst_ip"] == address.to_string())
            .with_context(|| format!("{at}: no hello from port {port}"))?;
        let said = line["syn"].as_str().with_context(|| format!("{at}: no SYN in {line}"))?;
        let read = syns.get(&(address, port)).with_context(|| format!("{at}: tshark has no SYN from port {port}"))?;
        ensure_same(&at, said, read)?;
        ensure!(line["syn_class"] == setting.class.label(), "{at}: {said}: {}", line["syn_class"]);
        ensure!(line["syn_to_hello_us"].as_u64().is_some_and(|micros| micros < 10_000_000), "{at}: {line}");
        signatures.insert((address, said.to_owned()), setting.name);
    }
    // Some settings are IPv4's alone, so IPv6 shows fewer.
    let distinct = signatures.keys().filter(|(address, _)| *address == SERVER_V4).count();
    ensure!(distinct == SETTINGS.len(), "{distinct} signatures of {} settings: {signatures:?}", SETTINGS.len());
    show(&format!("{} settings over IPv4 and IPv6, {distinct} signatures, all as tshark reads them", SETTINGS.len()));
    Ok(())
}

fn apply(lab: &Lab, changes: &[&str]) -> Result<()> {
    for change in changes {
        if change.starts_with("net.") {
            output(lab.client().command("sysctl").args(["-q", "-w", change]))?;
        } else {
            lab.client().ip(change)?;
        }
    }
    Ok(())
}

#[test]
fn systems_that_scapy_builds_are_classed_apart() -> Result<()> {
    let wanted = [
        ("linux", Class::Linux),
        ("windows", Class::Windows),
        ("windows with timestamps", Class::Windows),
        ("macos", Class::Apple),
        ("freebsd", Class::Bsd),
        ("openbsd", Class::Bsd),
        ("zmap", Class::Scanner),
        ("masscan", Class::Scanner),
        ("nmap", Class::Scanner),
        ("linux that imitates", Class::Linux),
        ("nobody", Class::Unknown),
    ];
    let directory = tempfile::tempdir()?;
    let capture = directory.path().join("syns.pcap");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/syns.py");
    let names = output(Command::new("/usr/bin/python3").arg("-B").arg(script).arg(&capture))?;
    let mut syns = Vec::new();
    pcap::read(File::open(&capture)?, |frame| {
        if let Ok(Packet::Segment(segment)) = frame::packet(frame) {
            syns.push((segment.flow, SynSignature::parse(&segment.network, segment.header)));
        }
    })?;
    let read = tshark(&capture)?;
    assert_eq!((syns.len(), names.lines().count()), (wanted.len(), wanted.len()));
    for ((name, (flow, syn)), (wanted_name, class)) in names.lines().zip(syns).zip(wanted) {
        let syn = syn.with_context(|| format!("{name}: no SYN"))?;
        assert_eq!((name, flow.source.ip()), (wanted_name, CLIENT_V4));
        let place = (flow.destination.ip(), flow.source.port());
        ensure_same(name, &syn.to_string(), read.get(&place).context("tshark has none")?)?;
        assert_eq!(syn.class(), class, "{name}: {syn}");
    }
    Ok(())
}

const PARTS: [&str; 8] = ["version", "TTL", "IP options", "MSS", "window and scale", "options", "quirks", "payload"];

/// The two must be equal; an error names the first part that differs.
fn ensure_same(at: &str, said: &str, read: &str) -> Result<()> {
    let (said_parts, read_parts): (Vec<_>, Vec<_>) = (said.split(':').collect(), read.split(':').collect());
    ensure!((said_parts.len(), read_parts.len()) == (8, 8), "{at}: {said} against {read}");
    for (part, (said, read)) in PARTS.iter().zip(said_parts.iter().zip(&read_parts)) {
        ensure!(said == read, "{at}: {part}: we say `{said}`, tshark `{read}`");
    }
    Ok(())
}

/// The signature of each SYN put together from tshark's fields, by the server's address and the client's port.
fn tshark(capture: &Path) -> Result<BTreeMap<(IpAddr, u16), String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "json", "-o", "tcp.relative_sequence_numbers:FALSE"]);
    command.args(["-Y", "tcp.flags.syn == 1 && tcp.flags.ack == 0", "-r"]).arg(capture);
    for field in [
        "tcp.srcport",
        "ip.dst",
        "ip.ttl",
        "ip.hdr_len",
        "ip.flags.df",
        "ip.id",
        "ip.dsfield.ecn",
        "ipv6.dst",
        "ipv6.hlim",
        "ipv6.flow",
        "ipv6.tclass.ecn",
        "tcp.len",
        "tcp.window_size_value",
        "tcp.flags.ece",
        "tcp.flags.cwr",
        "tcp.option_kind",
        "tcp.options.mss_val",
        "tcp.options.wscale.shift",
        "tcp.options.timestamp.tsval",
        "tcp.options.timestamp.tsecr",
    ] {
        command.args(["-e", field]);
    }
    let packets: Vec<Value> = serde_json::from_str(&output(&mut command)?)?;
    packets.iter().map(|packet| signature(&packet["_source"]["layers"])).collect()
}

/// The text that [`SynSignature`] should have, from the fields of one packet: lists of strings by name.
fn signature(fields: &Value) -> Result<((IpAddr, u16), String)> {
    let text = |field: &str| fields[field][0].as_str();
    let number = |field: &str| -> Result<Option<u32>> {
        let Some(text) = text(field) else { return Ok(None) };
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map(Some).with_context(|| format!("{field}: `{text}`"))
    };
    let is = |field: &str| -> Result<bool> { Ok(number(field)?.is_some_and(|number| number != 0)) };
    let v4 = text("ip.dst").is_some();
    let place: IpAddr = text("ip.dst").or_else(|| text("ipv6.dst")).context("no address")?.parse()?;
    let port = u16::try_from(number("tcp.srcport")?.context("no port")?)?;
    let ttl = number(if v4 { "ip.ttl" } else { "ipv6.hlim" })?.context("no TTL")?;
    let initial = [32, 64, 128, 255].into_iter().find(|initial| *initial >= ttl).context("a TTL above 255")?;
    let ip_options = number("ip.hdr_len")?.map_or(0, |length| length - 20);

    let kinds: Vec<&str> =
        fields["tcp.option_kind"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut options = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        options.push(match *kind {
            // tshark shows each byte of the padding as an end of its own.
            "0" => format!("eol+{}", kinds.len() - index - 1),
            "1" => "nop".to_owned(),
            "2" => "mss".to_owned(),
            "3" => "ws".to_owned(),
            "4" => "sok".to_owned(),
            "5" => "sack".to_owned(),
            "8" => "ts".to_owned(),
            other => format!("?{other}"),
        });
        if *kind == "0" {
            break;
        }
    }
    let (df, id) = (is("ip.flags.df")?, is("ip.id")?);
    let ecn = is("tcp.flags.ece")? || is("tcp.flags.cwr")? || is("ip.dsfield.ecn")? || is("ipv6.tclass.ecn")?;
    let quirks = [
        ("df", df),
        ("id+", df && id),
        ("id-", v4 && !df && !id),
        ("ecn", ecn),
        ("flow", is("ipv6.flow")?),
        ("ts1-", number("tcp.options.timestamp.tsval")? == Some(0)),
        ("ts2+", is("tcp.options.timestamp.tsecr")?),
    ];
    let quirks: Vec<&str> = quirks.into_iter().filter_map(|(quirk, is)| is.then_some(quirk)).collect();
    let payload = if is("tcp.len")? { "+" } else { "0" };
    let signature = format!(
        "{}:{ttl}+{}:{ip_options}:{}:{},{}:{}:{}:{payload}",
        if v4 { 4 } else { 6 },
        initial - ttl,
        number("tcp.options.mss_val")?.unwrap_or(0),
        number("tcp.window_size_value")?.context("no window")?,
        number("tcp.options.wscale.shift")?.unwrap_or(0),
        options.join(","),
        quirks.join(","),
    );
    Ok(((place, port), signature))
}
