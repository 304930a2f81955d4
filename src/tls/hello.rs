//! What a ClientHello offers, as one number: the same client says the same again, a scanner does not.
//!
//! RFC 8446 section 4.1.2; also hellos that rustls refuses, of older versions. Never panics, never allocates.

use std::hash::{DefaultHasher, Hasher};

/// Of a hello no more is kept, and looked at.
pub(super) const HELLO_KEPT_BYTES_MAX: usize = 2048;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RANDOM_BYTES: usize = 32;

/// supported_groups, signature_algorithms and supported_versions: the rest may change from one connection to
/// the next (key shares, tickets, padding), or says nothing of what the client can do.
const TELLING_EXTENSIONS: [u16; 3] = [10, 13, 43];

/// Over version, cipher suites, groups, signature schemes and supported versions of the hello that `received`
/// begins with, as far as it goes; over its first octets if it is none.
pub(super) fn fingerprint(received: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    let mut reader = Reader(received);
    let mut extensions = 0;
    if hash_hello(&mut reader, &mut hasher, &mut extensions).is_none()
        && reader.0.len() == received.len()
    {
        hasher.write(&received[..received.len().min(4)]);
    }
    hasher.write_u64(extensions);
    let hash = hasher.finish();
    (hash ^ hash >> 32) as u32
}

/// `None` where it ends, or is none. `extensions` is a sum, because many clients change their order each
/// time.
fn hash_hello(
    reader: &mut Reader<'_>,
    hasher: &mut DefaultHasher,
    extensions: &mut u64,
) -> Option<()> {
    let [HANDSHAKE, _, _, _, _, CLIENT_HELLO, _, _, _, ..] = reader.0 else {
        return None;
    };
    reader.take(9)?;
    hasher.write(reader.take(2)?);
    reader.take(RANDOM_BYTES)?;
    let session_id_bytes = reader.u8()?;
    reader.take(usize::from(session_id_bytes))?;
    let suites_bytes = reader.u16()?;
    for suite in reader.take(usize::from(suites_bytes))?.chunks(2) {
        if !is_grease(suite) {
            hasher.write(suite);
        }
    }
    let compressions_bytes = reader.u8()?;
    reader.take(usize::from(compressions_bytes))?;
    reader.u16()?;
    loop {
        let (kind, bytes) = (reader.u16()?, reader.u16()?);
        let content = reader.take(usize::from(bytes))?;
        if TELLING_EXTENSIONS.contains(&kind) {
            let mut one = DefaultHasher::new();
            one.write(&kind.to_be_bytes());
            content
                .chunks(2)
                .filter(|value| !is_grease(value))
                .for_each(|value| one.write(value));
            *extensions = extensions.wrapping_add(one.finish());
        }
    }
}

/// RFC 8701: values that are there to be ignored, others each time.
fn is_grease(value: &[u8]) -> bool {
    matches!(value, [high, low] if high == low && high & 0x0f == 0x0a)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A hello with these suites and one extension.
    fn hello(random: u8, version: u8, suites: &[u16], extension: (u16, &[u8])) -> Vec<u8> {
        hello_with(random, version, suites, &[extension])
    }

    fn hello_with(random: u8, version: u8, suites: &[u16], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![3, version];
        body.extend([random; 32]);
        body.extend([4, random, random, random, random]);
        body.extend((suites.len() as u16 * 2).to_be_bytes());
        body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        let bytes: usize = extensions
            .iter()
            .map(|(_, content)| content.len() + 4)
            .sum();
        body.extend((bytes as u16).to_be_bytes());
        for (kind, content) in extensions {
            body.extend(kind.to_be_bytes());
            body.extend((content.len() as u16).to_be_bytes());
            body.extend(*content);
        }
        let mut record = vec![22, 3, 1, 0, 0, 1, 0, 0, 0];
        record.extend(body);
        record
    }

    #[test]
    fn the_same_client_looks_the_same_and_another_does_not() {
        let groups = (10, &[0, 2, 0, 23][..]);
        let one = fingerprint(&hello(1, 1, &[47, 53], groups));
        assert_eq!(one, fingerprint(&hello(2, 1, &[47, 53], groups)));
        assert_eq!(one, fingerprint(&hello(2, 1, &[0x3a3a, 47, 53], groups)));
        for other in [
            hello(1, 2, &[47, 53], groups),
            hello(1, 1, &[47], groups),
            hello(1, 1, &[47, 53], (10, &[0, 2, 0, 24])),
            hello(1, 1, &[47, 53], (13, &[0, 2, 0, 23])),
            vec![0x80, 46, 1, 0, 2],
            Vec::new(),
        ] {
            assert_ne!(one, fingerprint(&other), "{other:?}");
        }
        let key_share = |share: u8| fingerprint(&hello(1, 3, &[47], (51, &[share])));
        assert_eq!(key_share(1), key_share(2));
    }

    #[test]
    fn the_order_of_extensions_says_nothing() {
        let groups = (10, &[0, 2, 0, 23][..]);
        let schemes = (13, &[0, 2, 4, 3][..]);
        let versions = (43, &[2, 3, 3][..]);
        let seen = |extensions: &[_]| fingerprint(&hello_with(1, 3, &[47], extensions));
        let one = seen(&[groups, schemes, versions]);
        assert_eq!(one, seen(&[versions, groups, schemes]));
        assert_ne!(one, seen(&[groups, schemes]));
        let swapped = [(10, schemes.1), (13, groups.1), versions];
        assert_ne!(one, seen(&swapped));
    }

    proptest! {
        #[test]
        fn noise_never_panics(
            noise in prop::collection::vec(any::<u8>(), 0..300),
            cut in 0..80usize,
        ) {
            fingerprint(&noise);
            let whole = hello(1, 3, &[47, 53], (10, &[0, 2, 0, 23]));
            fingerprint(&whole[..cut.min(whole.len())]);
        }
    }
}
