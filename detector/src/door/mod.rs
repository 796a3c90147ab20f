//! Room 8: the doors by which local programs come in. A path and a group in, a socket that nobody else may use out
//! ([`socket`]); a connection in, its seat out as long as there is one ([`seats`]); how many came in, how long to let
//! more come out ([`gather`]).

pub mod gather;
pub mod seats;
pub mod socket;
