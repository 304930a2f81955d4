//! TLS with OpenSSL's command line on the other side, over loopback.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringpost::io::whole::Kinds;
use ringpost::message::{CertificateVerdict, TlsSummary};
use ringpost::time::WallTime;
use ringpost::tls::{
    ClientTls, Judge, ServerKeys, ServerTls, Session, TrustAnchors, Versions, certificate,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    WallTime(u64::try_from(since.as_millis()).unwrap())
}

fn openssl() -> Command {
    let mut command = Command::new("openssl");
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

/// False, with a reason printed, where there is no OpenSSL.
fn openssl_is_here() -> bool {
    match Command::new("openssl").arg("version").output() {
        Ok(output) if output.status.success() => true,
        _ => {
            println!("skipped: no openssl on this machine");
            false
        }
    }
}

/// Ends the process with the test, however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session over a blocking socket.
struct Stream {
    socket: TcpStream,
    session: Session,
    plain: Vec<u8>,
    peer_closed: bool,
}

impl Stream {
    fn new(socket: TcpStream, mut session: Session) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut hello = Vec::new();
        session.start(&mut hello);
        (&socket).write_all(&hello)?;
        let mut stream = Stream {
            socket,
            session,
            plain: Vec::new(),
            peer_closed: false,
        };
        while stream.session.is_handshaking() {
            stream.read_some()?;
        }
        Ok(stream)
    }

    fn read_some(&mut self) -> io::Result<()> {
        let mut cipher = [0; 4096];
        let received = self.socket.read(&mut cipher)?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut out = Vec::new();
        let progress = self
            .session
            .receive(&mut cipher[..received], &mut self.plain, &mut out);
        self.socket.write_all(&out)?;
        self.peer_closed |= progress.map_err(io::Error::other)?.peer_closed;
        Ok(())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        self.session
            .encrypt(text, &mut out)
            .map_err(io::Error::other)?;
        self.socket.write_all(&out)
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.plain.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.plain.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.peer_closed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read_some()?;
        }
    }
}

/// Takes one connection and sends every line back, until the peer closes.
fn echo_once(listener: &TcpListener, server: &ServerTls) -> io::Result<TlsSummary> {
    let (socket, _) = listener.accept()?;
    let session = server.accept().map_err(io::Error::other)?;
    let mut stream = Stream::new(socket, session)?;
    let summary = stream.session.summary();
    stream.write(b"220 ready\n")?;
    loop {
        match stream.line() {
            Ok(line) if line == b"END" => break,
            Ok(line) => {
                let answer = [&b"250 "[..], &line, b"\n"].concat();
                stream.write(&answer)?;
            }
            Err(_) => break,
        }
    }
    // Nothing can be said where the session has failed.
    let _ = stream.write(b"221 bye\n");
    let mut out = Vec::new();
    stream.session.close(&mut out);
    stream.socket.write_all(&out)?;
    summary.ok_or_else(|| io::Error::other("no summary"))
}

fn our_keys(directory: &Path) -> ServerKeys {
    certificate::load_or_generate(directory, "mx.test", now())
        .unwrap()
        .0
}

/// Talks to our server through `s_client`; gives what it printed and what we saw.
fn s_client(keys: &ServerKeys, args: &[&str], input: &str) -> (String, TlsSummary) {
    let (printed, summary) = try_s_client(keys, args, input);
    (printed, summary.unwrap())
}

/// As [`s_client`], where it may fail.
fn try_s_client(keys: &ServerKeys, args: &[&str], input: &str) -> (String, io::Result<TlsSummary>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let keys = keys.clone();
    let server = thread::spawn(move || {
        let server = ServerTls::new(&keys, Versions::default()).unwrap();
        echo_once(&listener, &server)
    });
    let mut command = openssl();
    command.args(["s_client", "-connect", &address, "-servername", "mx.test"]);
    let (printing, prints) = io::pipe().unwrap();
    command.args(args);
    command.stderr(prints.try_clone().unwrap()).stdout(prints);
    let mut client = Running(command.spawn().unwrap());
    drop(command); // and with it our ends of the pipe
    let stdin = client.0.stdin.take().unwrap();
    let printed = converse(stdin, BufReader::new(printing), input);
    (printed, server.join().unwrap())
}

/// Says one part after the other, each when the one before was answered: `s_client` takes a letter
/// for a command only if it comes first in what it reads.
fn converse(mut stdin: ChildStdin, printing: impl BufRead, input: &str) -> String {
    let mut parts = input.split_inclusive('\n');
    let mut printed = String::new();
    for line in printing.split(b'\n') {
        let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
        printed.push_str(&line);
        printed.push('\n');
        if line == "221 bye" {
            break;
        }
        if (line == "220 ready" || line.starts_with("250 ") || line.contains("KEYUPDATE"))
            && let Some(part) = parts.next()
        {
            stdin.write_all(part.as_bytes()).unwrap();
        }
    }
    printed
}

#[test]
fn openssl_talks_to_our_server() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let keys = our_keys(directory.path());
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (printed, summary) = s_client(&keys, &[flag], "hello there\nEND\n");
        assert!(printed.contains("250 hello there"), "{printed}");
        assert!(printed.contains("221 bye"), "{printed}");
        assert_eq!(summary.version, version);
        assert_eq!(summary.key_exchange, "X25519");
        assert!(
            summary.cipher.contains("AES_128_GCM"),
            "ours comes first: {summary:?}"
        );
    }
}

/// What Windows Server 2012 R2 offers: its suites with AES-GCM are ECDSA's, or without forward secrecy.
const WINDOWS_2012_R2: &str = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-SHA384:\
     ECDHE-RSA-AES128-SHA256:AES256-GCM-SHA384:AES128-GCM-SHA256:AES256-SHA256:AES128-SHA256:AES256-SHA:AES128-SHA";

#[test]
fn a_client_that_can_use_no_rsa_certificate_gets_the_ec_one_beside_it() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = make_certificate(directory.path(), &["-newkey", "rsa:2048"]);
    let given = certificate::load(certificate.as_ref(), key.as_ref(), Kinds::Any).unwrap();
    let windows = ["-tls1_2", "-cipher", WINDOWS_2012_R2];
    let (_, alone) = try_s_client(&given, &windows, "END\n");
    let why = alone.unwrap_err().to_string();
    assert!(why.contains("no cipher suite in common"), "{why}");
    let both = given.with_spare(our_keys(directory.path()));
    let table: [(&[&str], &str); 7] = [
        (&windows, "ECDSA"),
        (&["-tls1_2", "-sigalgs", "ECDSA+SHA256"], "ECDSA"),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "RSA",
        ),
        (&["-tls1_2"], "RSA"),
        (&["-tls1_3"], "RSA"),
        (&["-tls1_3", "-sigalgs", "ECDSA+SHA256"], "ECDSA"),
        // TLS 1.3 signs with PSS only: PKCS #1 is for certificates.
        (&["-tls1_3", "-sigalgs", "RSA+SHA256:ECDSA+SHA256"], "ECDSA"),
    ];
    for (args, kind) in table {
        let (printed, _) = s_client(&both, args, "END\n");
        let signed = printed
            .lines()
            .find(|line| line.starts_with("Peer signature type"));
        let signed = signed.unwrap_or_else(|| panic!("{args:?}: {printed}"));
        assert!(signed.contains(kind), "{args:?}: {signed}");
    }
}

#[test]
fn a_client_that_takes_no_signature_of_our_key_hears_an_alert() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let p384 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
    let (certificate, key) = make_certificate(directory.path(), &p384);
    let keys = certificate::load(certificate.as_ref(), key.as_ref(), Kinds::Any).unwrap();
    for flag in ["-tls1_2", "-tls1_3"] {
        let (printed, error) = try_s_client(&keys, &[flag, "-sigalgs", "ECDSA+SHA256"], "END\n");
        let why = error.unwrap_err().to_string();
        assert!(
            why.contains("no signature scheme in common"),
            "{flag}: {why}"
        );
        assert!(
            printed.contains("alert handshake failure"),
            "{flag}: {printed}"
        );
    }
}

#[test]
fn openssl_resumes_with_another_core() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let keys = our_keys(directory.path());
    let session = directory.path().join("session.pem");
    let session = session.to_str().unwrap();
    for flag in ["-tls1_2", "-tls1_3"] {
        let (_, summary) = s_client(&keys, &[flag, "-sess_out", session], "hello\nEND\n");
        assert!(!summary.resumed);
        let (printed, summary) = s_client(&keys, &[flag, "-sess_in", session], "hello\nEND\n");
        assert!(summary.resumed, "{printed}");
        assert!(printed.contains("Reused, "), "{printed}");
        assert!(printed.contains("250 hello"), "{printed}");
    }
}

#[test]
fn openssl_updates_its_keys() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let keys = our_keys(directory.path());
    // K: update and ask for ours; k: update only.
    let input = "before\nK\nbetween\nk\nafter\nEND\n";
    let (printed, _) = s_client(&keys, &["-tls1_3"], input);
    assert!(printed.contains("KEYUPDATE"), "{printed}");
    for word in ["before", "between", "after"] {
        assert!(printed.contains(&format!("250 {word}")), "{printed}");
    }
}

/// A client that asks for it is told no, or is left; in neither case is anything it says read as if a
/// handshake had begun.
#[test]
fn openssl_asks_for_a_renegotiation_in_vain() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let keys = our_keys(directory.path());
    let (printed, summary) = s_client(&keys, &["-tls1_2"], "before\nR\nafter\nEND\n");
    assert_eq!(summary.version, "TLSv1.2");
    assert!(printed.contains("250 before"), "{printed}");
    assert!(printed.contains("RENEGOTIATING"), "{printed}");
    assert!(printed.contains("no renegotiation"), "{printed}");
    assert!(!printed.contains("250 R"), "{printed}");
}

fn run(args: &[&str]) -> Output {
    let output = openssl().args(args).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?}: {stderr}");
    output
}

/// A self-signed certificate for mx.test with a key made by these `openssl req` arguments.
fn make_certificate(directory: &Path, key_args: &[&str]) -> (String, String) {
    let path = |name| directory.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let mut args = vec![
        "req",
        "-x509",
        "-nodes",
        "-days",
        "30000",
        "-subj",
        "/CN=mx.test",
    ];
    args.extend(["-addext", "subjectAltName=DNS:mx.test"]);
    args.extend(["-keyout", &key, "-out", &certificate]);
    args.extend(key_args);
    run(&args);
    (certificate, key)
}

/// `s_server` that sends every line back reversed; and the address it listens on.
fn s_server(certificate: &str, key: &str, flags: &[&str]) -> (Running, String) {
    let mut command = openssl();
    command.args(["s_server", "-accept", "127.0.0.1:0", "-rev"]);
    command.args(flags);
    command.args(["-cert", certificate, "-key", key]);
    command.args(["-cipher", "DEFAULT@SECLEVEL=0"]);
    let mut server = Running(command.stderr(Stdio::null()).spawn().unwrap());
    let stdout = BufReader::new(server.0.stdout.take().unwrap());
    let mut lines = stdout.lines();
    let address = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| Some(line.strip_prefix("ACCEPT ")?.to_owned()))
        .expect("s_server says where it listens");
    // Whatever else it prints must not fill the pipe.
    thread::spawn(move || lines.for_each(drop));
    (server, address)
}

fn reverse_something(client: &ClientTls, address: &str) -> Stream {
    let socket = TcpStream::connect(address).unwrap();
    let session = client.connect(address, "mx.test", true).unwrap();
    let mut stream = Stream::new(socket, session).unwrap();
    stream.write(b"EHLO mx.test\n").unwrap();
    assert_eq!(stream.line().unwrap(), b"tset.xm OLHE");
    stream
}

#[test]
fn our_client_talks_to_openssl_with_every_kind_of_key() {
    if !openssl_is_here() {
        return;
    }
    let kinds: [(&[&str], CertificateVerdict); 5] = [
        (
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            CertificateVerdict::Verified,
        ),
        (
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
            CertificateVerdict::Verified,
        ),
        (&["-newkey", "ed25519"], CertificateVerdict::Verified),
        (&["-newkey", "rsa:2048"], CertificateVerdict::Verified),
        (&["-newkey", "rsa:1024"], CertificateVerdict::Untrusted),
    ];
    for (key_args, verdict) in kinds {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = make_certificate(directory.path(), key_args);
        let trusted = TrustAnchors::load(Some(Path::new(&certificate)), false, now())
            .unwrap()
            .0;
        let judge = Judge::new(Arc::new(trusted));
        for flag in ["-tls1_2", "-tls1_3"] {
            if flag == "-tls1_3" && verdict == CertificateVerdict::Untrusted {
                continue; // ring has no PSS for keys under 2,048 bits
            }
            let (_server, address) = s_server(&certificate, &key, &[flag]);
            let client = ClientTls::new(Versions::default()).unwrap();
            for resumed in [false, true] {
                let stream = reverse_something(&client, &address);
                let summary = stream.session.summary().unwrap();
                assert_eq!(summary.resumed, resumed, "{key_args:?} {flag}");
                let chain = stream.session.peer_certificates();
                assert_eq!(
                    judge.judge(chain, "mx.test", now()),
                    verdict,
                    "{key_args:?} {flag}"
                );
            }
        }
    }
}

#[test]
fn our_client_is_asked_for_another_key_share_once() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = make_certificate(directory.path(), &["-newkey", "rsa:2048"]);
    let (_server, address) = s_server(&certificate, &key, &["-tls1_3", "-groups", "P-384"]);
    let client = ClientTls::new(Versions::default()).unwrap();
    for _ in 0..2 {
        let stream = reverse_something(&client, &address);
        let summary = stream.session.summary().unwrap();
        assert_eq!(summary.key_exchange, "secp384r1");
    }
}

#[test]
fn our_client_shows_no_certificate_when_asked_for_one() {
    if !openssl_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = make_certificate(directory.path(), &["-newkey", "rsa:2048"]);
    for flag in ["-tls1_2", "-tls1_3"] {
        let (_server, address) = s_server(&certificate, &key, &[flag, "-verify", "1"]);
        let client = ClientTls::new(Versions::default()).unwrap();
        reverse_something(&client, &address);
    }
}
