//! The layers of the configuration: a file, the environment and flags in; the effective [`Config`], and for each key its
//! value and where that comes from, out. A flag wins over the environment, that over the file, that over the default.
//! Each key can be said in the environment: `DETECTOR_POLICY_BLOCK_TTL=2h` is `block_ttl` in [policy]. A value is what a
//! file may hold, or its text without quotes. Bound: that of the file, and of the environment.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use toml::de::DeTable;
use toml::{Table, Value};

use super::file::{self, File};
use super::{
    Config, ConfigError, DEFAULT_DECISION_SOCKET, DEFAULT_FILE, DEFAULT_SIGNAL_SOCKET, DEFAULT_STATUS_SOCKET,
    Overrides, read,
};

/// All keys with their defaults, which a test compares with the program's own.
const SHIPPED: &str = include_str!("../../../dist/detector.toml");

/// What the name of each variable begins with.
const PREFIX: &str = "DETECTOR_";
/// Variables that have had names of their own for longer, and what they are for.
const SHORT: [(&str, &str, &str); 5] = [
    ("DETECTOR_LOG", "log", "filter"),
    ("DETECTOR_XDP_MODE", "capture", "xdp_mode"),
    ("DETECTOR_CONTROL_SOCKET", "admin", "control_socket"),
    ("DETECTOR_METRICS", "admin", "metrics"),
    ("DETECTOR_PINS", "admin", "pins"),
];

/// The most bytes shown of a value.
const SHOWN: usize = 256;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nobody said otherwise.
    Default,
    /// The file.
    File,
    /// A variable of the environment.
    Environment,
    /// The command line.
    Flag,
}

impl Origin {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// A key with its effective value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// `policy.block_ttl`.
    pub key: String,
    /// As TOML. A longer one than people read is cut, and has a checksum instead: equal texts are equal values.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
    /// `/etc/detector/detector.toml:12`, `DETECTOR_POLICY_BLOCK_TTL`, `--port`; nothing for a default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
}

/// The configuration, and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The effective one.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    text: String,
    typed: Vec<Typed>,
}

/// The value of one key, said outside the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Typed {
    section: String,
    key: String,
    value: Value,
    origin: Origin,
    from: String,
}

/// What is wrong with values that are each fine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Names of tables, then of the key.
    path: Vec<String>,
    message: String,
}

impl Wrong {
    /// `path`: names of tables, then of the key.
    pub(super) fn new(path: &[&str], message: String) -> Self {
        Self { path: path.iter().map(|name| (*name).to_owned()).collect(), message }
    }

    /// Where it is.
    fn pointed(&self, name: &str, text: &str, typed: &[Typed]) -> ConfigError {
        let Self { path, message } = self;
        let said =
            typed.iter().rev().find(|typed| path.first() == Some(&typed.section) && path.get(1) == Some(&typed.key));
        ConfigError::Wrong(match said {
            Some(typed) => typed.complain(message),
            None => file::point_at(name, text, path, message),
        })
    }
}

impl Loaded {
    /// Reads the file, the environment and `overrides`.
    ///
    /// # Errors
    /// When a named file is missing, or anything is wrong.
    pub fn read(overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::with(overrides, env::vars_os())
    }

    pub(super) fn with(
        overrides: &Overrides,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let found = match &overrides.file {
            Some(path) => Some((path.as_path(), read(path)?)),
            None => match read(Path::new(DEFAULT_FILE)) {
                Ok(text) => Some((Path::new(DEFAULT_FILE), text)),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            },
        };
        let mut typed = environment(variables)?;
        overrides.typed(&mut typed)?;
        let (file, text) = found.map_or((None, String::new()), |(path, text)| (Some(path.to_owned()), text));
        let name = file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        Ok(Self { config: Self::resolve(&name, &text, &mut typed)?, file, text, typed })
    }

    /// The effective configuration of a file's text and what is said beside it.
    pub(super) fn resolve(name: &str, text: &str, typed: &mut Vec<Typed>) -> Result<Config, ConfigError> {
        let mut file = file::parse(name, text).map_err(ConfigError::Wrong)?;
        if !typed.is_empty() {
            let wrong = |error: toml::de::Error| ConfigError::Wrong(format!("{name}: {}", file::message(&error)));
            let mut table: Table = text.parse().map_err(wrong)?;
            beside_the_control_socket(&table, typed);
            for Typed { section, key, value, .. } in &*typed {
                let section = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
                if let Some(section) = section.as_table_mut() {
                    section.insert(key.clone(), value.clone());
                }
            }
            file = table.try_into().map_err(wrong)?;
        }
        Config::resolve(file).map_err(|wrong| wrong.pointed(name, text, typed))
    }

    /// Every key, as it is where nobody says anything.
    #[must_use]
    pub fn defaults() -> Vec<Setting> {
        Self { config: Config::default(), file: None, text: String::new(), typed: Vec::new() }.settings()
    }

    /// Every key, in the order of the shipped file.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let (shipped, own) = (table(SHIPPED), table(&self.text));
        let spans = DeTable::parse(&self.text).ok();
        let name = self.file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let setting = |(section, key): (&str, &str)| {
            let said = self.typed.iter().rev().find(|typed| typed.section == section && typed.key == key);
            let in_file = || own.get(section)?.get(key);
            let (value, origin, from) = if let Some(Typed { value, origin, from, .. }) = said {
                (Some(value), *origin, from.clone())
            } else if let Some(value) = in_file() {
                let span = spans.as_ref().and_then(|root| file::span(root.get_ref(), &[section, key]));
                let line = span.map_or(1, |span| file::line_number(&self.text, span.start));
                (Some(value), Origin::File, format!("{name}:{line}"))
            } else {
                (shipped.get(section).and_then(|section| section.get(key)), Origin::Default, String::new())
            };
            Setting { key: format!("{section}.{key}"), value: value.map(shown).unwrap_or_default(), origin, from }
        };
        keys().map(setting).collect()
    }
}

/// All keys with their sections, in the order of the shipped file.
pub(super) fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut section = "";
    SHIPPED.lines().filter(|line| !line.starts_with('#')).filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        }
        line.split_once(" = ").map(|(key, _)| (section, key))
    })
}

/// A text that was read before.
fn table(text: &str) -> Table {
    text.parse().unwrap_or_default()
}

/// As TOML, cut where it is long.
fn shown(value: &Value) -> String {
    let whole = value.to_string();
    if whole.len() <= SHOWN {
        return whole;
    }
    let sum = Sha256::digest(&whole);
    let sum = sum.iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing into a `String` can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let begin = whole.get(..whole.floor_char_boundary(SHOWN)).unwrap_or_default();
    format!("{begin}… ({} bytes, SHA-256 {sum}…)", whole.len())
}

/// What the environment says of keys. A variable of a section without such a key is an error; any other is passed over.
fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Typed>, ConfigError> {
    let mut typed = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let Some((section, key)) = key_of(name) else { continue };
        if value.is_empty() {
            continue;
        }
        if !keys().any(|known| known == (section, &key)) {
            return Err(ConfigError::Wrong(unknown(name)));
        }
        let Some(text) = value.to_str() else {
            return Err(ConfigError::Wrong(format!("{name}: its value is not UTF-8; type it anew")));
        };
        typed.push(Typed::read(section, &key, text, Origin::Environment, name)?);
    }
    typed.sort_by(|a, b| a.from.cmp(&b.from));
    Ok(typed)
}

/// `DETECTOR_POLICY_BLOCK_TTL` → `policy`, `block_ttl`.
fn key_of(variable: &str) -> Option<(&'static str, String)> {
    if let Some((_, section, key)) = SHORT.iter().find(|(name, ..)| *name == variable) {
        return Some((section, (*key).to_owned()));
    }
    let name = variable.strip_prefix(PREFIX)?.to_ascii_lowercase();
    keys().find_map(|(section, _)| Some((section, name.strip_prefix(section)?.strip_prefix('_')?.to_owned())))
}

fn unknown(variable: &str) -> String {
    let names = keys().map(|(section, key)| format!("{PREFIX}{section}_{key}").to_ascii_uppercase());
    let near = names.map(|name| (strsim::jaro_winkler(variable, &name), name)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let near = near.map(|(_, name)| name).unwrap_or_default();
    format!("the environment has `{variable}`, which is no key; did you mean `{near}`?")
}

impl Typed {
    /// Of a text: a value of TOML if it is one that fits, else a text.
    fn read(section: &str, key: &str, text: &str, origin: Origin, from: &str) -> Result<Self, ConfigError> {
        let this =
            |value| Self { section: section.to_owned(), key: key.to_owned(), value, origin, from: from.to_owned() };
        let plain = this(Value::String(text.to_owned()));
        // One value, and not the rest of a file.
        let one = |mut table: Table| if table.len() == 1 { table.remove("v") } else { None };
        let Some(value) = format!("v = {text}").parse().ok().and_then(one) else { return plain.checked() };
        this(value).checked().or_else(|error| plain.checked().map_err(|_| error))
    }

    fn checked(self) -> Result<Self, ConfigError> {
        let section = Table::from_iter([(self.key.clone(), self.value.clone())]);
        let whole = Table::from_iter([(self.section.clone(), Value::Table(section))]);
        match whole.try_into::<File>() {
            Ok(_) => Ok(self),
            Err(error) => Err(ConfigError::Wrong(self.complain(&file::message(&error)))),
        }
    }

    /// Two lines at most: what is wrong, and what is said.
    fn complain(&self, message: &str) -> String {
        let Self { section, key, value, origin, from } = self;
        match origin {
            Origin::Environment => {
                let is = shown(value).replace('\n', " ");
                format!("{from}: {message}\n  it is for `{key}` in [{section}], and is {is}")
            }
            _ => format!("{from}: {message}"),
        }
    }
}

impl Overrides {
    /// What is said by flags, and by the variables that stand for them, in the words of the file.
    fn typed(&self, typed: &mut Vec<Typed>) -> Result<(), ConfigError> {
        let mut add = |section: &str, key: &str, flag: &str, variable: &str, value: Value| {
            let said = (!variable.is_empty()).then(|| env::var_os(variable)).flatten();
            let is_there = said.is_some_and(|said| value.as_str().is_some_and(|value| said == OsStr::new(value)));
            let (origin, from) = if is_there { (Origin::Environment, variable) } else { (Origin::Flag, flag) };
            let (section, key, from) = (section.to_owned(), key.to_owned(), from.to_owned());
            typed.push(Typed { section, key, value, origin, from }.checked()?);
            Ok(())
        };
        let path = |path: &Path| match path.to_str() {
            Some(text) => Ok(Value::String(text.to_owned())),
            None => Err(ConfigError::Wrong(format!("`{}` is not UTF-8: type another path", path.display()))),
        };
        let word = |word: &str| Value::String(word.to_owned());
        if !self.interfaces.is_empty() {
            let names = self.interfaces.iter().map(|name| word(name)).collect();
            add("capture", "interfaces", "--interface", "", Value::Array(names))?;
        }
        if !self.ports.is_empty() {
            let ports = self.ports.iter().map(|port| Value::Integer(port.0.into())).collect();
            add("capture", "ports", "--port", "", Value::Array(ports))?;
        }
        if self.enforce {
            add("enforce", "mode", "--enforce", "", word("enforce"))?;
        }
        if let Some(mode) = self.xdp_mode {
            add("capture", "xdp_mode", "--xdp-mode", "DETECTOR_XDP_MODE", word(mode.label()))?;
        }
        if let Some(socket) = &self.control_socket {
            add("admin", "control_socket", "--control-socket", "DETECTOR_CONTROL_SOCKET", path(socket)?)?;
        }
        if let Some(directory) = &self.state_directory {
            add("enforce", "state_directory", "--state-directory", "STATE_DIRECTORY", path(directory)?)?;
        }
        if let Some(metrics) = self.metrics {
            let text = metrics.0.map_or_else(|| "off".to_owned(), |address| address.to_string());
            add("admin", "metrics", "--metrics", "DETECTOR_METRICS", Value::String(text))?;
        }
        if let Some(pins) = &self.pins {
            add("admin", "pins", "--pins", "DETECTOR_PINS", path(pins)?)?;
        }
        if let Some(format) = self.log_format {
            add("log", "format", "--log-format", "", word(format.label()))?;
        }
        Ok(())
    }
}

/// A second daemon with its own control socket has its own signal, decision and status sockets too, beside that.
fn beside_the_control_socket(file: &Table, typed: &mut Vec<Typed>) {
    let said = |section: &str, key: &str| {
        let typed = typed.iter().rev().find(|typed| typed.section == section && typed.key == key);
        typed.map(|typed| &typed.value).or_else(|| file.get(section)?.get(key))
    };
    let here = |typed: &&Typed| typed.section == "admin" && typed.key == "control_socket";
    let Some(control) = typed.iter().rev().find(here) else { return };
    let Some(path) = control.value.as_str().map(Path::new) else { return };
    let own = |kind: &str| Value::String(path.with_extension(kind).display().to_string());
    let word = |word: &str| Value::String(word.to_owned());
    let derived = [
        (
            "signals",
            "sockets",
            Value::Array(vec![word(DEFAULT_SIGNAL_SOCKET)]),
            Value::Array(vec![own("signals.sock")]),
        ),
        ("inline", "socket", word(DEFAULT_DECISION_SOCKET), own("decision.sock")),
        ("admin", "status_socket", word(DEFAULT_STATUS_SOCKET), own("status.sock")),
    ];
    let derived =
        derived.into_iter().filter(|(section, key, default, _)| said(section, key).is_none_or(|said| said == default));
    let added: Vec<Typed> = derived
        .map(|(section, key, _, value)| Typed {
            section: section.to_owned(),
            key: key.to_owned(),
            value,
            ..control.clone()
        })
        .collect();
    typed.extend(added);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mode, Port, XdpMode};

    fn load(text: &str, variables: &[(&str, &str)], overrides: Overrides) -> Result<Loaded, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let overrides = Overrides { file: Some(file.path().to_owned()), ..overrides };
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let name = file.path().display().to_string();
        Loaded::with(&overrides, variables).map_err(|error| error.to_string().replace(&name, "f.toml"))
    }

    fn setting(loaded: &Loaded, key: &str) -> (String, Origin, String) {
        let found = loaded.settings().into_iter().find(|setting| setting.key == key).unwrap();
        let name = loaded.file.as_ref().unwrap().display().to_string();
        (found.value, found.origin, found.from.replace(&name, "f.toml"))
    }

    #[test]
    fn flags_go_before_environment_file_and_default() {
        let text = "[policy]\nblock_ttl = \"2h\"\n\n[capture]\nports = [443, 8443]\nxdp_mode = \"native\"\n[limits]\nevents = 7\n";
        let variables = [
            ("DETECTOR_CAPTURE_PORTS", "[444]"),
            ("DETECTOR_LIMITS_EVENTS", "8"),
            ("DETECTOR_SIGNALS_GROUP", "1000"),
            ("DETECTOR_SCORE_LAYERS", "{ network = \"off\" }"),
            ("DETECTOR_ENFORCE_MODE", "observe"),
            ("DETECTOR_POLICY_RATE", ""),
            ("DETECTOR_BIN", "/usr/bin/detector"),
            ("PATH", "/bin"),
        ];
        let overrides = Overrides { ports: vec![Port(445)], enforce: true, ..Overrides::default() };
        let loaded = load(text, &variables, overrides).unwrap();
        let config = &loaded.config;
        assert_eq!(
            (config.capture.ports.as_slice(), config.mode, config.limits.events),
            (&[445][..], Mode::Enforce, 8)
        );
        assert_eq!((config.capture.xdp_mode, config.signals.group.as_str()), (XdpMode::Native, "1000"));
        let own = |value: &str, origin, from: &str| (value.to_owned(), origin, from.to_owned());
        assert_eq!(setting(&loaded, "policy.block_ttl"), own("\"2h\"", Origin::File, "f.toml:2"));
        assert_eq!(setting(&loaded, "capture.xdp_mode"), own("\"native\"", Origin::File, "f.toml:6"));
        assert_eq!(setting(&loaded, "capture.ports"), own("[445]", Origin::Flag, "--port"));
        assert_eq!(setting(&loaded, "enforce.mode"), own("\"enforce\"", Origin::Flag, "--enforce"));
        assert_eq!(setting(&loaded, "limits.events"), own("8", Origin::Environment, "DETECTOR_LIMITS_EVENTS"));
        assert_eq!(setting(&loaded, "policy.rate"), own("\"60/m\"", Origin::Default, ""));
    }

    #[test]
    fn every_key_has_one_setting() {
        let loaded = load("", &[], Overrides::default()).unwrap();
        let settings = loaded.settings();
        assert_eq!(
            settings.len(),
            table(SHIPPED).values().map(|section| section.as_table().unwrap().len()).sum::<usize>()
        );
        assert!(settings.iter().all(|setting| setting.origin == Origin::Default && !setting.value.is_empty()));
        assert_eq!(loaded.config, Config::default());
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = |name: &str, value: &str| load("", &[(name, value)], Overrides::default()).unwrap_err();
        assert_eq!(
            error("DETECTOR_LIMITS_SESION", "8"),
            "the environment has `DETECTOR_LIMITS_SESION`, which is no key; did you mean `DETECTOR_LIMITS_SESSIONS`?"
        );
        assert_eq!(
            error("DETECTOR_LIMITS_EVENTS", "0"),
            "DETECTOR_LIMITS_EVENTS: `0` is not in range; type a number from 1 to 16777216\n  \
             it is for `events` in [limits], and is 0"
        );
        let told = error("DETECTOR_ENFORCE_MODE", "enforced");
        assert!(told.contains("did you mean `enforce`?"), "{told}");
        // Not the rest of a file.
        assert!(error("DETECTOR_LIMITS_EVENTS", "7\nsessions = 1").contains("DETECTOR_LIMITS_EVENTS: "));
        let told = error("DETECTOR_SCORE_SUSPICIOUS", "0.9");
        assert!(told.starts_with("DETECTOR_SCORE_SUSPICIOUS: the thresholds don't rise"), "{told}");
    }

    #[test]
    fn a_control_socket_brings_the_others_along() {
        let overrides = || Overrides { control_socket: Some("/tmp/c.sock".into()), ..Overrides::default() };
        let loaded = load("", &[], overrides()).unwrap();
        let (value, origin, from) = setting(&loaded, "signals.sockets");
        assert_eq!(
            (value.as_str(), origin, from.as_str()),
            ("[\"/tmp/c.signals.sock\"]", Origin::Flag, "--control-socket")
        );
        assert_eq!(loaded.config.admin.status_socket, Path::new("/tmp/c.status.sock"));
        let loaded = load("[inline]\nsocket = \"off\"\n", &[], overrides()).unwrap();
        assert_eq!(loaded.config.inline.socket, None, "what is typed stays");
    }

    #[test]
    fn a_long_value_is_told_by_its_sum() {
        let list = |last: u32| {
            let prefixes: Vec<String> =
                (0..200).chain([last]).map(|number| format!("\"10.0.{number}.0/24\"")).collect();
            let text = format!("[enforce]\nnever_block = [{}]\n", prefixes.join(", "));
            setting(&load(&text, &[], Overrides::default()).unwrap(), "enforce.never_block").0
        };
        let (one, other) = (list(201), list(202));
        assert!(one.len() < 400 && one.contains("SHA-256") && one != other && one == list(201), "{one}");
    }
}
