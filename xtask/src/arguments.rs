//! The words after the verb. In: the command line. Out: flags taken one by one; what no verb took is a [`Usage`] error.

use std::{fmt, str::FromStr};

use anyhow::Result;

/// What is left of a verb's words.
#[derive(Debug)]
pub(crate) struct Arguments(Vec<String>);

/// A command line that can't be followed: exit code 64.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

impl Arguments {
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Self {
        Self(words.collect())
    }

    pub(crate) fn asks_for_help(&self) -> bool {
        self.0.iter().any(|word| word == "--help" || word == "-h")
    }

    /// Takes the flag `name`, and tells whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() < before
    }

    /// Takes `name` and the value after it.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(at) = self.0.iter().position(|word| word == name) else { return Ok(None) };
        let mut taken = self.0.drain(at..(at + 2).min(self.0.len()));
        match taken.nth(1).map(|word| word.parse()) {
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(Usage(format!("`{name}` has a value that doesn't fit")).into()),
            None => Err(Usage(format!("`{name}` needs a value")).into()),
        }
    }

    /// Takes the first word that is no flag.
    pub(crate) fn word(&mut self) -> Option<String> {
        let at = self.0.iter().position(|word| !word.starts_with('-'))?;
        Some(self.0.remove(at))
    }

    /// All that are left, for another program.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }

    /// Fails if a word is left.
    pub(crate) fn finish(self) -> Result<()> {
        self.0.first().map_or(Ok(()), |word| Err(Usage(format!("unexpected `{word}`")).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn takes_flags_values_and_words() {
        let mut line = arguments("--full hello --seconds 7");
        assert!(line.flag("--full") && !line.flag("--full"));
        assert_eq!(line.value("--seconds").unwrap(), Some(7));
        assert_eq!(line.word().as_deref(), Some("hello"));
        line.finish().unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(arguments("--fulll").finish().unwrap_err().to_string(), "unexpected `--fulll`");
        assert!(arguments("--seconds").value::<u32>("--seconds").unwrap_err().is::<Usage>());
        assert!(arguments("--seconds soon").value::<u32>("--seconds").unwrap_err().is::<Usage>());
    }
}
