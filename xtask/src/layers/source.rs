//! Rust source as the rules read it. In: text. Out: the same text with comments and literals blanked (lines kept), its
//! words, and the paths in it, whether in a `use` tree or inline. Not a parser: enough of the grammar for these rules.

/// A file without comments and literals.
pub(crate) struct Code(Vec<u8>);

/// A path such as `crate::flow::assembler`: its line, counted from 1, and its segments after the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl Code {
    /// Blanks comments, strings and characters.
    pub(crate) fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut code = bytes.to_vec();
        let mut at = 0;
        while at < bytes.len() {
            let end = literal_end(bytes, at);
            if end > at {
                code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
            } else if is_word(bytes[at]) {
                at += word_at(bytes, at).len().max(1);
            } else {
                at += 1;
            }
        }
        Self(code)
    }

    fn line_of(&self, at: usize) -> usize {
        1 + self.0[..at].iter().filter(|byte| **byte == b'\n').count()
    }

    /// Each word, with where it starts.
    fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let starts = (0..self.0.len()).filter(|&at| is_word(self.0[at]) && (at == 0 || !is_word(self.0[at - 1])));
        starts.map(|at| (at, word_at(&self.0, at)))
    }

    /// The lines on which `word` stands.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<usize> {
        self.words().filter(|(_, found)| *found == word).map(|(at, _)| self.line_of(at)).collect()
    }

    /// The lines on which `first::second` stands.
    pub(crate) fn lines_with_path(&self, first: &str, second: &str) -> Vec<usize> {
        let paths = self.paths(first).into_iter();
        paths.filter(|path| path.segments.first().is_some_and(|found| found == second)).map(|path| path.line).collect()
    }

    /// Every path that starts with the word `first`, `use` trees taken apart.
    pub(crate) fn paths(&self, first: &str) -> Vec<Found> {
        let mut found = Vec::new();
        for (at, word) in self.words().filter(|(_, word)| *word == first) {
            if let Some(next) = self.after_colons(at + word.len()) {
                self.tree(next, &mut Vec::new(), &mut found);
            }
        }
        found
    }

    fn skip_space(&self, mut at: usize) -> usize {
        while self.0.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    }

    fn after_colons(&self, at: usize) -> Option<usize> {
        let at = self.skip_space(at);
        self.0.get(at..at + 2).filter(|two| *two == b"::").map(|_| self.skip_space(at + 2))
    }

    /// Reads `a::b`, `a::{b, c::d}` or `*` at `at`; returns where it ends.
    fn tree(&self, at: usize, before: &mut Vec<String>, found: &mut Vec<Found>) -> usize {
        let at = self.skip_space(at);
        if self.0.get(at) == Some(&b'{') {
            let mut inner = at + 1;
            while self.skip_space(inner) < self.0.len() && self.0[self.skip_space(inner)] != b'}' {
                let end = self.tree(inner, before, found);
                // past `as name`, `,` or whatever else stands before the next
                inner = (end..self.0.len()).find(|&at| matches!(self.0[at], b',' | b'}')).unwrap_or(self.0.len());
                inner += usize::from(self.0.get(inner) == Some(&b','));
            }
            return self.skip_space(inner) + 1;
        }
        let word = word_at(&self.0, at);
        before.push(if word.is_empty() { "*".into() } else { word.into() });
        let end = match self.after_colons(at + word.len()) {
            Some(next) if self.0.get(next).is_some_and(|byte| is_word(*byte) || matches!(byte, b'{' | b'*')) => {
                self.tree(next, before, found)
            }
            _ => {
                found.push(Found { line: self.line_of(at.min(self.0.len())), segments: before.clone() });
                (at + word.len()).max(at + 1)
            }
        };
        before.pop();
        end
    }
}

fn word_at(bytes: &[u8], at: usize) -> &str {
    let end = (at..bytes.len()).find(|&end| !is_word(bytes[end])).unwrap_or(bytes.len());
    bytes.get(at..end).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default()
}

/// Where the comment, string or character that starts at `at` ends; `at` itself if none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        let hit = rest[from.min(rest.len())..].windows(needle.len()).position(|window| window == needle);
        hit.map_or(bytes.len(), |hit| at + from + hit + needle.len())
    };
    if rest.starts_with(b"//") {
        return find(b"\n", 0);
    }
    if rest.starts_with(b"/*") {
        return nested_comment_end(bytes, at);
    }
    // r"…", br#"…"#: a raw string ends at a quote with as many hashes
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if prefix > 0 && rest[..prefix].contains(&b'r') && rest.get(prefix + hashes) == Some(&b'"') {
        return find(&[b"\"".as_slice(), &b"#".repeat(hashes)].concat(), prefix + hashes + 1);
    }
    match rest {
        [b'"', ..] => quoted_end(bytes, at, b'"'),
        [b'\'', b'\\', ..] | [b'\'', _, b'\'', ..] => quoted_end(bytes, at, b'\''),
        // a character of more than one byte; a lifetime is ASCII
        [b'\'', 0x80..=0xff, ..] => find(b"'", 1),
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += 1 + usize::from(bytes[end] == b'\\');
    }
    (end + 1).min(bytes.len())
}

fn nested_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut end) = (0_usize, at);
    while end < bytes.len() {
        match &bytes[end..] {
            [b'/', b'*', ..] => (depth, end) = (depth + 1, end + 2),
            [b'*', b'/', ..] => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            return end;
        }
    }
    bytes.len()
}
