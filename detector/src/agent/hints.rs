//! Client hints: `Sec-CH-UA`, `Sec-CH-UA-Mobile`, `Sec-CH-UA-Platform`. Only Chromium's browsers send them, over TLS, with
//! every request.

use super::lowercase::Lowercase;
use super::programs::major;
use super::{Mark, Os, mark, os};

/// What client hints say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// There are brands.
    pub brands: bool,
    /// Major version of the brand Chromium, which every one of them has.
    pub chromium: Option<u16>,
    /// The system.
    pub os: Option<Os>,
    /// On a phone.
    pub mobile: Option<bool>,
    /// A brand is a tool that drives browsers.
    pub mark: Option<Mark>,
}

impl Hints {
    /// Of the values of the three headers, as far as there are any.
    #[must_use]
    pub fn of(brands: Option<&str>, mobile: Option<&str>, platform: Option<&str>) -> Self {
        let list = brands.map(Lowercase::of);
        let list = list.as_ref().map(Lowercase::as_str).unwrap_or_default();
        let platform = platform.map(Lowercase::of);
        Self {
            brands: brands.is_some(),
            chromium: major(list, "\"chromium\";v=\""),
            os: platform.as_ref().and_then(|platform| match platform.as_str().trim_matches('"') {
                "ios" => Some(Os::Ios),
                name => os(name),
            }),
            mobile: mobile.and_then(|value| match value.trim() {
                "?0" => Some(false),
                "?1" => Some(true),
                _ => None,
            }),
            mark: mark(list),
        }
    }
}
