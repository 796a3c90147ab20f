//! The pure core through its library interface: captures and vectors of `tests/fixtures` in, their known fingerprints
//! out, however the bytes are cut, reordered or damaged on the way.

mod captures;
mod fixture;
mod vectors;
