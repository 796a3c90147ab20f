//! The schema, once for both ways: each key with its field and what that makes of a value ([`field`]), and how it is
//! written. `docs/reports.md` says the same for people.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    Report, VERSION, caddy,
    value::{self, Scalar, Taken},
};

/// Where a value goes.
pub(super) enum Place {
    /// Into a field.
    Field(for<'a> fn(&mut Report<'a>, Scalar<'a>) -> Taken),
    /// The first of a list goes into a field.
    Listed(for<'a> fn(&mut Report<'a>, Scalar<'a>) -> Taken),
    /// A list goes into a field as one text, with commas.
    Joined(for<'a> fn(&mut Report<'a>, Scalar<'a>) -> Taken),
    /// It is an object with names of its own.
    Object(fn(&str) -> Option<Place>),
    /// It is the schema's version.
    Version,
    /// It says which program's own format this is.
    Logger,
    /// Nowhere, and is no surprise.
    Unused,
}

macro_rules! schema {
    (
        $($key:literal => $field:ident: $take:ident $(as $write:expr)?;)*
        also $($other:literal => $other_field:ident: $other_take:ident;)*
    ) => {
        /// Where the value of a key goes; nowhere: the schema doesn't have it.
        pub(super) fn field(key: &str) -> Option<Place> {
            Some(match key {
                "v" => Place::Version,
                $($key => Place::Field(|report, value| value::$take(&mut report.$field, value)),)*
                $($other => Place::Field(|report, value| value::$other_take(&mut report.$other_field, value)),)*
                key => return caddy::field(key),
            })
        }

        /// As `docs/reports.md` says, without what is absent.
        impl Serialize for Report<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut object = serializer.serialize_map(None)?;
                object.serialize_entry("v", &VERSION)?;
                $(if let Some(value) = &self.$field {
                    $(let value = &($write)(value);)?
                    object.serialize_entry($key, value)?;
                })*
                object.end()
            }
        }

        /// Every key that is written.
        pub const KEYS: &[&str] = &["v", $($key,)*];

        /// Every key that is read, but for Caddy's own.
        #[cfg(test)]
        pub(super) const READ: &[&str] = &["v", $($key,)* $($other,)*];
    };
}

schema! {
    "ip" => client: address;
    "port" => client_port: port;
    "sip" => server: address;
    "sport" => server_port: port;
    "t" => time: time;
    "dur" => duration: seconds as std::time::Duration::as_secs_f64;
    "age" => connection_age: seconds as std::time::Duration::as_secs_f64;
    "n" => connection_requests: whole;
    "conn" => connection: whole;
    "host" => server_name: text;
    "method" => method: text;
    "path" => path: text;
    "proto" => protocol: text;
    "status" => status: status;
    "bytes" => bytes: whole;
    "cache" => cache: text;
    "ua" => user_agent: text;
    "ref" => referer: text;
    "acc" => accept: text;
    "lang" => accept_language: text;
    "enc" => accept_encoding: text;
    "ch" => client_hints: text;
    "ch_mobile" => client_hints_mobile: text;
    "ch_platform" => client_hints_platform: text;
    "sf_site" => fetch_site: text;
    "sf_mode" => fetch_mode: text;
    "sf_dest" => fetch_dest: text;
    "sf_user" => fetch_user: text;
    "hdr" => header_names: text;
    "cookie" => cookie: truth;
    "sid" => session: text;
    "xff" => forwarded_for: text;
    "relayed" => relayed: truth;
    "pp_ip" => proxied_client: address;
    "pp_port" => proxied_client_port: port;
    "pp_sip" => proxied_server: address;
    "pp_sport" => proxied_server_port: port;
    also
    "dur_ms" => duration: milliseconds;
    "dur_us" => duration: microseconds;
    "age_ms" => connection_age: milliseconds;
}
