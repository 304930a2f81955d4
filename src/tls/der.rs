//! The least of X.509 that is needed from certificates that webpki refuses: validity and key.
//!
//! RFC 5280 section 4.1. Every version and any extension will do, since nothing after the key
//! is looked at. Never panics, never allocates, reads each byte at most a few times.

use time::{Date, Month, PrimitiveDateTime, Time};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;
const EXPLICIT_EXTENSIONS: u8 = 0xa3;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyKind {
    Rsa { modulus_bits: usize },
    P256,
    P384,
    Ed25519,
    Other,
}

impl KeyKind {
    /// Too short to vouch for anybody; good enough to keep a handshake from failing.
    pub fn is_weak_rsa(self) -> bool {
        matches!(self, KeyKind::Rsa { modulus_bits } if modulus_bits < 2048)
    }
}

/// The fields of a certificate that are of use here; all borrow from its DER.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    /// Seconds since 1970, may be negative. `None`: not a time.
    pub not_before: Option<i64>,
    pub not_after: Option<i64>,
    /// The whole SubjectPublicKeyInfo, header included.
    pub spki: &'a [u8],
    pub key_kind: KeyKind,
    /// What the BIT STRING holds: an RSAPublicKey, a point, or 32 bytes.
    pub key: &'a [u8],
}

/// Walks `certificate` as far as its key. `None` if that is not DER in the shape of X.509.
pub(super) fn fields(certificate: &[u8]) -> Option<Fields<'_>> {
    let mut outer = Der(Der(certificate).expect(SEQUENCE)?);
    let mut tbs = Der(outer.expect(SEQUENCE)?);
    if tbs.0.first() == Some(&EXPLICIT_VERSION) {
        tbs.expect(EXPLICIT_VERSION)?;
    }
    tbs.expect(INTEGER)?; // serialNumber
    tbs.expect(SEQUENCE)?; // signature
    tbs.expect(SEQUENCE)?; // issuer
    let mut validity = Der(tbs.expect(SEQUENCE)?);
    let not_before = validity.element().and_then(|(tag, text)| time(tag, text));
    let not_after = validity.element().and_then(|(tag, text)| time(tag, text));
    tbs.expect(SEQUENCE)?; // subject
    let before_key = tbs.0;
    let spki_content = tbs.expect(SEQUENCE)?;
    let spki = before_key.get(..before_key.len() - tbs.0.len())?;
    let (key_kind, key) = public_key(spki_content)?;
    Some(Fields {
        not_before,
        not_after,
        spki,
        key_kind,
        key,
    })
}

/// Whether the certificate says CA:TRUE (RFC 5280 section 4.2.1.9). One of version 1 says nothing.
pub(super) fn is_ca(certificate: &[u8]) -> bool {
    says_ca(certificate).unwrap_or(false)
}

fn says_ca(certificate: &[u8]) -> Option<bool> {
    let mut outer = Der(Der(certificate).expect(SEQUENCE)?);
    let mut tbs = Der(outer.expect(SEQUENCE)?);
    let extensions = loop {
        match tbs.element()? {
            (EXPLICIT_EXTENSIONS, content) => break Der(content).expect(SEQUENCE)?,
            _ => continue,
        }
    };
    let mut extensions = Der(extensions);
    while !extensions.0.is_empty() {
        let mut extension = Der(extensions.expect(SEQUENCE)?);
        if extension.expect(OBJECT_ID)? != BASIC_CONSTRAINTS {
            continue;
        }
        let (mut tag, mut content) = extension.element()?;
        if tag == BOOLEAN {
            (tag, content) = extension.element()?;
        }
        let mut constraints = match tag {
            OCTET_STRING => Der(Der(content).expect(SEQUENCE)?),
            _ => return None,
        };
        return Some(matches!(constraints.element(), Some((BOOLEAN, [1..=255]))));
    }
    None
}

fn public_key(spki_content: &[u8]) -> Option<(KeyKind, &[u8])> {
    let mut spki = Der(spki_content);
    let mut algorithm = Der(spki.expect(SEQUENCE)?);
    let id = algorithm.expect(OBJECT_ID)?;
    let [0, key @ ..] = spki.expect(BIT_STRING)? else {
        return None; // a key that is not whole bytes
    };
    let kind = match id {
        RSA_ENCRYPTION => KeyKind::Rsa {
            modulus_bits: rsa_modulus_bits(key)?,
        },
        EC_PUBLIC_KEY => match algorithm.expect(OBJECT_ID) {
            Some(SECP256R1) => KeyKind::P256,
            Some(SECP384R1) => KeyKind::P384,
            _ => KeyKind::Other,
        },
        ED25519 => KeyKind::Ed25519,
        _ => KeyKind::Other,
    };
    Some((kind, key))
}

fn rsa_modulus_bits(key: &[u8]) -> Option<usize> {
    let mut modulus = Der(Der(key).expect(SEQUENCE)?).expect(INTEGER)?;
    while let [0, rest @ ..] = modulus {
        modulus = rest;
    }
    let first = modulus.first()?;
    Some(modulus.len() * 8 - first.leading_zeros() as usize)
}

/// UTCTime `YYMMDDhhmmssZ` and GeneralizedTime `YYYYMMDDhhmmssZ` (RFC 5280 section 4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (digits, rest) = text.split_at_checked(2)?;
            let year = number(digits)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (digits, rest) = text.split_at_checked(4)?;
            (number(digits)?, rest)
        }
        _ => return None,
    };
    let [m1, m2, d1, d2, h1, h2, n1, n2, s1, s2, b'Z'] = *rest else {
        return None;
    };
    let pair = |a: u8, b: u8| number(&[a, b]).and_then(|n| u8::try_from(n).ok());
    let month = Month::try_from(pair(m1, m2)?).ok()?;
    let date = Date::from_calendar_date(year, month, pair(d1, d2)?).ok()?;
    let clock = Time::from_hms(pair(h1, h2)?, pair(n1, n2)?, pair(s1, s2)?).ok()?;
    Some(
        PrimitiveDateTime::new(date, clock)
            .assume_utc()
            .unix_timestamp(),
    )
}

/// At most four ASCII digits.
fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0, |n, digit| {
        digit
            .is_ascii_digit()
            .then(|| n * 10 + i32::from(digit - b'0'))
    })
}

/// What is left to read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.element()?;
        (found == tag).then_some(content)
    }

    /// Tag and content of the next element. Tags of one byte and definite lengths of up to three
    /// bytes: a certificate cannot be longer than a TLS handshake message can say.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, length, rest @ ..] = self.0 else {
            return None;
        };
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match *length {
            short @ 0..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                let length = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2060, 12, 31);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn reads_validity_and_key() {
        let der = certificate();
        let fields = fields(&der).unwrap();
        assert_eq!(fields.not_before, Some(981_158_400));
        assert_eq!(fields.not_after, Some(2_871_676_800)); // a GeneralizedTime
        assert_eq!(fields.key_kind, KeyKind::P256);
        assert_eq!(fields.key.len(), 65);
        let parsed = rustls_pki_types::CertificateDer::from(&der[..]);
        let parsed = webpki::EndEntityCert::try_from(&parsed).unwrap();
        assert_eq!(fields.spki, &*parsed.subject_public_key_info());
    }

    #[test]
    fn refuses_times_that_are_none() {
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, b"490101000000Z"), Some(2_493_072_000));
        assert_eq!(
            time(GENERALIZED_TIME, b"99991231235959Z"),
            Some(253_402_300_799)
        );
        for text in [
            &b"701301000000Z"[..],
            b"700100000000Z",
            b"700101240000Z",
            b"7001010000Z",
            b"700101000000+",
            b"7x0101000000Z",
            b"",
        ] {
            assert_eq!(time(UTC_TIME, text), None, "{text:?}");
        }
    }

    #[test]
    fn every_truncation_is_refused_or_complete() {
        let der = certificate();
        for end in 0..der.len() {
            assert!(fields(&der[..end]).is_none(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = fields(&noise);
        }

        #[test]
        fn damaged_certificates_never_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut der = certificate();
            for (at, byte) in damage {
                let at = at.index(der.len());
                der[at] = byte;
            }
            if let Some(fields) = fields(&der) {
                prop_assert!(fields.key.len() <= fields.spki.len());
            }
        }
    }
}
