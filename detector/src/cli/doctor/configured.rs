//! The configuration: whether it is valid, and the one that the daemon goes by.

use super::finding::{Finding, problem, warning, well};
use crate::admin::protocol::Status;
use crate::config::{Config, ConfigError, DEFAULT_FILE};

/// What is to be said of it.
pub(super) fn file(loaded: &Result<Config, ConfigError>, status: Option<&Status>) -> Finding {
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            let text = error.to_string();
            let what = text.split('\n').map(str::trim).collect::<Vec<_>>().join(" | ");
            let help = "mend that line; until then detector doesn't start, and the rest here is about the defaults";
            return problem("config", what, help);
        }
    };
    let name = match &config.source {
        Some(source) => source.file.display().to_string(),
        None => format!("there is no {DEFAULT_FILE}: the defaults"),
    };
    let Some(status) = status else { return well("config", format!("{name}: valid")) };
    let (own, theirs) = (config.source.as_ref(), status.configuration.as_ref());
    if own.map(|source| &source.sha256) == theirs.map(|source| &source.sha256) {
        return well("config", format!("{name}: valid, and what the daemon goes by"));
    }
    match theirs {
        Some(theirs) if own.is_some_and(|own| own.file == theirs.file) => warning(
            "config",
            format!("{name}: valid, and changed since the daemon read it"),
            "restart detector, and it goes by the new one",
        ),
        Some(theirs) => warning(
            "config",
            format!("{name}; the daemon goes by {}", theirs.file.display()),
            format!("detector doctor --config {}", super::super::client::quoted(&theirs.file)),
        ),
        None => warning("config", format!("{name}: valid; the daemon started without a file"), "restart detector"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::config::Source;

    fn source(file: &str, sha256: &str) -> Option<Source> {
        Some(Source { file: file.into(), sha256: sha256.to_owned() })
    }

    #[test]
    fn another_configuration_than_the_daemons_is_told() {
        let found = |own, theirs| {
            let status = Status { configuration: theirs, ..Status::default() };
            file(&Ok(Config { source: own, ..Config::default() }), Some(&status))
        };
        assert_eq!(found(None, None).state, State::Ok);
        assert_eq!(found(source("/a", "1"), source("/a", "1")).state, State::Ok);
        let changed = found(source("/a", "2"), source("/a", "1"));
        assert!(
            changed.state == State::Warning
                && changed.help.as_deref() == Some("restart detector, and it goes by the new one")
        );
        let other = found(source("/a", "2"), source("/b c", "1"));
        assert_eq!(other.help.as_deref(), Some("detector doctor --config '/b c'"));
        assert_eq!(found(source("/a", "2"), None).state, State::Warning);
        let wrong = Config::parse("x.toml", "[capture]\nportz = [1]\n");
        let found = file(&wrong, None);
        assert!(found.state == State::Problem && found.what.contains("portz"), "{found:?}");
    }
}
