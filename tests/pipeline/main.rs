//! The pure core through its library interface: captures and vectors of `tests/fixtures` in, their known fingerprints
//! out, however the bytes are cut, reordered or damaged on the way.

mod answers;
mod budgets;
mod captures;
mod coherence;
mod connections;
mod cuts;
mod dtls;
mod families;
mod fixture;
mod flows;
mod forged;
mod formats;
mod fuzz;
mod keys;
mod mutations;
mod offline;
mod oracle;
mod overlaps;
mod quic;
mod signals;
mod signature;
mod text;
mod traits;
mod udp;
mod vectors;
