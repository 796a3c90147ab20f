//! Paths that are watched: patterns as robots.txt has them (RFC 9309 section 2.2.3). A pattern is the beginning of a path;
//! `*` stands for any characters, and `$` at its end for the path's end.

use std::str::FromStr;

/// The most characters of a pattern.
const LONGEST: usize = 256;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(['/', '*']) && text.len() <= LONGEST {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("`{text}` is no pattern of paths; type for example `/private/`, `/*.php$` or `/trap`"))
    }
}

impl Pattern {
    /// Whether a path with its query is meant.
    #[must_use]
    pub fn matches(&self, target: &str) -> bool {
        let (pattern, to_end) = self.0.strip_suffix('$').map_or((self.0.as_str(), false), |pattern| (pattern, true));
        let mut pieces = pattern.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| target.strip_prefix(first)) else { return false };
        let pieces: smallvec::SmallVec<[&str; 8]> = pieces.collect();
        for (index, piece) in pieces.iter().enumerate() {
            let is_last = index.saturating_add(1) == pieces.len();
            let found = if is_last && to_end {
                rest.strip_suffix(piece).map(|_| "")
            } else {
                rest.find(piece).and_then(|at| rest.get(at..)).and_then(|rest| rest.strip_prefix(piece))
            };
            let Some(after) = found else { return false };
            rest = after;
        }
        !to_end || rest.is_empty()
    }
}

/// The paths that a site's operator watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// That no page links to.
    pub traps: Vec<Pattern>,
    /// That robots.txt forbids to all programs.
    pub forbidden: Vec<Pattern>,
}

impl Paths {
    /// Whether it is a trap.
    #[must_use]
    pub fn is_trap(&self, target: &str) -> bool {
        self.traps.iter().any(|pattern| pattern.matches(target))
    }

    /// Whether it is forbidden.
    #[must_use]
    pub fn is_forbidden(&self, target: &str) -> bool {
        self.forbidden.iter().any(|pattern| pattern.matches(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_robots_txt() {
        for (pattern, matching, other) in [
            ("/private/", &["/private/", "/private/a?b"][..], &["/private", "/a/private/"][..]),
            ("/", &["/", "/a"], &["", "*"]),
            ("/*.php", &["/a.php", "/a/b.php?c", "/.php5"], &["/php", "a.php"]),
            ("/*.php$", &["/a.php", "/a.php.php"], &["/a.php?c", "/a.php5"]),
            ("/trap$", &["/trap"], &["/trap/", "/trap?"]),
            ("/a*b*c", &["/abc", "/a1b2c3"], &["/acb", "/ab"]),
            ("*", &["", "/x"], &[]),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            matching.iter().for_each(|target| assert!(parsed.matches(target), "{pattern} {target}"));
            other.iter().for_each(|target| assert!(!parsed.matches(target), "{pattern} {target}"));
        }
        for wrong in ["", "private", &"/a".repeat(200)] {
            assert!(wrong.parse::<Pattern>().unwrap_err().contains("type for example"));
        }
    }
}
