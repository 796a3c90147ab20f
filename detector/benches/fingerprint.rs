//! Measures the fingerprint path.

fn main() {}
