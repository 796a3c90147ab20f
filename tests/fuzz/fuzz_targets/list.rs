//! Fuzz target: a publisher's list of addresses. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| detector::fuzzing::list(text));
