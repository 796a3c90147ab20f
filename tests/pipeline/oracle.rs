//! tls-parser's own walk over the same hellos: the same ciphers and extensions in the same order.

use detector::tls::{Parsed, hello};
use tls_parser::nom::combinator::complete;
use tls_parser::nom::multi::many0;
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extension_unknown, parse_tls_plaintext};

use crate::fixture::samples;

#[test]
fn tls_parser_reads_the_same_lists() {
    for sample in samples() {
        let (_, record) = parse_tls_plaintext(&sample.stream).expect("a whole record");
        let [TlsMessage::Handshake(TlsMessageHandshake::ClientHello(theirs))] = &record.msg[..] else {
            panic!("{}", sample.name)
        };
        let Parsed::Complete(ours) = hello::parse(&sample.stream[5..]) else { panic!("{}", sample.name) };
        let ciphers: Vec<u16> = theirs.ciphers.iter().map(|cipher| cipher.0).collect();
        assert_eq!(ours.cipher_suites.iter().collect::<Vec<_>>(), ciphers, "{}", sample.name);
        assert_eq!(ours.legacy_version, theirs.version.0, "{}", sample.name);
        assert_eq!(ours.session_id, theirs.session_id.unwrap_or_default(), "{}", sample.name);
        let block = theirs.ext.unwrap_or_default();
        let (rest, extensions) = many0(complete(parse_tls_extension_unknown))(block).expect("extensions");
        assert!(rest.is_empty());
        let theirs: Vec<(u16, &[u8])> = extensions
            .iter()
            .map(|extension| match extension {
                TlsExtension::Unknown(code, body) => (code.0, *body),
                other => panic!("{other:?}"),
            })
            .collect();
        let ours: Vec<(u16, &[u8])> =
            ours.extensions.iter().map(|extension| (extension.code, extension.body)).collect();
        assert_eq!(ours, theirs, "{}", sample.name);
    }
}
