//! A User-Agent in, the name of the program out, without version and system: `Chrome`, `Firefox`, `curl`.

/// Products that programs of many families name, from the more telling to the less (RFC 9110 section 10.1.5 has the
/// grammar, history the rest).
const SHARED: [&str; 6] = ["Chrome", "Safari", "Version", "Mobile", "AppleWebKit", "Mozilla"];

/// Products looked at: no program names as many.
const PRODUCTS: usize = 16;

/// The program that a User-Agent names: the last product that not all browsers name, else the most telling of those.
pub fn family(user_agent: &str) -> &str {
    let mut depth = 0_u32;
    let outside_comments = user_agent.split([' ', ';']).filter(|word| {
        let inside = depth > 0;
        let opened = word.bytes().filter(|byte| *byte == b'(').count();
        let closed = word.bytes().filter(|byte| *byte == b')').count();
        let count = |parentheses: usize| u32::try_from(parentheses).unwrap_or(u32::MAX);
        depth = depth.saturating_add(count(opened)).saturating_sub(count(closed));
        !inside && opened == 0 && !word.is_empty()
    });
    let names = outside_comments.take(PRODUCTS).map(|product| product.split('/').next().unwrap_or(product));
    let mut best = ("", usize::MAX);
    for name in names {
        // `Gecko` is Firefox's engine, and stands before its name.
        let place = SHARED.iter().position(|shared| *shared == name).map_or(0, |place| place.saturating_add(2));
        let place = if name == "Gecko" { SHARED.len().saturating_add(2) } else { place };
        if place <= best.1 {
            best = (name, place);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_own_name() {
        let cases = [
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
                "Chrome",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0",
                "Edg",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Mobile Safari/537.36",
                "Chrome",
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox"),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
                "Safari",
            ),
            ("curl/8.5.0", "curl"),
            ("python-requests/2.32.3", "python-requests"),
            ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Mozilla"),
            ("", ""),
            ("((((", ""),
            ("Mozilla/5.0 (never closed Chrome/1", "Mozilla"),
        ];
        for (agent, name) in cases {
            assert_eq!(family(agent), name, "{agent}");
        }
    }
}
