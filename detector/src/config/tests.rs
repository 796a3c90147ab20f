//! The configuration as a whole; the text of each error about one value is tested in `file`.

use super::*;

const SHIPPED: &str = include_str!("../../../dist/detector.toml");

fn error(text: &str) -> String {
    Config::parse("f.toml", text).unwrap_err().to_string()
}

#[test]
fn the_shipped_file_is_exactly_the_defaults() {
    assert_eq!(Config::parse("detector.toml", SHIPPED).unwrap(), Config::default());
}

#[test]
fn the_shipped_file_has_every_key_and_a_comment_before_each() {
    let shipped: toml::Table = SHIPPED.parse().unwrap();
    let sections = [
        "capture",
        "enforce",
        "deny",
        "challenge",
        "signals",
        "inline",
        "feeds",
        "reputation",
        "score",
        "behaviour",
        "network",
        "policy",
        "breaker",
        "admin",
        "log",
        "limits",
    ];
    for section in sections {
        let message = error(&format!("[{section}]\n\"\" = 1"));
        let known: Vec<&str> = message.lines().next().unwrap().split('`').skip(3).step_by(2).collect();
        assert!(!known.is_empty(), "{message}");
        for key in known {
            assert!(
                shipped[section].as_table().unwrap().contains_key(key),
                "{section}.{key} is not in dist/detector.toml"
            );
        }
    }
    let lines: Vec<&str> = SHIPPED.lines().collect();
    for pair in lines.windows(2) {
        if pair[1].contains('=') && !pair[1].starts_with('#') {
            assert!(pair[0].starts_with('#'), "no comment before `{}`", pair[1]);
        }
    }
}

#[test]
fn a_site_has_a_status_that_web_servers_act_on() {
    let text = "[inline.sites.\"Shop.example\"]\nchallenge_status = 401\n[inline.sites.\"other.example\"]\n";
    let sites = Config::parse("f.toml", text).unwrap().inline.challenge_status;
    assert_eq!(sites.into_iter().collect::<Vec<_>>(), [("shop.example".to_owned(), 401)]);
    let error = error("[inline.sites.\"a\"]\nchallenge_status = 302\n");
    assert!(error.starts_with("f.toml:2:20: `302` is not") && error.contains("type 200, 401 or 403"), "{error}");
}

#[test]
fn the_endpoint_is_for_this_host_unless_said_otherwise() {
    let listen =
        |text: &str| Config::parse("f.toml", &format!("[inline]\n{text}\n")).map(|config| config.inline.listen);
    assert_eq!(listen("listen = \"[::1]:9466\"").unwrap(), Some("[::1]:9466".parse().unwrap()));
    let error = listen("listen = \"0.0.0.0:9466\"").unwrap_err().to_string();
    let pointed = error.starts_with("f.toml:2:10: ") && error.ends_with("^^^^^^^^^^^^^^");
    assert!(error.lines().count() == 3 && pointed && error.contains("`beyond_loopback = true`"), "{error}");
    let beyond = listen("listen = \"0.0.0.0:9466\"\nbeyond_loopback = true");
    assert_eq!(beyond.unwrap(), Some("0.0.0.0:9466".parse().unwrap()));
    let relative = Config::parse("f.toml", "[inline]\nsocket = \"decision.sock\"").unwrap_err().to_string();
    assert!(relative.contains("or `off`"), "{relative}");
}

#[test]
fn the_engine_is_typed_by_its_own_words() {
    let text = "[score]\nlayers = { coherence = \"shadow\" }\ncaps = { behaviour = 2 }\n\
                weights = { ua-tls-mismatch = 1.5, trap-path = \"off\" }\n[behaviour]\ntrap_paths = [\"/trap\"]\n\
                [policy]\nlikely_bot = \"rate-limit\"\nrate = \"10/m\"\n[breaker]\nprobes = 5\n";
    let engine = Config::parse("f.toml", text).unwrap().engine;
    let Engine { score, paths, policy, breaker } = engine;
    assert_eq!(score.mode(crate::score::Layer::Coherence), crate::score::Mode::Shadow);
    assert_eq!(score.weight(crate::score::Signal::UaTlsMismatch), Some(1.5));
    assert_eq!(score.weight(crate::score::Signal::TrapPath), None);
    assert!(paths.is_trap("/trap/x"));
    assert_eq!((policy.likely_bot.label(), policy.rate.to_string()), ("rate-limit", "10/m:1".to_owned()));
    assert_eq!(breaker.probes, 5);
    for (text, expected) in [
        ("[score]\nweights = { ua-tls = 1 }", "`ua-tls` is no signal"),
        ("[score]\nweights = { trap-path = 99 }", "`99` is not in range; type a number from -20 to 20"),
        ("[score]\nsuspicious = 1.5", "`1.5` is not in range; type a number from 0 to 1"),
        ("[score]\nsuspicious = 0.9", "don't rise from 0 to 1"),
        ("[score]\nlayers = { model = \"maybe\" }", "`maybe` is no mode of a layer"),
        ("[policy]\nsuspicious = \"drop\"", "`drop` is no action"),
        ("[behaviour]\ntrap_paths = [\"trap\"]", "`trap` is no pattern of paths"),
    ] {
        let told = error(text);
        assert!(told.contains(expected) && told.lines().count() <= 3, "{told}");
    }
}

#[test]
fn nothing_typed_is_the_defaults() {
    assert_eq!(Config::parse("f.toml", "").unwrap(), Config::default());
}

#[test]
fn flags_win_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        file.path(),
        "[capture]\ninterfaces = [\"eth0\"]\nports = [8443, 443, 443]\n[admin]\nmetrics = \"off\"\n",
    )
    .unwrap();
    let plain = Overrides { file: Some(file.path().to_owned()), ..Overrides::default() };
    let config = Config::load(&plain).unwrap();
    assert_eq!(
        (config.capture.ports.as_slice(), config.admin.metrics, config.mode),
        (&[443, 8443][..], None, Mode::Observe)
    );
    let flags = Overrides {
        interfaces: vec!["eth1".to_owned()],
        ports: vec![Port(444)],
        enforce: true,
        xdp_mode: Some(XdpMode::Generic),
        control_socket: Some("/tmp/c.sock".into()),
        state_directory: Some("/tmp/state".into()),
        metrics: Some(MetricsAddress(Some(DEFAULT_METRICS))),
        pins: Some("/sys/fs/bpf/other".into()),
        ..plain
    };
    let config = Config::load(&flags).unwrap();
    assert_eq!(config.capture.interfaces, ["eth1"]);
    assert_eq!((config.capture.ports.as_slice(), config.mode), (&[444][..], Mode::Enforce));
    assert_eq!(config.capture.xdp_mode, XdpMode::Generic);
    assert_eq!(config.orders.state_directory, Path::new("/tmp/state"));
    assert_eq!(config.signals.sockets, [PathBuf::from("/tmp/c.signals.sock")], "beside the control socket");
    assert_eq!(
        (config.admin.control_socket.clone(), config.admin.metrics),
        ("/tmp/c.sock".into(), Some(DEFAULT_METRICS))
    );
    assert_eq!(config.admin.pins, PathBuf::from("/sys/fs/bpf/other"));
    assert_eq!(config.admin.status_socket, PathBuf::from("/tmp/c.status.sock"), "beside the control socket");
    assert_eq!(config.inline.socket, Some("/tmp/c.decision.sock".into()), "another daemon has another socket");
}

/// Each key with its last letter twice.
#[test]
fn every_key_that_is_mistyped_is_answered_with_what_was_meant() {
    for (section, key) in layers::keys() {
        let doubled: String = key.chars().chain(key.chars().last()).collect();
        let told = error(&format!("[{section}]\n{doubled} = 1\n"));
        let meant = format!(":2:1: unknown key `{doubled}`; did you mean `{key}`?");
        assert!(told.contains(&meant) && told.lines().count() <= 3, "{section}.{key}: {told}");
    }
}

#[test]
fn a_named_file_must_exist() {
    let overrides = Overrides { file: Some("/nonexistent/detector.toml".into()), ..Overrides::default() };
    let error = Config::load(&overrides).unwrap_err().to_string();
    assert!(error.starts_with("can't read `/nonexistent/detector.toml`: No such file"), "{error}");
}

#[test]
fn a_file_without_end_is_refused() {
    let overrides = Overrides { file: Some("/dev/zero".into()), ..Overrides::default() };
    assert!(matches!(Config::load(&overrides), Err(ConfigError::TooLarge { .. })));
}
