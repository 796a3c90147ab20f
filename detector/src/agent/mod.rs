//! Room 9: what a request's headers say about the program that sent it: User-Agent (RFC 9110 section 10.1.5) and client
//! hints (<https://wicg.github.io/ua-client-hints/>) in, [`Agent`] and [`Hints`] out. It is a claim, never a proof. Pure;
//! nothing is kept and nothing allocated; of a header no more than [`LOOKED_AT`] bytes are looked at.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod hints;
mod lowercase;
mod name;
mod programs;

#[cfg(test)]
mod tests;

pub use hints::Hints;
pub use name::family;

use lowercase::Lowercase;

/// Bytes of a header that are looked at: three times what browsers send.
pub const LOOKED_AT: usize = 512;

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $name:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$each])* $name,)* }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word for it in output.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

words! {
    /// What kind of program it is.
    Kind {
        /// People use it to read pages.
        Browser => "browser",
        /// An HTTP library, by its own name: somebody's script.
        Library => "library",
        /// A tool that one types a request into, or that looks for holes.
        Tool => "tool",
        /// An app's or a device's HTTP library, by its own name: a person may use the app.
        App => "app",
        /// A feed reader, health check, package manager or the like, by its own name.
        Service => "service",
        /// It says that it is a crawler.
        Crawler => "crawler",
        /// None of these, or not told.
        Unknown => "unknown",
    }
}

words! {
    /// What renders a browser's pages, and sends its requests.
    Engine {
        /// Chrome, Edge, Opera and many others.
        Chromium => "chromium",
        /// Firefox.
        Gecko => "gecko",
        /// Safari, and every browser on iOS.
        WebKit => "webkit",
    }
}

words! {
    /// A system.
    Os {
        /// Linux on a desk.
        Linux => "linux",
        /// Windows.
        Windows => "windows",
        /// macOS.
        Mac => "macos",
        /// iOS and iPadOS.
        Ios => "ios",
        /// Android.
        Android => "android",
        /// ChromeOS.
        ChromeOs => "chromeos",
        /// FreeBSD, OpenBSD, NetBSD.
        Bsd => "bsd",
    }
}

words! {
    /// A tool that drives a browser, by its own name.
    Mark {
        /// Chromium without a window.
        HeadlessChrome => "HeadlessChrome",
        /// PhantomJS.
        PhantomJs => "PhantomJS",
        /// Selenium.
        Selenium => "Selenium",
        /// ChromeDriver.
        ChromeDriver => "ChromeDriver",
        /// Any WebDriver.
        WebDriver => "WebDriver",
        /// Puppeteer.
        Puppeteer => "Puppeteer",
        /// Playwright.
        Playwright => "Playwright",
        /// SlimerJS.
        SlimerJs => "SlimerJS",
        /// Cypress.
        Cypress => "Cypress",
    }
}

/// What a User-Agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// The program, by a word of ours; empty if it names none that is known.
    pub product: &'static str,
    /// What kind that is.
    pub kind: Kind,
    /// A browser's engine.
    pub engine: Option<Engine>,
    /// The major version that tells a browser's network stack: Chromium's, Firefox's, Safari's.
    pub major: Option<u16>,
    /// The system it is on.
    pub os: Option<Os>,
    /// It is on a phone.
    pub mobile: bool,
    /// The engine is in another program (a web view, Electron, Qt), which may be years behind and otherwise built.
    pub embedded: bool,
    /// The tool that drives it.
    pub mark: Option<Mark>,
}

impl Agent {
    /// Nothing.
    pub const UNKNOWN: Self = Self {
        product: "",
        kind: Kind::Unknown,
        engine: None,
        major: None,
        os: None,
        mobile: false,
        embedded: false,
        mark: None,
    };

    /// What `user_agent` says.
    #[must_use]
    pub fn of(user_agent: &str) -> Self {
        let lower = Lowercase::of(user_agent);
        let text = lower.as_str();
        let os = os(text);
        let mark = mark(text);
        let mobile = text.contains("mobile") || text.contains("iphone");
        if let Some(program) = programs::find(text) {
            return Self { product: program.name, kind: program.kind, os, mobile, mark, ..Self::UNKNOWN };
        }
        let browser = programs::browser(text, os);
        let unmarked = browser.unwrap_or(Self::UNKNOWN);
        Self { os, mobile, mark, ..unmarked }
    }

    /// Whether it says that it is a browser with an engine whose network stack has versions that are known.
    #[must_use]
    pub fn is_plain_browser(&self) -> bool {
        self.kind == Kind::Browser && self.engine.is_some() && !self.embedded
    }
}

/// The system that a User-Agent or a platform hint, in lower case, names.
fn os(text: &str) -> Option<Os> {
    // From the more telling to the less: Android names Linux too, and iOS "like Mac OS X".
    const SYSTEMS: [(&str, Os); 14] = [
        ("iphone", Os::Ios),
        ("ipad", Os::Ios),
        ("ipod", Os::Ios),
        ("android", Os::Android),
        ("windows", Os::Windows),
        ("cros ", Os::ChromeOs),
        ("chrome os", Os::ChromeOs),
        ("chromium os", Os::ChromeOs),
        ("macintosh", Os::Mac),
        ("macos", Os::Mac),
        ("freebsd", Os::Bsd),
        ("openbsd", Os::Bsd),
        ("linux", Os::Linux),
        ("x11", Os::Linux),
    ];
    SYSTEMS.into_iter().find(|(word, _)| text.contains(word)).map(|(_, os)| os)
}

/// The tool that a header, in lower case, names.
fn mark(text: &str) -> Option<Mark> {
    const MARKS: [(&str, Mark); 9] = [
        ("headlesschrome", Mark::HeadlessChrome),
        ("phantomjs", Mark::PhantomJs),
        ("selenium", Mark::Selenium),
        ("chromedriver", Mark::ChromeDriver),
        ("webdriver", Mark::WebDriver),
        ("puppeteer", Mark::Puppeteer),
        ("playwright", Mark::Playwright),
        ("slimerjs", Mark::SlimerJs),
        ("cypress", Mark::Cypress),
    ];
    MARKS.into_iter().find(|(word, _)| text.contains(word)).map(|(_, mark)| mark)
}
