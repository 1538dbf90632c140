//! Who a client is by its certificate, as endpoints are told: the field `X-Forwarded-Client-Cert`.
//!
//! The form is the one that other proxies use and services know: `Hash=<SHA-256>;Subject="...";URI=...;DNS=...`, made
//! once per connection. The field of a client's own is always taken off.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;

use crate::model::tls::Subject;

/// Bytes of the field; of a certificate with more to say only the hash is told.
const MAX_FIELD: usize = 8 * 1024;

/// The field's value for a certificate (DER) that was verified.
pub fn field(certificate: &[u8]) -> HeaderValue {
    let mut text = String::from("Hash=");
    for byte in digest(&SHA256, certificate).as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    let hash = text.len();
    if let Some(subject) = Subject::of(certificate) {
        text.push_str(";Subject=");
        quote(&mut text, &subject.name);
        for (key, values) in [("URI", &subject.uris), ("DNS", &subject.dns)] {
            for value in values {
                text.push(';');
                text.push_str(key);
                text.push('=');
                if value.contains([',', ';', '=', '"', '\\']) {
                    quote(&mut text, value);
                } else {
                    text.push_str(value);
                }
            }
        }
    }
    if text.len() > MAX_FIELD {
        text.truncate(hash);
    }
    HeaderValue::from_str(&text)
        .or_else(|_| HeaderValue::from_str(&text[..hash]))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            // What is not printable ASCII cannot stand in a field unchanged.
            ' '..='~' => out.push(character),
            _ => out.push('?'),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(name: &str, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_field_says_who_it_is() {
        let uri = SanType::URI("spiffe://example.org/ns/a;b/sa/web".try_into().unwrap());
        let dns = SanType::DnsName("web.example.org".try_into().unwrap());
        let field = field(&certificate("we\"b\u{e4}", vec![uri, dns]));
        let text = field.to_str().unwrap();
        let rest = text.strip_prefix("Hash=").unwrap();
        assert!(rest[..64].bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
        assert!(rest[64..].contains("we\\\"b?"), "{text}");
        assert!(
            text.ends_with(";URI=\"spiffe://example.org/ns/a;b/sa/web\";DNS=web.example.org"),
            "{text}"
        );
    }

    #[test]
    fn a_certificate_with_too_much_to_say_is_told_by_its_hash() {
        let names = (0..300)
            .map(|n| SanType::DnsName(format!("a-rather-long-name-{n}.example.org").try_into().unwrap()));
        let value = field(&certificate("x", names.collect()));
        assert_eq!(value.len(), "Hash=".len() + 64);
        assert_eq!(field(b"no certificate").len(), "Hash=".len() + 64);
    }
}
