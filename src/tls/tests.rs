//! Conversations between the two sides over pipes in memory.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{self, ServerKeys, load_or_generate};
use super::client::CLIENT_HELLO_BYTES_MAX;
use super::policy::{Judge, TrustAnchors};
use super::session::{Session, TlsError, UNREAD_BYTES_MAX, UNREAD_BYTES_MAX_CONNECTING};
use super::tickets::TICKETS_PER_HOST_MAX;
use super::{ClientTls, ServerTls, Versions};
use crate::io::whole::Kinds;
use crate::message::CertificateVerdict;
use crate::time::WallTime;

const NOW: WallTime = WallTime(1_780_000_000_000); // in 2026
const EACH: [Versions; 2] = [Versions::Tls12Only, Versions::Tls13Only];

fn keys() -> ServerKeys {
    let directory = tempfile::tempdir().unwrap();
    load_or_generate(directory.path(), "mx.test", NOW)
        .unwrap()
        .0
}

fn sides(versions: Versions) -> (ClientTls, ServerTls) {
    (
        ClientTls::new(versions).unwrap(),
        ServerTls::new(&keys(), Versions::default()).unwrap(),
    )
}

/// Two sessions and what is on its way between them.
struct Pair {
    client: End,
    server: End,
}

struct End {
    session: Session,
    sent: Vec<u8>,
    plain: Vec<u8>,
    handshakes: u32,
    peer_closed: bool,
}

impl End {
    fn new(session: Session) -> Self {
        End {
            session,
            sent: Vec::new(),
            plain: Vec::new(),
            handshakes: 0,
            peer_closed: false,
        }
    }

    /// Takes what `other` sent, in pieces.
    fn take(&mut self, other: &mut End, piece: &mut dyn FnMut() -> usize) -> Result<(), TlsError> {
        let mut arriving = std::mem::take(&mut other.sent);
        let mut rest = &mut arriving[..];
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_mut(piece().clamp(1, rest.len()));
            let progress = self
                .session
                .receive(head, &mut self.plain, &mut self.sent)?;
            self.handshakes += u32::from(progress.handshake_done_now);
            self.peer_closed |= progress.peer_closed;
            rest = tail;
        }
        Ok(())
    }

    fn say(&mut self, text: &[u8]) {
        self.session.encrypt(text, &mut self.sent).unwrap();
    }
}

impl Pair {
    fn new(client: &ClientTls, server: &ServerTls) -> Self {
        Self::at_site(client, server, "site")
    }

    fn at_site(client: &ClientTls, server: &ServerTls, site: &str) -> Self {
        let mut pair = Pair {
            client: End::new(client.connect(site, "mx.test", true).unwrap()),
            server: End::new(server.accept().unwrap()),
        };
        pair.client.session.start(&mut pair.client.sent);
        pair
    }

    fn try_pump(&mut self, piece: &mut dyn FnMut() -> usize) -> Result<(), TlsError> {
        while !self.client.sent.is_empty() || !self.server.sent.is_empty() {
            self.server.take(&mut self.client, piece)?;
            self.client.take(&mut self.server, piece)?;
        }
        Ok(())
    }

    fn pump(&mut self) {
        self.try_pump(&mut || usize::MAX).unwrap();
    }

    fn shake_hands(client: &ClientTls, server: &ServerTls) -> Self {
        let mut pair = Self::new(client, server);
        pair.pump();
        pair
    }

    fn resumed(&self) -> bool {
        let client = self.client.session.summary().unwrap();
        assert_eq!(Some(client), self.server.session.summary());
        client.resumed
    }
}

fn text(bytes: usize, salt: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i / 7) as u8 ^ i as u8 ^ salt).collect()
}

/// Handshake, data both ways, close; everything cut into pieces.
fn converse(versions: Versions, bytes: usize, piece: &mut dyn FnMut() -> usize) {
    let (client, server) = sides(versions);
    let mut pair = Pair::new(&client, &server);
    pair.try_pump(piece).unwrap();
    assert!(!pair.client.session.is_handshaking() && !pair.server.session.is_handshaking());
    let (there, back) = (text(bytes, 1), text(bytes + 77, 2));
    pair.client.say(&there);
    pair.server.say(&back);
    pair.try_pump(piece).unwrap();
    assert!(pair.server.plain == there && pair.client.plain == back);
    assert_eq!((pair.client.handshakes, pair.server.handshakes), (1, 1));
    assert_eq!(pair.client.session.leftover_bytes(), 0);
    assert_eq!(pair.server.session.leftover_bytes(), 0);
    pair.client.session.close(&mut pair.client.sent);
    assert!(!pair.client.sent.is_empty());
    pair.try_pump(piece).unwrap();
    assert!(pair.server.peer_closed && !pair.client.peer_closed);
}

#[test]
fn every_piece_size_will_do() {
    for versions in EACH {
        for size in [1, 2, 3, 5, 6, 100, 1459, 16_384, 16_406, 40_000, usize::MAX] {
            converse(
                versions,
                if size < 6 { 20_000 } else { 200_000 },
                &mut || size,
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_pieces_will_do(
        pieces in prop::collection::vec(
            prop_oneof![1..8usize, 1..2000usize, 1..40_000usize], 1..40),
        bytes in 0..100_000usize,
        tls13 in any::<bool>(),
    ) {
        let mut next = pieces.iter().copied().cycle();
        converse(EACH[usize::from(tls13)], bytes, &mut || next.next().unwrap());
    }
}

#[test]
fn summaries_use_the_registered_names() {
    let (client, server) = sides(Versions::default());
    let summary = Pair::shake_hands(&client, &server)
        .client
        .session
        .summary()
        .unwrap();
    assert_eq!(summary.version, "TLSv1.3");
    assert_eq!(summary.cipher, "TLS_AES_128_GCM_SHA256");
    assert_eq!(summary.key_exchange, "X25519");
    assert_eq!(summary.verdict, CertificateVerdict::Unasked);

    let (client, server) = sides(Versions::Tls12Only);
    let summary = Pair::shake_hands(&client, &server)
        .client
        .session
        .summary()
        .unwrap();
    assert_eq!(summary.version, "TLSv1.2");
    assert_eq!(summary.cipher, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    assert_eq!(summary.key_exchange, "X25519");
}

#[test]
fn text_that_comes_with_the_finished_message_is_not_lost() {
    let (client, server) = sides(Versions::Tls13Only);
    let mut pair = Pair::new(&client, &server);
    pair.server
        .take(&mut pair.client, &mut || usize::MAX)
        .unwrap();
    pair.client
        .take(&mut pair.server, &mut || usize::MAX)
        .unwrap();
    pair.client.say(b"EHLO early.test\r\n");
    pair.server
        .take(&mut pair.client, &mut || usize::MAX)
        .unwrap();
    assert_eq!(pair.server.handshakes, 1);
    assert_eq!(pair.server.plain, b"EHLO early.test\r\n");
}

#[test]
fn clients_resume_on_whichever_core_they_land() {
    for versions in EACH {
        let keys = keys();
        let cores = [
            ServerTls::new(&keys, Versions::default()).unwrap(),
            ServerTls::new(&keys.clone(), Versions::default()).unwrap(),
        ];
        let client = ClientTls::new(versions).unwrap();
        for round in 0..6 {
            let mut pair = Pair::shake_hands(&client, &cores[round % 2]);
            assert_eq!(pair.resumed(), round > 0, "{versions:?}, round {round}");
            let certificates = pair.client.session.peer_certificates();
            assert_eq!(certificates.len(), 1, "kept on a resumed session");
            pair.client.say(b"NOOP\r\n");
            pair.pump();
            assert_eq!(pair.server.plain, b"NOOP\r\n");
        }
    }
}

#[test]
fn a_reload_keeps_tickets_and_changes_the_certificate() {
    for versions in EACH {
        let old = keys();
        let server = ServerTls::new(&old, Versions::default()).unwrap();
        let client = ClientTls::new(versions).unwrap();
        Pair::shake_hands(&client, &server);
        let new = keys().keeping_tickets_of(&old);
        let server = ServerTls::new(&new, Versions::default()).unwrap();
        assert!(Pair::shake_hands(&client, &server).resumed());
        let stranger = ClientTls::new(versions).unwrap();
        let pair = Pair::shake_hands(&stranger, &server);
        let seen = &pair.client.session.peer_certificates()[0];
        assert_eq!(seen, &new.certified_keys()[0].cert[0]);
    }
}

#[test]
fn tickets_of_one_site_are_not_shown_to_another() {
    for versions in EACH {
        let (client, server) = sides(versions);
        Pair::shake_hands(&client, &server);
        let mut other = Pair::at_site(&client, &server, "other site");
        other.pump();
        assert!(!other.resumed());
        assert!(Pair::shake_hands(&client, &server).resumed());
    }
}

#[test]
fn tls13_tickets_are_used_once_and_a_few_are_kept() {
    let (client, server) = sides(Versions::Tls13Only);
    let many = TICKETS_PER_HOST_MAX + 3;
    let mut pairs: Vec<_> = (0..many).map(|_| Pair::new(&client, &server)).collect();
    pairs.iter_mut().for_each(Pair::pump);
    assert!(pairs.iter().all(|pair| !pair.resumed()));
    let mut pairs: Vec<_> = (0..many).map(|_| Pair::new(&client, &server)).collect();
    pairs.iter_mut().for_each(Pair::pump);
    let resumed = pairs.iter().filter(|pair| pair.resumed()).count();
    assert_eq!(resumed, TICKETS_PER_HOST_MAX);
}

/// Tickets that are `padding` bytes longer than they must be.
#[derive(Debug)]
struct LongTickets {
    inner: Arc<dyn ProducesTickets>,
    padding: usize,
}

impl ProducesTickets for LongTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = self.inner.encrypt(plain)?;
        ticket.resize(ticket.len() + self.padding, 0);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.inner
            .decrypt(ticket.get(..ticket.len() - self.padding)?)
    }
}

fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().der().clone(), key)
}

fn server_of(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    ticket_padding: usize,
) -> ServerTls {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tickets = Arc::new(LongTickets {
        inner: Ticketer::new().unwrap(),
        padding: ticket_padding,
    });
    let keys = ServerKeys::unchecked(chain, &key, tickets);
    ServerTls::new(&keys, Versions::default()).unwrap()
}

/// RFC 6066 section 3: what is there is a host name. The library ends the handshake; the client hears an alert, and
/// the operator why.
#[test]
fn a_server_name_that_is_no_host_name_is_told_in_words() {
    for versions in EACH {
        let (client, server) = sides(versions);
        let empty = "a field is empty that must not be, such as the server name (SNI)";
        let no_name = "the server name (SNI) that the peer asked for is no host name";
        for (name, why) in [
            ("[1.2.3]", no_name),
            ("mx.t:25", no_name),
            ("mx test", no_name),
            ("m\u{fc}.tes", no_name),
            ("", empty),
        ] {
            let mut pair = Pair::new(&client, &server);
            let hello = &mut pair.client.sent;
            let at = memchr::memmem::find(hello, b"mx.test").unwrap();
            // The length of the name stands before it; the rest of an empty one is one more entry of the list.
            match name.len() {
                0 => hello[at - 2..at].fill(0),
                bytes => hello[at..at + bytes].copy_from_slice(name.as_bytes()),
            }
            let taken = pair.server.take(&mut pair.client, &mut || usize::MAX);
            let told = taken.expect_err(name).to_string();
            assert!(told.contains(why), "{name}: {told}");
            assert_eq!(pair.server.sent[0], 21, "{name}: an alert");
        }
    }
}

#[test]
fn a_ticket_that_makes_the_hello_too_large_is_not_used() {
    for versions in EACH {
        for (padding, resumes) in [(600, true), (3000, false)] {
            let (certificate, key) = self_signed(|_| {});
            let server = server_of(vec![certificate], &key, padding);
            let client = ClientTls::new(versions).unwrap();
            Pair::shake_hands(&client, &server);
            let mut pair = Pair::new(&client, &server);
            let hello_bytes = pair.client.sent.len();
            assert!(hello_bytes <= CLIENT_HELLO_BYTES_MAX, "{hello_bytes}");
            pair.pump();
            assert_eq!(pair.resumed(), resumes, "{versions:?} {padding}");
        }
    }
}

#[test]
fn a_long_chain_needs_several_records_and_leaves_no_ticket() {
    for versions in EACH {
        let (certificate, key) = self_signed(|_| {});
        let mut chain = vec![certificate];
        // Together almost the 64 KB that rustls takes for one message.
        chain.extend((0..60u8).map(|i| CertificateDer::from(vec![i; 1030])));
        let server = server_of(chain, &key, 0);
        for piece in [700, usize::MAX] {
            let client = ClientTls::new(versions).unwrap();
            let mut pair = Pair::new(&client, &server);
            pair.try_pump(&mut || piece).unwrap();
            assert_eq!(pair.client.session.peer_certificates().len(), 61);
            assert_eq!(pair.client.session.leftover_bytes(), 0);
            assert!(!Pair::shake_hands(&client, &server).resumed());
        }
    }
}

fn verdict(
    server: &ServerTls,
    versions: Versions,
    trusted: &CertificateDer<'_>,
) -> CertificateVerdict {
    let client = ClientTls::new(versions).unwrap();
    let pair = Pair::shake_hands(&client, server);
    let again = Pair::shake_hands(&client, server);
    assert!(again.resumed());
    let mut anchors = TrustAnchors::none();
    anchors.add(trusted, NOW);
    let judge = Judge::new(Arc::new(anchors));
    let [first, second] = [&pair, &again]
        .map(|pair| judge.judge(pair.client.session.peer_certificates(), "mx.test", NOW));
    assert_eq!(first, second, "resumed or not");
    first
}

#[test]
fn no_certificate_makes_opportunistic_tls_fail() {
    let unknown_critical = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let expired = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2011, 1, 1);
    };
    let wrong_name = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("else.test".try_into().unwrap())];
    };
    let good = self_signed(|_| {});
    let stranger = self_signed(|_| {}).0;
    for versions in EACH {
        let judged = |(certificate, key): &(CertificateDer<'static>, KeyPair)| {
            let server = server_of(vec![certificate.clone()], key, 0);
            verdict(&server, versions, certificate)
        };
        assert_eq!(judged(&good), CertificateVerdict::Verified);
        assert_eq!(
            judged(&self_signed(unknown_critical)),
            CertificateVerdict::Unparsable
        );
        assert_eq!(judged(&self_signed(expired)), CertificateVerdict::Expired);
        assert_eq!(
            judged(&self_signed(wrong_name)),
            CertificateVerdict::NameMismatch
        );
        let server = server_of(vec![good.0.clone()], &good.1, 0);
        assert_eq!(
            verdict(&server, versions, &stranger),
            CertificateVerdict::Untrusted
        );
    }
}

#[test]
fn x509_v1_completes_and_is_unparsable() {
    for file in ["x509_v1_p256.pem", "x509_v1_rsa.pem"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/tls/fixtures")
            .join(file);
        let keys = certificate::load(&path, &path, Kinds::Any).unwrap();
        let server = ServerTls::new(&keys, Versions::default()).unwrap();
        let certificate = keys.certified_keys()[0].cert[0].clone();
        for versions in EACH {
            assert_eq!(
                verdict(&server, versions, &certificate),
                CertificateVerdict::Unparsable
            );
        }
    }
}

/// Whoever cannot sign with the certificate's key is refused, also where only our own DER walk
/// understands the certificate.
#[test]
fn a_certificate_without_its_key_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/fixtures/x509_v1_p256.pem");
    let v1 = certificate::read_chain(&path).unwrap().remove(0);
    let (ordinary, _) = self_signed(|_| {});
    for certificate in [v1, ordinary] {
        let server = server_of(vec![certificate], &KeyPair::generate().unwrap(), 0);
        for versions in EACH {
            let client = ClientTls::new(versions).unwrap();
            let mut pair = Pair::new(&client, &server);
            let error = pair.try_pump(&mut || usize::MAX).unwrap_err();
            assert!(matches!(error, TlsError::PeerMisbehaved(_)), "{error:?}");
            assert!(!pair.client.sent.is_empty(), "no alert");
            let error = pair
                .server
                .take(&mut pair.client, &mut || usize::MAX)
                .unwrap_err();
            assert!(matches!(error, TlsError::Alert(_)), "{error:?}");
        }
    }
}

#[test]
fn smtp_instead_of_tls_is_answered_by_an_alert() {
    let (client, server) = sides(Versions::default());
    let mut out = Vec::new();
    let mut input = *b"EHLO client.test\r\n";
    let mut session = server.accept().unwrap();
    let error = session
        .receive(&mut input, &mut Vec::new(), &mut out)
        .unwrap_err();
    assert_eq!(error, TlsError::NotTls);
    assert_eq!(out, [21, 3, 3, 0, 2, 2, 50]); // decode_error
    out.clear();
    let mut session = client.connect("site", "mx.test", true).unwrap();
    session.start(&mut Vec::new());
    let mut input = *b"454 4.7.0 TLS not available\r\n";
    let error = session
        .receive(&mut input, &mut Vec::new(), &mut out)
        .unwrap_err();
    assert_eq!(error, TlsError::NotTls);
    assert_eq!(out[..1], [21]);
}

#[test]
fn nothing_in_common_is_said_to_the_peer() {
    let server = ServerTls::new(&keys(), Versions::Tls13Only).unwrap();
    let client = ClientTls::new(Versions::Tls12Only).unwrap();
    let mut pair = Pair::new(&client, &server);
    let error = pair.try_pump(&mut || usize::MAX).unwrap_err();
    assert!(matches!(error, TlsError::Incompatible(_)), "{error:?}");
    let error = pair
        .client
        .take(&mut pair.server, &mut || usize::MAX)
        .unwrap_err();
    assert_eq!(error, TlsError::Alert("ProtocolVersion".into()));
}

#[test]
fn a_changed_byte_ends_the_session_with_an_alert() {
    for versions in EACH {
        let (client, server) = sides(versions);
        let mut pair = Pair::shake_hands(&client, &server);
        pair.client.say(b"MAIL FROM:<>\r\n");
        *pair.client.sent.last_mut().unwrap() ^= 1;
        let error = pair.try_pump(&mut || 7).unwrap_err();
        assert!(matches!(error, TlsError::PeerMisbehaved(_)), "{error:?}");
        assert!(pair.server.plain.is_empty());
        let error = pair
            .client
            .take(&mut pair.server, &mut || usize::MAX)
            .unwrap_err();
        assert_eq!(error, TlsError::Alert("BadRecordMac".into()));

        let mut out = Vec::new();
        let session = &mut pair.server.session;
        assert_eq!(session.encrypt(b"x", &mut out), Err(TlsError::NotOpen));
        let again = session.receive(&mut [23, 3, 3], &mut Vec::new(), &mut out);
        assert_eq!(again, Err(TlsError::NotOpen));
        session.close(&mut out);
        assert!(out.is_empty());
    }
}

#[test]
fn what_was_decrypted_before_an_error_is_kept() {
    let (client, server) = sides(Versions::Tls13Only);
    let mut pair = Pair::shake_hands(&client, &server);
    pair.client.say(b"QUIT\r\n");
    pair.client
        .sent
        .extend_from_slice(b"noise noise noise noise");
    pair.try_pump(&mut || usize::MAX).unwrap_err();
    assert_eq!(pair.server.plain, b"QUIT\r\n");
}

#[test]
fn unfinished_input_is_bounded() {
    let (client, server) = sides(Versions::default());
    // A ClientHello of 60,000 bytes, which never ends.
    let mut flood = vec![22, 3, 1, 0x40, 0, 1, 0, 0xea, 0x60];
    flood.resize(5 + 0x4000, 0);
    let mut session = server.accept().unwrap();
    let mut sent = 0;
    let error = loop {
        sent += flood.len();
        match session.receive(&mut flood.clone(), &mut Vec::new(), &mut Vec::new()) {
            Ok(_) => flood = [vec![22, 3, 1, 0x40, 0], vec![0; 0x4000]].concat(),
            Err(error) => break error,
        }
    };
    assert_eq!(error, TlsError::TooMuchUnfinished);
    assert!(sent <= UNREAD_BYTES_MAX + 5 + 0x4000);

    // A server that sends a message in records of one byte.
    let mut session = client.connect("site", "mx.test", true).unwrap();
    session.start(&mut Vec::new());
    let mut first = [22, 3, 3, 0, 4, 2, 0, 0xea, 0x60];
    session
        .receive(&mut first, &mut Vec::new(), &mut Vec::new())
        .unwrap();
    let mut sent = first.len();
    let error = loop {
        sent += 6;
        if let Err(error) =
            session.receive(&mut [22, 3, 3, 0, 1, 0], &mut Vec::new(), &mut Vec::new())
        {
            break error;
        }
        assert!(session.leftover_bytes() <= 2 * UNREAD_BYTES_MAX_CONNECTING);
    };
    assert_eq!(error, TlsError::TooMuchUnfinished);
    assert!(sent <= UNREAD_BYTES_MAX_CONNECTING + 6);
}

#[test]
fn nothing_is_sent_before_the_handshake_or_after_the_close() {
    let (client, server) = sides(Versions::default());
    let mut session = server.accept().unwrap();
    let mut out = Vec::new();
    assert_eq!(session.encrypt(b"220", &mut out), Err(TlsError::NotOpen));
    assert_eq!(session.summary(), None);
    session.close(&mut out);
    assert!(out.is_empty());

    let mut pair = Pair::shake_hands(&client, &server);
    pair.server.session.close(&mut pair.server.sent);
    let closing = pair.server.sent.len();
    pair.server.session.close(&mut pair.server.sent);
    assert_eq!(pair.server.sent.len(), closing, "closed twice");
    // The client has not heard yet. What it says now is dropped, not misunderstood.
    pair.client.say(b"NOOP\r\n");
    pair.pump();
    assert!(pair.client.peer_closed && pair.server.plain.is_empty());
    // After the peer's close we may still send (RFC 8446 section 6.1).
    pair.client.say(b"QUIT\r\n");
    pair.client.session.close(&mut pair.client.sent);
    pair.pump();
    let error = pair.client.session.encrypt(b"x", &mut Vec::new());
    assert_eq!(error, Err(TlsError::NotOpen));
}

#[test]
fn input_after_close_notify_is_ignored() {
    let (client, server) = sides(Versions::Tls13Only);
    let mut pair = Pair::shake_hands(&client, &server);
    pair.client.session.close(&mut pair.client.sent);
    pair.client.sent.extend_from_slice(b"noise after the end");
    pair.pump();
    assert!(pair.server.peer_closed);
    let mut noise = *b"more noise";
    let progress = pair
        .server
        .session
        .receive(&mut noise, &mut Vec::new(), &mut Vec::new());
    assert!(progress.unwrap().peer_closed);
    pair.server.say(b"still open this way");
}

#[test]
fn key_updates_are_answered() {
    let (client, server) = sides(Versions::Tls13Only);
    for piece in [1, 9, usize::MAX] {
        let mut pair = Pair::shake_hands(&client, &server);
        for round in 0..5 {
            pair.client.session.update_keys(&mut pair.client.sent);
            pair.client.say(&text(100, round));
            pair.server.take(&mut pair.client, &mut || piece).unwrap();
            // Queued by the request: goes out with, and before, the next text.
            pair.server.say(&text(40_000, round));
            pair.client.take(&mut pair.server, &mut || piece).unwrap();
            assert!(pair.server.plain == text(100, round));
            assert!(pair.client.plain == text(40_000, round));
            pair.server.plain.clear();
            pair.client.plain.clear();
        }
    }
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let record = (20..25u8, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(kind, body)| {
        let mut record = vec![kind, 3, 3, (body.len() >> 8) as u8, body.len() as u8];
        record.extend(body);
        record
    });
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        prop::collection::vec(record, 1..6).prop_map(|records| records.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn noise_never_panics(mut noise in noise(), connecting in any::<bool>(), piece in 1..700usize) {
        let (client, server) = sides(Versions::default());
        let mut session = match connecting {
            true => client.connect("site", "mx.test", true).unwrap(),
            false => server.accept().unwrap(),
        };
        for part in noise.chunks_mut(piece) {
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            if session.receive(part, &mut plain, &mut out).is_err() {
                break;
            }
            prop_assert!(plain.is_empty());
        }
    }

    /// A conversation with one changed byte anywhere either fails or is understood as meant.
    #[test]
    fn a_damaged_conversation_never_panics(
        at in 0..6000usize,
        flip in 1..=255u8,
        piece in 1..3000usize,
        tls13 in any::<bool>(),
        to_server in any::<bool>(),
    ) {
        let (client, server) = sides(EACH[usize::from(tls13)]);
        let mut pair = Pair::new(&client, &server);
        let mut passed = 0;
        let mut said = false;
        loop {
            let sent = if to_server { &mut pair.client.sent } else { &mut pair.server.sent };
            if (passed..passed + sent.len()).contains(&at) {
                sent[at - passed] ^= flip;
            }
            passed += sent.len();
            let failed = pair.server.take(&mut pair.client, &mut || piece).is_err()
                || pair.client.take(&mut pair.server, &mut || piece).is_err();
            let open = !pair.client.session.is_handshaking() && !pair.server.session.is_handshaking();
            if failed || (said && pair.client.sent.is_empty() && pair.server.sent.is_empty()) {
                break;
            }
            if open && !said {
                said = true;
                pair.client.say(&text(3000, 5));
                pair.server.say(&text(3000, 6));
            } else if pair.client.sent.is_empty() && pair.server.sent.is_empty() {
                break; // waiting for bytes that the damage made unexpected
            }
        }
        prop_assert!(text(3000, 5).starts_with(&pair.server.plain));
        prop_assert!(text(3000, 6).starts_with(&pair.client.plain));
    }
}

/// Resident memory of this process, from the kernel; includes what the allocator wastes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Prints, does not assert: other tests run at the same time.
#[test]
fn memory_of_idle_sessions() {
    const SESSIONS: usize = 500;
    let mut pairs = Vec::with_capacity(2 * SESSIONS);
    for versions in EACH {
        let (client, server) = sides(versions);
        Pair::shake_hands(&client, &server);
        let before = resident_bytes();
        for _ in 0..SESSIONS {
            let mut pair = Pair::shake_hands(&client, &server);
            pair.client.say(&text(10_000, 3));
            pair.pump();
            pairs.push((pair.client.session, pair.server.session));
        }
        let each = resident_bytes().saturating_sub(before) / SESSIONS;
        println!("{versions:?}: {each} bytes for an idle client and server session together");
    }
}
