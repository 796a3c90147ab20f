//! Done when 1 of part 1: the demo's transcript in the README is what the demo prints.
//!
//! Numbers are masked on both sides (times, ports, counters), and JA4 values by the order of their first appearance:
//! which client has which JA4 depends on the machine's OpenSSL, that the same one comes back in the same places must not.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use detector_tests::programs;

const BEGIN: &str = "<!-- demo:begin -->";
const END: &str = "<!-- demo:end -->";

#[test]
fn the_transcript_in_the_readme_is_what_the_demo_prints() -> Result<()> {
    let readme = fs::read_to_string(programs::readme()).context("the README with the demo's transcript")?;
    let (_, rest) = readme.split_once(BEGIN).context("no `<!-- demo:begin -->` in the README")?;
    let (block, _) = rest.split_once(END).context("no `<!-- demo:end -->` in the README")?;
    let written: Vec<&str> = block.trim().lines().filter(|line| !line.starts_with("```")).collect();

    let done = Command::new(env!("CARGO_BIN_EXE_demo")).output()?;
    let printed = String::from_utf8(done.stdout)?;
    ensure!(done.status.success(), "{}\n{printed}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    assert_eq!(mask(&written.join("\n")), mask(printed.trim()), "the demo printed:\n{printed}");
    Ok(())
}

/// The text with one space between words, every number `#`, every JA4 `JA4-1`, `JA4-2`, … in order of appearance.
fn mask(text: &str) -> String {
    let mut ja4_values: Vec<&str> = Vec::new();
    let lines = text.lines().map(|line| {
        let words = line.split_whitespace().map(|text| {
            let word = text.trim_end_matches(',');
            if is_ja4(word) {
                let known = ja4_values.iter().position(|seen| *seen == word);
                let number = known.unwrap_or_else(|| {
                    ja4_values.push(word);
                    ja4_values.len() - 1
                });
                return format!("JA4-{}{}", number + 1, &text[word.len()..]);
            }
            mask_digits(text)
        });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `10.77.0.2:41234` → `#.#.#.#:#`, `3.1s` → `#.#s`.
fn mask_digits(word: &str) -> String {
    let mut masked = String::new();
    for character in word.chars() {
        if !character.is_ascii_digit() {
            masked.push(character);
        } else if !masked.ends_with('#') {
            masked.push('#');
        }
    }
    masked
}

fn is_ja4(word: &str) -> bool {
    let lengths: Vec<usize> = word.split('_').map(str::len).collect();
    lengths == [10, 12, 12] && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[test]
fn the_mask_keeps_words_and_the_identity_of_ja4_values() {
    let (one, two) = ("t13d1516h2_8daaf6152771_02713d6af862", "t13d181200_85036bcba153_d41ae481755e");
    assert_eq!(
        mask(&format!("a  10.77.0.2:41234 {two} in 3.1s\n{one} {two}, 9s")),
        "a #.#.#.#:# JA4-1 in #.#s\nJA4-2 JA4-1, #s"
    );
    assert_ne!(mask(&format!("{one} {two}")), mask(&format!("{one} {one}")));
}
