//! JA3S (rule 16): a ServerHello's version, cipher suite and extensions in decimal, and the MD5 of that. By Salesforce,
//! BSD-3-Clause.

use super::digits::{Text, decimal, decimal_list, string};
use super::ja3::md5;
use crate::tls::grease::is_grease;
use crate::tls::server_hello::ServerHello;

/// The JA3S string, and its MD5 in lower-case hex. The version is legacy_version, as in JA3.
#[must_use]
pub fn ja3s(hello: &ServerHello<'_>) -> (String, String) {
    let mut text = Text::new();
    decimal(&mut text, hello.legacy_version);
    text.push(b',');
    decimal(&mut text, hello.cipher_suite);
    text.push(b',');
    let extensions = hello.extensions.iter().map(|extension| extension.code);
    decimal_list(&mut text, extensions.filter(|code| !is_grease(*code)));
    (string(&text), string(&md5(&text)))
}
