//! Fuzz target: reports of one client through all layers of scoring. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| detector::fuzzing::scoring(script));
