//! The configuration: whether it is valid, and the one that the daemon goes by.

use super::super::{client::quoted, config::differences};
use super::finding::{Finding, problem, warning, well};
use crate::admin::protocol::Settings;
use crate::config::{ConfigError, DEFAULT_FILE, Loaded};

/// Keys that are named; the others are counted.
const NAMED: usize = 3;

/// What is to be said of it.
pub(super) fn file(loaded: &Result<Loaded, ConfigError>, running: Option<&Settings>) -> Finding {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let text = error.to_string();
            let what = text.split('\n').map(str::trim).collect::<Vec<_>>().join(" | ");
            let help = "mend that line; until then detector doesn't start, and the rest here is about the defaults";
            return problem("config", what, help);
        }
    };
    let name = match &loaded.file {
        Some(file) => file.display().to_string(),
        None => format!("there is no {DEFAULT_FILE}: the defaults"),
    };
    let Some(running) = running else { return well("config", format!("{name}: valid")) };
    if let Some(theirs) = running.file.as_ref().filter(|theirs| Some(*theirs) != loaded.file.as_ref()) {
        let what = format!("{name}; the daemon goes by {}", theirs.display());
        return warning("config", what, format!("detector doctor --config {}", quoted(theirs)));
    }
    let wanted = loaded.settings();
    let mut found = differences(&running.settings, &wanted);
    // What is overruled is as somebody wants it.
    found.retain(|difference| difference.takes != "nothing");
    if found.is_empty() {
        return well("config", format!("{name}: valid, and what the daemon goes by"));
    }
    let mut keys: Vec<&str> = found.iter().map(|difference| difference.key).take(NAMED).collect();
    let more = format!("{} more", found.len() - keys.len());
    if found.len() > NAMED {
        keys.push(&more);
    }
    let what = format!("{name}: valid, but the daemon goes by other values of {}", keys.join(", "));
    let takes = match found.iter().any(|difference| difference.takes == "reload") {
        true => "detector reload",
        false => "systemctl restart detector",
    };
    warning("config", what, format!("see both with `detector config diff`; to take them over: {takes}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::finding::State;
    use super::*;
    use crate::config::Overrides;

    fn read(file: &Path, text: &str) -> Result<Loaded, ConfigError> {
        std::fs::write(file, text).unwrap();
        Loaded::read(&Overrides { file: Some(file.to_owned()), ..Overrides::default() })
    }

    #[test]
    fn another_configuration_than_the_daemons_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file_of = |name: &str| directory.path().join(name);
        let (own, other) = (file_of("a.toml"), file_of("b c.toml"));
        let running = |name: &Path, text| {
            let loaded = read(name, text).unwrap();
            let settings = loaded.settings();
            Settings { total: settings.len(), settings, file: loaded.file, since_s: 1 }
        };
        let text = "[capture]\nports = [443, 8443]\n";
        let theirs = running(&own, text);
        let found = |text, theirs: &Settings| file(&read(&own, text), Some(theirs));
        assert_eq!(found(text, &theirs).state, State::Ok);
        let changed = found("[policy]\nblock_ttl = \"3h\"\n", &theirs);
        assert!(changed.what.ends_with("other values of capture.ports, policy.block_ttl"), "{changed:?}");
        assert!(changed.help.unwrap().ends_with("detector reload") && changed.state == State::Warning);
        let fixed = found("", &theirs);
        assert!(fixed.help.as_ref().unwrap().ends_with("systemctl restart detector"), "{fixed:?}");
        let four = "[policy]\nblock_ttl = \"3h\"\nrate = \"7/m\"\n[enforce]\nmode = \"enforce\"\n";
        assert!(found(four, &theirs).what.ends_with(", 1 more"));
        let elsewhere = found(text, &running(&other, text));
        assert_eq!(elsewhere.help, Some(format!("detector doctor --config '{}'", other.display())));
        let wrong = file(&read(&own, "[capture]\nportz = [1]\n"), None);
        assert!(wrong.state == State::Problem && wrong.what.contains("portz"), "{wrong:?}");
    }
}
