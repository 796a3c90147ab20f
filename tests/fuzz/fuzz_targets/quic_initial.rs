//! Fuzz target: a QUIC client's datagram, or the frames in it. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::quic_initial(bytes));
