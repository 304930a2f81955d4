//! TLS sessions under arbitrary bytes, on both sides and in the midst of a handshake: an error at
//! most, no plaintext that nobody wrote, bounded memory.

use ringpost::time::WallTime;
use ringpost::tls::Versions;
use ringpost::tls::certificate;
use ringpost::tls::client::ClientTls;
use ringpost::tls::server::ServerTls;
use ringpost::tls::session::{Session, TlsError, UNREAD_BYTES_MAX_CONNECTING};

use super::{Cuts, option};

const SAID: &[u8] = b"EHLO a.test\r\n";

thread_local! {
    static SIDES: (ClientTls, ServerTls) = sides();
}

fn sides() -> (ClientTls, ServerTls) {
    let directory = std::env::temp_dir().join(format!("ringpost-fuzz-tls-{}", std::process::id()));
    let now = WallTime(1_800_000_000_000);
    let made = certificate::load_or_generate(&directory, "mx.test", now);
    std::fs::remove_dir_all(&directory).expect("it was made");
    let (keys, _) = made.expect("a certificate can be made");
    (
        ClientTls::new(Versions::default()).expect("a configuration"),
        ServerTls::new(&keys, Versions::default()).expect("a configuration"),
    )
}

pub fn run(mut input: &[u8]) {
    let options = option(&mut input);
    let seed = option(&mut input);
    let cuts = Cuts::all(seed)[usize::from(options >> 2) % 3];
    SIDES.with(|(client, server)| {
        let client = client.connect("site", "mx.test", true).expect("a session");
        let server = server.accept().expect("a session");
        match options % 4 {
            0 => alone(End::new(server), cuts, input),
            1 => alone(End::new(client), cuts, input),
            2 => damaged(End::new(client), End::new(server), input),
            _ => after_handshake(End::new(client), End::new(server), cuts, input),
        }
    });
}

struct End {
    session: Session,
    plain: Vec<u8>,
    out: Vec<u8>,
    has_failed: bool,
}

impl End {
    fn new(mut session: Session) -> Self {
        let mut out = Vec::new();
        session.start(&mut out);
        End {
            session,
            plain: Vec::new(),
            out,
            has_failed: false,
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let mut scratch = piece.to_vec();
        let result = self
            .session
            .receive(&mut scratch, &mut self.plain, &mut self.out);
        assert!(
            !self.has_failed || result == Err(TlsError::NotOpen),
            "{result:?}"
        );
        self.has_failed |= result.is_err();
        assert!(self.session.leftover_bytes() <= 2 * UNREAD_BYTES_MAX_CONNECTING + piece.len());
        if let Err(error) = result {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}

/// Nobody can finish a handshake who does not compute.
fn alone(mut end: End, cuts: Cuts, input: &[u8]) {
    let said = end.out.len();
    for piece in cuts.pieces(input) {
        end.take(piece);
    }
    assert!(end.plain.is_empty() && end.session.summary().is_none());
    assert!(end.out.len() <= said + 8192 + 2 * input.len());
}

/// A conversation in which an octet here and there is another one: three of the input for each,
/// how far from the last, and by what.
fn damaged(mut client: End, mut server: End, input: &[u8]) {
    let mut damages = input.chunks_exact(3);
    let mut next = damages.next();
    let mut gone = 0;
    let mut wrong = |bytes: &mut Vec<u8>| {
        let end = gone + bytes.len();
        while let Some(&[high, low, by]) = next {
            let at = usize::from(u16::from_be_bytes([high, low]));
            if at >= end {
                break;
            }
            if at >= gone {
                bytes[at - gone] ^= by;
            }
            next = damages.next();
        }
        gone = end;
    };
    for turn in 0..8 {
        let mut flight = std::mem::take(&mut client.out);
        wrong(&mut flight);
        server.take(&flight);
        let mut flight = std::mem::take(&mut server.out);
        wrong(&mut flight);
        client.take(&flight);
        if turn == 3 && client.session.summary().is_some() {
            // An error is one that was seen on the way.
            let _ = client.session.encrypt(SAID, &mut client.out);
        }
    }
    assert!(SAID.starts_with(&server.plain), "{:?}", server.plain);
    assert!(client.plain.is_empty());
}

/// What comes behind a handshake is encrypted or refused.
fn after_handshake(mut client: End, mut server: End, cuts: Cuts, input: &[u8]) {
    for _ in 0..3 {
        server.take(&std::mem::take(&mut client.out));
        client.take(&std::mem::take(&mut server.out));
    }
    assert!(client.session.summary().is_some() && server.session.summary().is_some());
    for piece in cuts.pieces(input) {
        client.take(piece);
        server.take(piece);
    }
    assert!(client.plain.is_empty() && server.plain.is_empty());
}
