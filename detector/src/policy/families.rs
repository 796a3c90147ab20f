//! The browsers of the catalogue ([`crate::family`]): a JA4 in, the browser family that has it and its JA4_r out. It tells
//! how many browsers a verdict would hit, and turns a JA4 into the JA4_r whose key the kernel matches.

use crate::family::{self, Kind, Known, Verdict};
use crate::fingerprint::Ja4;
use crate::join::Identity;

/// The browser with this JA4 value, if the catalogue has it.
#[must_use]
pub fn find(ja4: Ja4) -> Option<&'static Known> {
    family::shipped().exact(ja4).filter(|known| known.kind == Kind::Browser)
}

/// Whether no browser is known to send a hello like this, nor anything like a browser's, nor what people's browsers may be
/// behind.
#[must_use]
pub fn is_no_browsers(identity: &Identity) -> bool {
    match family::shipped().find(identity.ja4_stable, &identity.traits) {
        Verdict::Known(known) => matches!(known.kind, Kind::Library | Kind::Tool | Kind::Scanner),
        Verdict::Drift(_) => false,
        Verdict::Unknown => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_browsers_value_is_the_hash_of_its_lists() {
        let browsers: Vec<&Known> = family::shipped().values().filter(|known| known.kind == Kind::Browser).collect();
        assert!(browsers.len() > 20, "{}", browsers.len());
        for browser in browsers {
            let known = find(browser.ja4_r.ja4()).unwrap();
            assert_eq!((&known.family, known.ja4_r.as_str()), (&browser.family, browser.ja4_r.as_str()));
        }
        let curl = family::shipped().values().find(|known| known.kind == Kind::Tool).unwrap();
        assert!(find(curl.ja4_r.ja4()).is_none(), "a tool is no browser");
    }
}
