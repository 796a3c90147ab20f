//! Fuzz target: requests of the control socket. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::control(bytes));
