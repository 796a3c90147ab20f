//! Room 8: the doors by which local programs come in. A path and a group in, a socket that nobody else may use out
//! ([`socket`]); a connection in, its seat out as long as there is one ([`seats`]).

pub mod seats;
pub mod socket;
