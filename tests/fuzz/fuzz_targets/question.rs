//! Fuzz target: the headers of a question to the decision endpoint. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::question(bytes));
