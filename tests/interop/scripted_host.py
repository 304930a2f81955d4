"""A next hop that behaves as some hosts do: Exchange, MDaemon, and hosts whose TLS or manners are broken.

What is imitated, and where it is described in public:

* Exchange: EHLO keywords as in Microsoft's "SMTP protocol extensions for Exchange Server" (dd535395: X-EXPS,
  XEXCH50, XRDST, CHUNKING, BINARYMIME) and "TLS functionality and related terminology" (X-ANONYMOUSTLS); 452 4.3.1
  Insufficient system resources and 421 4.3.2 Service not available from "Understanding back pressure"; tarpitting
  (5 s by default) and 421 4.4.1 Connection timed out (ConnectionInactivityTimeout) from the pages on receive
  connectors; the wording of the other replies from published protocol logs. It sends no close_notify.
* MDaemon: the wording of greeting and replies from the appendix "Customizing SMTP and POP protocol strings" of its
  manual and from session logs in its knowledge base; "SIZE 0" where no limit is set (RFC 1870 section 4: no fixed
  maximum); tarpitting from the manual's "Tarpit settings".
* A host that answers 454 or 501 to STARTTLS: RFC 3207 section 4. One that refuses EHLO: RFC 5321 section 3.2.
* 421 at any point: RFC 5321 section 3.8. Greylisting: RFC 6647.

By hand:  python3 tests/interop/scripted_host.py BEHAVIOUR [PORT]
"""

import contextlib
import dataclasses
import socket
import ssl
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LINE_BYTES_MAX = 65_536
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
SESSION_SECONDS_MAX = 60.0

EXCHANGE_KEYWORDS = (
    "SIZE_37748736 PIPELINING DSN ENHANCEDSTATUSCODES STARTTLS X-ANONYMOUSTLS AUTH_NTLM X-EXPS_GSSAPI_NTLM "
    "8BITMIME BINARYMIME CHUNKING XEXCH50 XRDST XSHADOW"
)


def keywords(text: str) -> list[str]:
    """EHLO keywords from a list between blanks; an underscore is a blank within one."""
    return [word.replace("_", " ") for word in text.split()]


@dataclass
class Behaviour:
    """What this host says and does. `{...}` in replies are filled in from the session."""

    ehlo: str = "250-{host} Hello [127.0.0.1]"
    keywords: list[str] = field(default_factory=lambda: keywords("PIPELINING 8BITMIME STARTTLS"))
    # Replies by verb; a list gives the reply to the first, second, ... such command to this host, the last one
    # ever after. "CONNECT" is the greeting, "END" follows the data, "RCPT to@x" is for one recipient only.
    replies: dict[str, str | list[str]] = field(default_factory=dict)
    # What follows "220" to STARTTLS: "handshake", "garbage", "stall", "close", "reset", "inject".
    after_starttls: str = "handshake"
    requires_tls: bool = False
    # TLS from the first byte on.
    implicit_tls: bool = False
    tls_versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    ciphers: str | None = None
    reply_delay_seconds: float = 0.0
    drip: bool = False
    # The first so many messages are read to their end, and then the connection closes without a reply.
    drops_before_final_reply: int = 0
    # After so long without a command the host says 421 and closes.
    idle_seconds_max: float = SESSION_SECONDS_MAX
    idle_reply: str = "421 4.4.1 Connection timed out"
    close_notify: bool = False


STANDARD_REPLIES = {
    "CONNECT": "220 {host} ESMTP",
    "HELO": "250 {host}",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 End data with <CR><LF>.<CR><LF>",
    "END": "250 2.0.0 Ok: queued as {number}",
    "RSET": "250 2.0.0 Ok",
    "NOOP": "250 2.0.0 Ok",
    "QUIT": "221 2.0.0 Bye",
    "STARTTLS": "220 2.0.0 Ready to start TLS",
}
EXCHANGE = Behaviour(
    keywords=keywords(EXCHANGE_KEYWORDS),
    replies={
        "CONNECT": "220 {host} Microsoft ESMTP MAIL Service ready at Tue, 24 Nov 2026 10:00:00 +0000",
        "MAIL": "250 2.1.0 Sender OK",
        "RCPT": "250 2.1.5 Recipient OK",
        "DATA": "354 Start mail input; end with <CRLF>.<CRLF>",
        "END": "250 2.6.0 <{number}@{host}> [InternalId={number}, Hostname={host}] 1024 bytes in 0.1, 10 KB/sec Queued "
        "mail for delivery",
        "STARTTLS": "220 2.0.0 SMTP server ready",
        "QUIT": "221 2.0.0 Service closing transmission channel",
    },
)
MDAEMON = Behaviour(
    ehlo="250-{host} Hello relay.test [127.0.0.1], pleased to meet you",
    keywords=keywords(
        "ETRN AUTH_LOGIN_CRAM-MD5_PLAIN 8BITMIME ENHANCEDSTATUSCODES PIPELINING CHUNKING STARTTLS SIZE_0"
    ),
    replies={
        "CONNECT": "220-{host} ESMTP MDaemon 23.5.0; Tue, 24 Nov 2026 10:00:00 +0000\n"
        "220-All transactions are logged.\n220 Unsolicited commercial e-mail is not welcome here.",
        "MAIL": "250 2.1.0 Sender OK",
        "RCPT": "250 2.1.5 Recipient OK",
        "DATA": "354 Enter mail, end with <CRLF>.<CRLF>",
        "END": "250 2.6.0 Ok, message saved <Message-ID: {number}@{host}>",
        "STARTTLS": "220 2.7.0 Ready to start TLS",
        "QUIT": "221 2.0.0 See ya in cyberspace",
    },
)


def variant(base: Behaviour, replies: dict[str, str | list[str]] | None = None, **changes) -> Behaviour:
    return dataclasses.replace(base, replies=base.replies | (replies or {}), **changes)


PLAIN = variant(EXCHANGE, keywords=keywords("PIPELINING 8BITMIME ENHANCEDSTATUSCODES SIZE_37748736"))
TLS12 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
BEHAVIOURS = {
    "exchange": EXCHANGE,
    "exchange_tls12": variant(EXCHANGE, tls_versions=TLS12),
    # Only RSA key exchange with CBC, as hosts of Windows Server 2008 have it: no cipher in common with us.
    "exchange_old_ciphers": variant(EXCHANGE, tls_versions=TLS12, ciphers="AES128-SHA:AES256-SHA:@SECLEVEL=0"),
    "exchange_busy": variant(
        EXCHANGE,
        {"CONNECT": ["421 4.3.2 Service not available", "220 {host} Microsoft ESMTP MAIL Service ready"]},
    ),
    "exchange_back_pressure": variant(
        EXCHANGE, {"MAIL": ["452 4.3.1 Insufficient system resources", "250 2.1.0 Sender OK"]}
    ),
    "exchange_421_at_recipient": variant(
        EXCHANGE,
        {"RCPT": ["421 4.3.2 Service not available, closing transmission channel", "250 2.1.5 Recipient OK"]},
    ),
    "exchange_times_out": variant(EXCHANGE, idle_seconds_max=0.5),
    "exchange_requires_tls": variant(EXCHANGE, requires_tls=True),
    "mdaemon": MDAEMON,
    "mdaemon_tarpit": variant(MDAEMON, reply_delay_seconds=1.0),
    "close_notify": variant(EXCHANGE, close_notify=True),
    "plain": PLAIN,
    "no_extensions": Behaviour(keywords=[]),
    "drops_before_final_reply": variant(EXCHANGE, drops_before_final_reply=1),
    "starttls_454": variant(EXCHANGE, {"STARTTLS": "454 4.7.0 TLS not available due to temporary reason"}),
    "starttls_501": variant(EXCHANGE, {"STARTTLS": "501 5.5.4 Syntax error"}),
    "ehlo_refused": variant(PLAIN, {"EHLO": "500 5.5.1 Command unrecognized"}),
    "garbage_handshake": variant(EXCHANGE, after_starttls="garbage"),
    "stalled_handshake": variant(EXCHANGE, after_starttls="stall"),
    "closes_at_handshake": variant(EXCHANGE, after_starttls="close"),
    "resets_at_handshake": variant(EXCHANGE, after_starttls="reset"),
    "injects_before_handshake": variant(EXCHANGE, after_starttls="inject"),
    "drips": variant(MDAEMON, drip=True),
    "greylists": variant(EXCHANGE, {"RCPT": ["451 4.7.1 Greylisting in action, try again later", "250 2.1.5 Ok"]}),
    "rejects_one_recipient": variant(
        EXCHANGE,
        {"RCPT unknown@sink.test": "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found by SMTP address lookup"},
    ),
    "rejects_content": variant(
        EXCHANGE, {"END": ["550 5.7.1 Message rejected as spam by Content Filtering.", "250 2.6.0 Queued"]}
    ),
    "small_size": variant(EXCHANGE, keywords=keywords("SIZE_1500 PIPELINING STARTTLS 8BITMIME")),
}


@dataclass
class Arrival:
    """A message that the host answered 250 for. `tls` is "TLSv1.3" or the like, None in plaintext."""

    sender: str
    recipients: list[str]
    content: bytes
    tls: str | None
    hello: str


class ScriptedHost:
    """Listens on entering the context; one thread per connection. `certificate`: (certificate, key) files."""

    def __init__(
        self,
        behaviour: Behaviour,
        certificate: tuple[Path, Path] | None,
        hostname: str = "ex01.corp.test",
        port: int = 0,
    ):
        self.behaviour = behaviour
        self.hostname = hostname
        self.context = tls_context(behaviour, certificate) if certificate else None
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.arrivals: list[Arrival] = []
        self.connections = 0
        self.dialogue: list[str] = []
        self.said: dict[str, int] = {}
        self.dropped = 0
        self.open: set[socket.socket] = set()

    def __enter__(self) -> "ScriptedHost":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def delivered(self) -> list[bytes]:
        with self.lock:
            return [arrival.content for arrival in self.arrivals]

    def commands(self, verb: str, tls: bool) -> list[str]:
        """Every command with this verb that came, in TLS or in plaintext."""
        start = f"C: [{'tls' if tls else 'plain'}] {verb}"
        with self.lock:
            return [line for line in self.dialogue if line.upper().startswith(start.upper())]

    def report(self) -> str:
        with self.lock:
            return f"--- dialogue of {self.hostname}\n" + "\n".join(self.dialogue)

    def note(self, line: str) -> None:
        with self.lock:
            self.dialogue.append(line)

    def reply_to(self, key: str) -> str:
        """The scripted or the standard reply; a list of replies is used up one by one."""
        reply = self.behaviour.replies.get(key) or STANDARD_REPLIES.get(key, "500 5.5.1 Command unrecognized")
        with self.lock:
            turn = self.said.get(key, 0)
            self.said[key] = turn + 1
            return reply if isinstance(reply, str) else reply[min(turn, len(reply) - 1)]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
                self.open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        session = Session(self, connection)
        try:
            session.run()
        except (OSError, ssl.SSLError, Hangup) as end:
            self.note(f"-- connection ended: {end!r}")
        finally:
            with self.lock:
                self.open.discard(connection)
            # Neither this nor Python's own close() sends close_notify.
            session.socket.close()


class Hangup(Exception):
    """The script says to close here, or the peer did."""


class Session:
    def __init__(self, host: ScriptedHost, connection: socket.socket):
        self.host = host
        self.behaviour = host.behaviour
        self.socket = connection
        self.socket.settimeout(SESSION_SECONDS_MAX)
        # As mail servers do: else a second reply waits 40 ms for the peer's delayed acknowledgement of the first.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        self.hello = ""
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.chunks = b""

    @property
    def tls(self) -> str | None:
        return self.socket.version() if isinstance(self.socket, ssl.SSLSocket) else None

    def run(self) -> None:
        if self.behaviour.implicit_tls:
            self.handshake()
        self.answer("CONNECT")
        while True:
            line = self.read_command()
            verb, _, argument = line.partition(" ")
            self.obey(verb.upper(), argument)

    def obey(self, verb: str, argument: str) -> None:
        if verb == "EHLO" and "EHLO" not in self.behaviour.replies:
            self.hello = argument
            self.say("\n".join(self.capabilities()))
        elif verb == "STARTTLS":
            self.starttls()
        elif self.behaviour.requires_tls and not self.tls and verb in ("MAIL", "RCPT", "DATA", "BDAT"):
            self.say("530 5.7.0 Must issue a STARTTLS command first")
        elif verb == "MAIL":
            self.mail(argument)
        elif verb == "RCPT":
            self.rcpt(argument)
        elif verb == "DATA":
            self.data()
        elif verb == "BDAT":
            self.bdat(argument)
        else:
            self.hello = argument if verb == "HELO" else self.hello
            self.answer(verb)
            if verb == "QUIT":
                self.quit()

    def capabilities(self) -> list[str]:
        offered = [
            word for word in self.behaviour.keywords if not (self.tls and word in ("STARTTLS", "X-ANONYMOUSTLS"))
        ]
        lines = [self.behaviour.ehlo, *(f"250-{word}" for word in offered)]
        lines[-1] = lines[-1].replace("250-", "250 ", 1)
        return lines

    def answer(self, key: str) -> str:
        reply = self.say(self.host.reply_to(key))
        if reply.startswith("421"):
            raise Hangup("after 421")
        return reply

    def mail(self, argument: str) -> None:
        self.recipients = []
        accepted = self.answer("MAIL").startswith("2")
        self.sender = path_of(argument) if accepted else None

    def rcpt(self, argument: str) -> None:
        recipient = path_of(argument)
        if self.sender is None:
            self.say("503 5.5.1 MAIL first")
            return
        special = f"RCPT {recipient}"
        if self.answer(special if special in self.behaviour.replies else "RCPT").startswith("2"):
            self.recipients.append(recipient)

    def data(self) -> None:
        if not self.recipients:
            self.say("503 5.5.1 RCPT first")
            return
        if self.answer("DATA").startswith("3"):
            self.end_of_message(self.read_content())

    def bdat(self, argument: str) -> None:
        """RFC 3030: so many octets follow, whatever they are."""
        size, _, last = argument.partition(" ")
        if len(self.chunks) + int(size) > MESSAGE_BYTES_MAX:
            raise Hangup("a message too large")
        self.chunks += self.read_octets(int(size))
        if last.strip().upper() == "LAST":
            content, self.chunks = self.chunks, b""
            self.end_of_message(content)
        else:
            self.say("250 2.0.0 Ok")

    def end_of_message(self, content: bytes) -> None:
        with self.host.lock:
            drop = self.host.dropped < self.behaviour.drops_before_final_reply
            self.host.dropped += drop
        if drop:
            raise Hangup("before the final reply")
        arrival = Arrival(self.sender or "", self.recipients, content, self.tls, self.hello)
        reply = self.host.reply_to("END")
        # Kept before it is acknowledged, as an honest host does.
        if reply.startswith("2"):
            with self.host.lock:
                self.host.arrivals.append(arrival)
        self.say(reply)
        self.sender, self.recipients = None, []

    def quit(self) -> None:
        if self.behaviour.close_notify and self.tls:
            with contextlib.suppress(OSError, ssl.SSLError):
                self.socket.unwrap()
        raise Hangup("after QUIT")

    def starttls(self) -> None:
        if not self.answer("STARTTLS").startswith("2"):
            return
        after = self.behaviour.after_starttls
        if after == "inject":
            # Bytes of a man in the middle, before TLS protects anything (RFC 3207 section 4.2).
            self.socket.sendall(b"250-injected\r\n250 SIZE 1\r\n")
        elif after == "garbage":
            self.socket.sendall(b"We are sorry, our TLS library could not be loaded.\r\n")
            self.wait_for_end()
        elif after == "stall":
            self.wait_for_end()
        elif after == "close":
            raise Hangup("instead of a handshake")
        elif after == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise Hangup("with a reset")
        self.handshake()

    def handshake(self) -> None:
        # What came before the handshake is not to be read after it.
        self.unread, self.hello, self.sender, self.recipients = b"", "", None, []
        assert self.host.context, "a host that offers STARTTLS has a certificate"
        self.socket = self.host.context.wrap_socket(self.socket, server_side=True)
        self.host.note(f"-- {self.tls} {self.socket.cipher()[0]}")

    def wait_for_end(self) -> None:
        while self.socket.recv(4096):
            pass
        raise Hangup("the peer gave up the handshake")

    def read_command(self) -> str:
        self.socket.settimeout(self.behaviour.idle_seconds_max)
        try:
            line = self.read_line()
        except TimeoutError:
            self.say(self.behaviour.idle_reply)
            raise Hangup("idle for too long") from None
        self.socket.settimeout(SESSION_SECONDS_MAX)
        text = line.decode("utf-8", "replace")
        self.host.note(f"C: [{'tls' if self.tls else 'plain'}] {text}")
        return text

    def read_line(self) -> bytes:
        """The next line without its CRLF. A bare LF ends no line."""
        while b"\r\n" not in self.unread:
            if len(self.unread) > LINE_BYTES_MAX:
                raise Hangup("a line too long")
            more = self.socket.recv(65_536)
            if not more:
                raise Hangup("the peer closed")
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\r\n")
        return line

    def read_octets(self, count: int) -> bytes:
        while len(self.unread) < count:
            more = self.socket.recv(65_536)
            if not more:
                raise Hangup("the peer closed within a chunk")
            self.unread += more
        octets, self.unread = self.unread[:count], self.unread[count:]
        return octets

    def read_content(self) -> bytes:
        lines, size = [], 0
        while (line := self.read_line()) != b".":
            lines.append(line[1:] if line.startswith(b".") else line)
            size += len(line) + 2
            if size > MESSAGE_BYTES_MAX:
                raise Hangup("a message too large")
        return b"".join(line + b"\r\n" for line in lines)

    def say(self, reply: str) -> str:
        time.sleep(self.behaviour.reply_delay_seconds)
        reply = reply.replace("{host}", self.host.hostname).replace("{number}", str(len(self.host.arrivals)))
        octets = "".join(f"{line}\r\n" for line in reply.split("\n")).encode()
        for line in reply.split("\n"):
            self.host.note(f"S: {line}")
        if self.behaviour.drip:
            for octet in octets:
                self.socket.sendall(bytes([octet]))
                time.sleep(0.001)
        else:
            self.socket.sendall(octets)
        return reply


def tls_context(behaviour: Behaviour, certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = behaviour.tls_versions
    if behaviour.ciphers:
        context.set_ciphers(behaviour.ciphers)
    context.load_cert_chain(*certificate)
    return context


def path_of(argument: str) -> str:
    """The mailbox between < and > of MAIL FROM:<...> or RCPT TO:<...>."""
    return argument.partition("<")[2].partition(">")[0]


def main() -> None:
    import tempfile

    import certificate
    import programs

    name, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2526
    with tempfile.TemporaryDirectory() as directory:
        pair = certificate.self_signed(Path(directory), "ex01.corp.test", programs.ensure().environment())
        with ScriptedHost(BEHAVIOURS[name], pair, port=port) as host:
            print(f"{name} listens on 127.0.0.1:{host.port}; Ctrl-C ends it")
            shown = 0
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(0.2)
                    for line in host.dialogue[shown:]:
                        print(line)
                    shown = len(host.dialogue)


if __name__ == "__main__":
    main()
