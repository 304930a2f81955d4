"""The cases, one function each, named after what must be true. `run.py` finds them in CASES."""

import re
import smtplib
import ssl
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

import certificate
import postfix
import testssl
from dns import NameServer, Zone
from mail import Delivered, Mail, check_arrived_once_intact
from postfix import Postfix
from process import check, free_port, wait_until
from programs import Programs
from ringpost import HOSTNAME, Relay, spoke_tls
from s_client import Conversation, transaction
from scripted_host import BEHAVIOURS, ScriptedHost
from sendmail import Sendmail

ARRIVAL_SECONDS_MAX = 20.0
PROGRAM_SECONDS_MAX = 30
# For cases where the mail must go out at once: no retry comes to the rescue.
AT_ONCE = {"retry_min": "10m", "retry_max": "10m"}

CASES: dict[str, Callable[["Bench"], None]] = {}


def case(function: Callable[["Bench"], None]) -> Callable[["Bench"], None]:
    CASES[function.__name__] = function
    return function


@dataclass
class Bench:
    """What a case works with: the programs, the relay's command, and a directory of its own."""

    programs: Programs
    relay_command: list[str]
    directory: Path
    # All of what takes minutes is asked, too.
    thorough: bool = False
    # Everything started, asked for a report when the case fails.
    started: list = field(default_factory=list)

    def certificate(self, name: str, key: str = "ec") -> tuple[Path, Path]:
        return certificate.self_signed(self.directory, name, self.programs.environment(), key)

    @contextmanager
    def relay(self, hop_port: int | None, **flags) -> Iterator[Relay]:
        """ringpost with one route, to the hop at this port. Flags with underscores; `route` replaces the route."""
        routes = flags.pop("route", [f"*=[127.0.0.1]:{hop_port}"])
        named = {name.replace("_", "-"): value for name, value in flags.items()}
        with self.kept(Relay(self.relay_command, self.directory / "ringpost", routes, named)) as relay:
            yield relay

    @contextmanager
    def host(self, behaviour: str, name: str = "ex01.corp.test", port: int = 0) -> Iterator[ScriptedHost]:
        with self.kept(ScriptedHost(BEHAVIOURS[behaviour], self.certificate(name), name, port=port)) as host:
            yield host

    @contextmanager
    def postfix_hop(self, **settings: str) -> Iterator[Postfix]:
        with self.kept(postfix.receiving(self.programs, self.directory / "postfix-hop", settings)) as hop:
            yield hop

    @contextmanager
    def postfix_client(self, relay_port: int, **settings: str) -> Iterator[Postfix]:
        with self.kept(
            postfix.sending(self.programs, self.directory / "postfix-client", relay_port, settings)
        ) as client:
            yield client

    @contextmanager
    def sendmail_hop(self, with_tls: bool, more_tls: str = "") -> Iterator[Sendmail]:
        pair = self.certificate("sendmail-hop.test") if with_tls else None
        hop = Sendmail(
            self.programs,
            self.directory / "sendmail-hop",
            "sendmail-hop.test",
            certificate=pair,
            more_tls=more_tls,
        )
        with self.kept(hop):
            yield hop

    @contextmanager
    def sendmail_client(self, relay_port: int, with_tls: bool) -> Iterator[Sendmail]:
        pair = self.certificate("sendmail-client.test") if with_tls else None
        client = Sendmail(self.programs, self.directory / "sendmail-client", "sendmail-client.test", relay_port, pair)
        with self.kept(client):
            yield client

    def kept(self, thing):
        self.started.append(thing)
        return thing

    def tool(self, command: list[str], standard_input: bytes = b"") -> subprocess.CompletedProcess:
        """Runs swaks or openssl to its end; its output, both streams together, is text."""
        done = subprocess.run(
            command,
            input=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.programs.environment(),
            timeout=PROGRAM_SECONDS_MAX,
        )
        done.stdout = done.stdout.decode("utf-8", "replace")
        self.started.append(Transcript(command, done.stdout))
        return done


@dataclass
class Transcript:
    command: list[str]
    text: str

    def report(self) -> str:
        return f"--- {' '.join(self.command)}\n{self.text}"


# What every case asserts


def submit(relay: Relay, mail: Mail, with_tls: bool = False) -> None:
    """Python's own client; the cases about clients use real ones."""
    with smtplib.SMTP("127.0.0.1", relay.port, local_hostname="client.test", timeout=30) as client:
        if with_tls:
            client.starttls(context=ssl._create_unverified_context())
        client.ehlo_or_helo_if_needed()
        client.sendmail(mail.sender, mail.recipients, mail.content, mail_options=["BODY=8BITMIME"])


def wait_for_arrivals(hop, count: int = 1) -> None:
    wait_until(f"{count} messages arrived", lambda: len(hop.delivered()) >= count, ARRIVAL_SECONDS_MAX)


def check_hop_side(copy: Delivered, hop, with_tls: bool) -> None:
    """How the mail came, as the next hop tells."""
    if isinstance(hop, ScriptedHost):
        used = [arrival.tls for arrival in hop.arrivals if arrival.content.endswith(copy.body.replace(b"\n", b"\r\n"))]
        check(all(bool(tls) == with_tls for tls in used), f"the host saw TLS {used}, expected {with_tls}")
        return
    name = "postfix-hop.test" if isinstance(hop, Postfix) else "sendmail-hop.test"
    trace = copy.received_by(name)
    check(("TLSv1." in trace) == with_tls, f"expected TLS {with_tls}, the hop says: {trace}")


def check_relay_side(relay: Relay, copy: Delivered, recipient: str, hop_port: int, tls_in: bool, tls_out: bool) -> None:
    """How the mail came and went, as ringpost tells in its trace field and in its log."""
    trace = copy.received_by(HOSTNAME)
    protocol = re.search(r"\bwith (\S+)", trace)
    check(
        protocol and protocol[1].startswith("UTF8SMTP" if "UTF8" in trace else "ESMTP"),
        f"no protocol: {trace}",
    )
    check(protocol[1].endswith("S") == tls_in, f"expected TLS {tls_in} in, the trace says: {trace}")
    check(("TLSv1." in trace or "TLS_" in trace) == tls_in, f"expected TLS {tls_in} in, the trace says: {trace}")
    record = relay.wait_for_delivery(recipient, hop_port)
    check(spoke_tls(record) == tls_out, f"expected TLS {tls_out} out, the log says: {record}")


def relayed_once(
    bench: Bench,
    hop,
    send: Callable[[Relay, Mail], None],
    *,
    tls_in: bool,
    tls_out: bool,
    mail: Mail | None = None,
    hop_port: int | None = None,
    **flags,
) -> Delivered:
    """The whole way: `send` gives a message to ringpost, the hop must keep it once, intact, by the expected TLS."""
    mail = mail or Mail()
    with bench.relay(hop_port or hop.port, **flags) as relay:
        send(relay, mail)
        wait_for_arrivals(hop)
        copy = Delivered(hop.delivered()[0])
        check_relay_side(relay, copy, mail.recipients[0], hop.port, tls_in, tls_out)
        check_hop_side(copy, hop, tls_out)
    # ringpost has ended: what came by now is all that ever will.
    if not isinstance(hop, ScriptedHost):
        hop.wait_until_idle()
    return check_arrived_once_intact(mail, hop.delivered())


# Postfix as the next hop


@case
def postfix_hop_with_tls(bench: Bench) -> None:
    key_and_chain = ", ".join(map(str, reversed(bench.certificate("postfix-hop.test", "rsa"))))
    with bench.postfix_hop(smtpd_tls_security_level="may", smtpd_tls_chain_files=key_and_chain) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=True, **AT_ONCE)
        check(
            hop.log_lines(r"smtpd.*TLS connection established from .*: TLSv1\.3"),
            "Postfix did not log TLS 1.3",
        )


@case
def postfix_hop_that_demands_tls12(bench: Bench) -> None:
    key_and_chain = ", ".join(map(str, reversed(bench.certificate("postfix-hop.test"))))
    settings = {"smtpd_tls_security_level": "encrypt", "smtpd_tls_mandatory_protocols": "TLSv1.2"}
    with bench.postfix_hop(smtpd_tls_chain_files=key_and_chain, **settings) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=True, **AT_ONCE)
        check(
            hop.log_lines(r"smtpd.*TLS connection established from .*: TLSv1\.2"),
            "Postfix did not log TLS 1.2",
        )


@case
def postfix_hop_without_tls(bench: Bench) -> None:
    with bench.postfix_hop(smtpd_tls_security_level="none") as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=False, **AT_ONCE)


@case
def postfix_hop_whose_key_is_not_the_certificates_gets_plaintext(bench: Bench) -> None:
    """Postfix offers STARTTLS and then answers 454 4.7.0: its TLS could not be initialised."""
    mine, _ = bench.certificate("postfix-hop.test", "rsa")
    _, foreign_key = bench.certificate("another.test", "rsa")
    settings = {"smtpd_tls_cert_file": str(mine), "smtpd_tls_key_file": str(foreign_key)}
    with bench.postfix_hop(smtpd_tls_security_level="may", **settings) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=False, **AT_ONCE)
        check(
            hop.log_lines("TLS not available|TLS library problem|cannot"),
            "Postfix saw nothing wrong with its TLS",
        )


@case
def postfix_hop_with_only_ancient_tls_gets_plaintext(bench: Bench) -> None:
    """TLS 1.0 is all it speaks: the handshake fails, and the same host gets the mail over a new connection."""
    key_and_chain = ", ".join(map(str, reversed(bench.certificate("postfix-hop.test", "rsa"))))
    settings = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_protocols": "TLSv1",
        "tls_medium_cipherlist": "ALL:@SECLEVEL=0",
    }
    with bench.postfix_hop(smtpd_tls_chain_files=key_and_chain, smtpd_tls_ciphers="medium", **settings) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=False, **AT_ONCE)
        check(hop.log_lines("SSL_accept error"), "Postfix saw no failed handshake")


# Sendmail as the next hop


@case
def sendmail_hop_with_tls(bench: Bench) -> None:
    with bench.sendmail_hop(with_tls=True) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=True, **AT_ONCE)
        check("STARTTLS=server" in hop.log.read_text(), "Sendmail did not log STARTTLS")


@case
def sendmail_hop_without_tls(bench: Bench) -> None:
    with bench.sendmail_hop(with_tls=False) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=False, **AT_ONCE)


@case
def sendmail_hop_with_only_old_ciphers_gets_plaintext(bench: Bench) -> None:
    """RSA key exchange and CBC only: no cipher in common, so the handshake fails."""
    old = (
        "define(`confCIPHER_LIST', `AES128-SHA:@SECLEVEL=0')dnl\n"
        "define(`confSERVER_SSL_OPTIONS', `+SSL_OP_NO_TLSv1_3')dnl\n"
    )
    with bench.sendmail_hop(with_tls=True, more_tls=old) as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=False, **AT_ONCE)
        check("STARTTLS=server, error: accept failed" in hop.log.read_text(), "Sendmail saw no failed handshake")


# Postfix as the client


def by_postfix(bench: Bench, expected_log: str | None, **settings: str) -> Callable[[Relay, Mail], None]:
    """Gives the message to a Postfix whose relayhost is ringpost, and sees in Postfix's log how it went."""

    def send(relay: Relay, mail: Mail) -> None:
        port = relay.tls_port if settings.get("smtp_tls_wrappermode") == "yes" else relay.port
        with bench.postfix_client(port, **settings) as client:
            client.submit(mail.sender, mail.recipients, mail.content)
            client.wait_until_idle()
            sent = client.log_lines(r"postfix/smtp\[.*status=sent \(250 2\.0\.0")
            check(len(sent) == 1, f"Postfix has {len(sent)} lines with status=sent, not one")
            tls = client.log_lines(r"postfix/smtp\[.*TLS connection established to 127\.0\.0\.1")
            check(bool(tls) == bool(expected_log), f"expected TLS {expected_log}, Postfix says {tls}")
            check(not expected_log or expected_log in tls[0], f"expected {expected_log}, Postfix says {tls}")

    return send


@case
def postfix_client_uses_starttls_by_itself(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        send = by_postfix(bench, "TLSv1.3", smtp_tls_security_level="may")
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def postfix_client_that_demands_tls12(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        settings = {"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": "TLSv1.2"}
        send = by_postfix(bench, "TLSv1.2", **settings)
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def postfix_client_in_plaintext(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        send = by_postfix(bench, None, smtp_tls_security_level="none")
        relayed_once(bench, hop, send, tls_in=False, tls_out=True, **AT_ONCE)


@case
def postfix_client_is_not_offered_starttls(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        send = by_postfix(bench, None, smtp_tls_security_level="may")
        relayed_once(bench, hop, send, tls_in=False, tls_out=True, no_starttls="", **AT_ONCE)


@case
def postfix_client_with_tls_from_the_first_byte(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        send = by_postfix(bench, "TLSv1.3", smtp_tls_security_level="encrypt", smtp_tls_wrappermode="yes")
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def postfix_on_both_sides_many_messages(bench: Bench) -> None:
    """Fifty messages of several sizes, connections reused on both sides; every one exactly once and intact."""
    key_and_chain = ", ".join(map(str, reversed(bench.certificate("postfix-hop.test"))))
    mails = [Mail(extra_lines=number * number) for number in range(50)]
    with (
        bench.postfix_hop(smtpd_tls_security_level="may", smtpd_tls_chain_files=key_and_chain) as hop,
        bench.relay(hop.port) as relay,
    ):
        with bench.postfix_client(relay.port, smtp_tls_security_level="may") as client:
            for mail in mails:
                client.submit(mail.sender, mail.recipients, mail.content)
            client.wait_until_idle()
            wait_for_arrivals(hop, len(mails))
    hop.wait_until_idle()
    for mail in mails:
        check_arrived_once_intact(mail, hop.delivered())


# Sendmail as the client


def by_sendmail(bench: Bench, with_tls: bool) -> Callable[[Relay, Mail], None]:
    """Queues the message in a Sendmail whose smart host is ringpost, and runs its queue once."""

    def send(relay: Relay, mail: Mail) -> None:
        with bench.sendmail_client(relay.port, with_tls) as client:
            client.queue_message(mail.sender, mail.recipients, mail.content)
            client.run_queue()
            client.wait_until_idle()
            log = client.log.read_text()
            check(
                "stat=Sent (Ok: queued" in log or "stat=Sent (ok: queued" in log.lower(),
                "Sendmail logged no stat=Sent",
            )
            check(
                ("STARTTLS=client, relay=" in log) == with_tls,
                f"expected TLS {with_tls}, Sendmail logged otherwise",
            )

    return send


@case
def sendmail_client_uses_starttls_by_itself(bench: Bench) -> None:
    with bench.host("mdaemon") as hop:
        relayed_once(bench, hop, by_sendmail(bench, True), tls_in=True, tls_out=True, **AT_ONCE)


@case
def sendmail_client_in_plaintext(bench: Bench) -> None:
    with bench.host("mdaemon") as hop:
        relayed_once(bench, hop, by_sendmail(bench, False), tls_in=False, tls_out=True, **AT_ONCE)


@case
def sendmail_to_postfix(bench: Bench) -> None:
    key_and_chain = ", ".join(map(str, reversed(bench.certificate("postfix-hop.test"))))
    with bench.postfix_hop(smtpd_tls_security_level="may", smtpd_tls_chain_files=key_and_chain) as hop:
        relayed_once(bench, hop, by_sendmail(bench, True), tls_in=True, tls_out=True, **AT_ONCE)


@case
def postfix_to_sendmail(bench: Bench) -> None:
    with bench.sendmail_hop(with_tls=True) as hop:
        send = by_postfix(bench, "TLSv1.3", smtp_tls_security_level="may")
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


# swaks


def swaks(
    bench: Bench, relay: Relay, mail: Mail, *options: str, port: int | None = None
) -> subprocess.CompletedProcess:
    data = bench.directory / "swaks.eml"
    # swaks stuffs dots and ends the last line by itself; --data @FILE takes the rest as it is.
    data.write_bytes(mail.content.replace(b"\r\n", b"\n").removesuffix(b"\n"))
    command = ["perl", str(bench.programs.path("/usr/bin/swaks")), "--server", "127.0.0.1"]
    command += ["--port", str(port or relay.port), "--ehlo", "client.test", "--from", mail.sender]
    command += ["--to", ",".join(mail.recipients), "--data", f"@{data}", "--timeout", "20", *options]
    return bench.tool(command)


def by_swaks(bench: Bench, *options: str, implicit_tls: bool = False) -> Callable[[Relay, Mail], None]:
    def send(relay: Relay, mail: Mail) -> None:
        done = swaks(bench, relay, mail, *options, port=relay.tls_port if implicit_tls else None)
        check(done.returncode == 0, f"swaks ended with exit code {done.returncode}")
        check(re.search(r"<[-~]  ?250 2\.0\.0 ", done.stdout), "swaks saw no 250 2.0.0")
        wants_tls = implicit_tls or "--tls" in options
        check(("TLS started with cipher TLSv1." in done.stdout) == wants_tls, f"swaks: TLS is not {wants_tls}")

    return send


@case
def swaks_in_plaintext(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        relayed_once(bench, hop, by_swaks(bench), tls_in=False, tls_out=True, **AT_ONCE)


@case
def swaks_with_starttls(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        relayed_once(bench, hop, by_swaks(bench, "--tls"), tls_in=True, tls_out=True, **AT_ONCE)


@case
def swaks_with_tls_on_connect(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        send = by_swaks(bench, "--tls-on-connect", implicit_tls=True)
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def swaks_with_pipelining(bench: Bench) -> None:
    """MAIL, RCPT and DATA in one write, to three recipients: one transaction in, one transaction out."""
    mail = Mail(recipients=[f"recipient{number}@sink.test" for number in range(3)])
    with bench.host("mdaemon") as hop:
        send = by_swaks(bench, "--tls", "--pipeline")
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, mail=mail, **AT_ONCE)
        check(sorted(hop.arrivals[0].recipients) == mail.recipients, f"recipients: {hop.arrivals[0].recipients}")
        check(hop.arrivals[0].sender == mail.sender, f"sender: {hop.arrivals[0].sender}")


@case
def swaks_may_not_relay_from_elsewhere(bench: Bench) -> None:
    with bench.host("exchange") as hop:
        with bench.relay(hop.port, relay_from="192.0.2.0/24") as relay:
            done = swaks(bench, relay, Mail(), "--tls")
            check(done.returncode == 24, f"swaks: exit code {done.returncode}, not 24 (no recipient accepted)")
            check("554 5.7.1" in done.stdout, "swaks saw no 554 5.7.1")
        check(hop.connections == 0, "the next hop was asked about mail that was refused")


# openssl s_client


def conversation(bench: Bench, port: int, *options: str) -> Conversation:
    return bench.kept(Conversation(port, list(options), bench.programs.environment()))


@case
def openssl_s_client_with_starttls(bench: Bench) -> None:
    def send(relay: Relay, mail: Mail) -> None:
        with conversation(bench, relay.port, "-starttls", "smtp") as talk:
            # s_client shows the last line of the reply to its own EHLO, and then talks to us.
            talk.expect("250")
            transaction(talk, mail)
            check("New, TLSv1.3, Cipher is TLS_" in talk.text, "openssl did not report TLS 1.3")

    with bench.host("exchange") as hop:
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def openssl_s_client_with_tls_on_connect(bench: Bench) -> None:
    def send(relay: Relay, mail: Mail) -> None:
        with conversation(bench, relay.tls_port) as talk:
            talk.expect("220")
            transaction(talk, mail)

    with bench.host("exchange") as hop:
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def testssl_finds_over_starttls_what_it_finds_on_the_tls_port(bench: Bench) -> None:
    """A scanner's probes are to fail; it must not be taken for a client that cannot do TLS."""
    flags = [] if bench.thorough else ["-p"]
    seconds_max = 1500 if bench.thorough else 100

    def scan(port: int, *more: str) -> dict[str, str]:
        return testssl.findings(bench.programs, bench.directory, port, [*more, *flags], seconds_max)

    with bench.relay(None, route=None) as relay, ThreadPoolExecutor() as both:
        over_starttls = both.submit(scan, relay.port, "--starttls", "smtp")
        from_the_first_byte = both.submit(scan, relay.tls_port)
        rows, others = over_starttls.result(), from_the_first_byte.result()
        different = testssl.differences(rows, others)
        check(not different, "STARTTLS / TLS port:\n" + "\n".join(different))
        for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
            check("not offered" in rows[name], f"{name}: {rows[name]}")
        check(rows["TLS1_2"] == "offered", rows["TLS1_2"])
        check("offered with final" in rows["TLS1_3"], rows["TLS1_3"])
        if bench.thorough:
            check("TLS_AES_128_GCM_SHA256" in rows["PFS_ciphers"], rows["PFS_ciphers"])
            check(len(rows) > 100, f"{len(rows)} rows only")
            check(rows["heartbleed"].startswith("not vulnerable"), rows["heartbleed"])


def resumes(bench: Bench, version: str) -> None:
    """A second session with the first one's ticket: resumed, and mail goes through it."""
    ticket = str(bench.directory / "session.pem")
    options = ["-starttls", "smtp", version]

    def send(relay: Relay, mail: Mail) -> None:
        with conversation(bench, relay.port, *options, "-sess_out", ticket) as talk:
            talk.expect("250")
            talk.ask("EHLO client.test", "250")
            talk.ask("QUIT", "221")
            talk.wait_for_end()
            check("New, TLSv1." in talk.text, "the first handshake was not a full one")
        with conversation(bench, relay.port, *options, "-sess_in", ticket) as talk:
            talk.expect("250")
            transaction(talk, mail)
            check("Reused, TLSv1." in talk.text, "the second session was not resumed")

    with bench.host("exchange") as hop:
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, **AT_ONCE)


@case
def openssl_s_client_resumes_tls13(bench: Bench) -> None:
    resumes(bench, "-tls1_3")


@case
def openssl_s_client_resumes_tls12(bench: Bench) -> None:
    resumes(bench, "-tls1_2")


@case
def commands_injected_before_the_handshake_are_not_obeyed(bench: Bench) -> None:
    """A man in the middle puts a command behind STARTTLS in plaintext; the session in TLS knows nothing of it."""
    mail = Mail()
    with bench.host("exchange") as hop:
        with bench.relay(hop.port) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, local_hostname="client.test", timeout=20) as client:
                client.ehlo()
                client.sock.sendall(b"STARTTLS\r\nMAIL FROM:<mallory@source.test>\r\n")
                check(client.getreply()[0] == 220, "STARTTLS was refused")
                client.sock = ssl._create_unverified_context().wrap_socket(client.sock)
                client.file = client.helo_resp = client.ehlo_resp = None
                # No reply to the injected MAIL comes first, and no transaction is open.
                check(
                    client.docmd("RCPT", f"TO:<{mail.recipients[0]}>")[0] == 503,
                    "a transaction was open after STARTTLS",
                )
                client.ehlo()
                client.sendmail(mail.sender, mail.recipients, mail.content, mail_options=["BODY=8BITMIME"])
            wait_for_arrivals(hop)
        check_arrived_once_intact(mail, hop.delivered())


# Exchange as the client


@case
def exchange_client_sends_by_bdat(bench: Bench) -> None:
    """Exchange prefers BDAT (RFC 3030) where CHUNKING is offered: chunks that end anywhere, the command pipelined."""
    mail = Mail(extra_lines=2_000)
    middle = mail.content.index(b"\r\n.\r\n") + 3  # between a dot and its CRLF, where a scan may lose its place

    def send(relay: Relay, mail: Mail) -> None:
        with smtplib.SMTP("127.0.0.1", relay.port, local_hostname="ex02.corp.test", timeout=20) as client:
            client.starttls(context=ssl._create_unverified_context())
            client.ehlo()
            check(client.has_extn("chunking"), "ringpost does not offer CHUNKING")
            first, last = mail.content[:middle], mail.content[middle:]
            commands = f"MAIL FROM:<{mail.sender}> SIZE={len(mail.content)} BODY=8BITMIME\r\n"
            commands += f"RCPT TO:<{mail.recipients[0]}>\r\n"
            client.send(
                commands.encode() + b"BDAT %d\r\n" % len(first) + first + b"BDAT %d LAST\r\n" % len(last) + last
            )
            replies = [client.getreply() for _ in range(4)]
            check([code for code, _ in replies] == [250] * 4, f"BDAT was answered {replies}")

    with bench.host("exchange") as hop:
        relayed_once(bench, hop, send, tls_in=True, tls_out=True, mail=mail, **AT_ONCE)


@case
def clients_that_put_a_space_before_the_path(bench: Bench) -> None:
    """MAIL FROM: <a@b>, as some MDaemon and many home-made clients write it."""

    def send(relay: Relay, mail: Mail) -> None:
        with smtplib.SMTP("127.0.0.1", relay.port, local_hostname="client.test", timeout=20) as client:
            client.ehlo()
            check(client.docmd("MAIL", f"FROM: <{mail.sender}>")[0] == 250, "MAIL FROM: <...> was refused")
            check(client.docmd("RCPT", f"TO: <{mail.recipients[0]}>")[0] == 250, "RCPT TO: <...> was refused")
            check(client.data(mail.content)[0] == 250, "the message was refused")

    with bench.host("mdaemon") as hop:
        relayed_once(bench, hop, send, tls_in=False, tls_out=True, **AT_ONCE)


# Hosts that are away, and a relay that dies


@case
def promtool_has_nothing_to_say_of_the_metrics(bench: Bench) -> None:
    """Debian's Prometheus reads them, and its rules for names, units and help texts hold."""
    mail, port = Mail(), free_port()
    with bench.host("exchange") as hop, bench.relay(hop.port, http=f"127.0.0.1:{port}") as relay:
        submit(relay, mail)
        wait_for_arrivals(hop)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            metrics = answer.read()
        promtool = str(bench.programs.path("/usr/bin/promtool"))
        done = bench.tool([promtool, "check", "metrics"], metrics)
        check(done.returncode == 0 and not done.stdout, f"promtool ended with {done.returncode}: {done.stdout}")
        check(b"\nringpost_delivered_total 1\n" in metrics, metrics.decode())


@case
def a_host_that_is_away_gets_its_mail_when_it_is_back(bench: Bench) -> None:
    mail, port = Mail(), free_port()
    with bench.relay(port) as relay:
        submit(relay, mail)
        wait_until("the attempt is deferred", lambda: relay.events("deferred"), ARRIVAL_SECONDS_MAX)
        with bench.host("exchange", port=port) as hop:
            wait_for_arrivals(hop)
            check_arrived_once_intact(mail, hop.delivered())


@case
def accepted_mail_survives_kill_9_and_a_restart(bench: Bench) -> None:
    """Killed right after the last 250, restarted on the same spool, stopped and restarted again: nothing is lost."""
    mails, port = [Mail(extra_lines=number * 100) for number in range(20)], free_port()
    with bench.relay(port) as relay:
        for mail in mails:
            submit(relay, mail, with_tls=True)
        relay.kill()
    with bench.relay(port):
        pass
    with bench.host("exchange", port=port) as hop:
        with bench.relay(port):
            wait_for_arrivals(hop, len(mails))
        for mail in mails:
            check_arrived_once_intact(mail, hop.delivered())


# By MX, asked of a name server of ours


@contextmanager
def by_mx(bench: Bench, zone: Zone, port: int, **flags) -> Iterator[Relay]:
    """A relay without any route: it must find the hosts in this zone, all of them on this port."""
    with bench.kept(NameServer(zone)) as names:
        servers = {"dns": f"127.0.0.1:{names.port}", "mx_port": str(port)}
        with bench.relay(None, route=None, **servers, **flags) as relay:
            yield relay


@case
def mx_hosts_are_tried_in_order_of_preference(bench: Bench) -> None:
    """The best host's address answers nothing, the second is behind a CNAME, which senders take all the same."""
    mail = Mail()
    zone = Zone(
        mx={"sink.test": [(20, "second.sink.test"), (10, "first.sink.test")]},
        a={"first.sink.test": ["127.0.0.9"], "real.sink.test": ["127.0.0.1"]},
        cname={"second.sink.test": "real.sink.test"},
    )
    with bench.host("exchange") as hop:
        with by_mx(bench, zone, hop.port, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(hop)
            check(spoke_tls(relay.wait_for_delivery(mail.recipients[0], hop.port)), "no TLS towards the MX host")
        check_arrived_once_intact(mail, hop.delivered())


@case
def a_domain_without_mx_is_its_own_host(bench: Bench) -> None:
    mail = Mail()
    with bench.host("exchange") as hop:
        with by_mx(bench, Zone(a={"sink.test": ["127.0.0.1"]}), hop.port, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(hop)
        check_arrived_once_intact(mail, hop.delivered())


def bounces_by_mx(bench: Bench, zone: Zone, status: str) -> None:
    """Mail for sink.test fails at once; the report finds its way to the sender by MX."""
    mail = Mail()
    zone.mx["source.test"] = [(10, "home.test")]
    zone.a["home.test"] = ["127.0.0.1"]
    with bench.host("exchange") as home:
        with by_mx(bench, zone, home.port, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(home)
        check_bounce(home, mail, mail.recipients, status)


@case
def a_null_mx_bounces_at_once(bench: Bench) -> None:
    bounces_by_mx(bench, Zone(mx={"sink.test": [(0, "")]}), "5.1.10")


@case
def a_domain_that_does_not_exist_bounces_at_once(bench: Bench) -> None:
    bounces_by_mx(bench, Zone(), "5.1.2")


@case
def a_name_server_that_fails_does_not_bounce(bench: Bench) -> None:
    """SERVFAIL is nobody's fault for long: tried again a second later, and then the mail arrives."""
    mail = Mail()
    zone = Zone(mx={"sink.test": [(10, "mx.sink.test")]}, a={"mx.sink.test": ["127.0.0.1"]}, broken={"sink.test"})
    with bench.host("exchange") as hop:
        with by_mx(bench, zone, hop.port) as relay:
            submit(relay, mail)
            wait_until("the attempt is deferred", lambda: relay.events("deferred"), ARRIVAL_SECONDS_MAX)
            zone.broken.clear()
            wait_for_arrivals(hop)
        check_arrived_once_intact(mail, hop.delivered())


# Hosts that behave as Exchange, MDaemon and broken ones do. Each must get the mail, once and intact.


def delivered_to(behaviour: str, tls_out: bool, connections: int | None = None, **flags) -> Callable[[Bench], None]:
    def run(bench: Bench) -> None:
        with bench.host(behaviour) as hop:
            relayed_once(bench, hop, submit, tls_in=False, tls_out=tls_out, **flags)
            check(
                connections in (None, hop.connections),
                f"the host saw {hop.connections} connections, expected {connections}",
            )

    return run


def scripted(name: str, *arguments, **flags) -> None:
    CASES[name] = delivered_to(*arguments, **flags)


# At once, without a retry:
scripted("exchange", "exchange", True, 1, **AT_ONCE)
scripted("exchange_with_tls12", "exchange_tls12", True, 1, **AT_ONCE)
scripted("exchange_requires_tls", "exchange_requires_tls", True, 1, **AT_ONCE)
scripted("exchange_with_old_ciphers_gets_plaintext", "exchange_old_ciphers", False, 2, **AT_ONCE)
scripted("mdaemon", "mdaemon", True, 1, **AT_ONCE)
scripted("mdaemon_tarpit", "mdaemon_tarpit", True, 1, **AT_ONCE)
scripted("host_that_sends_close_notify", "close_notify", True, 1, **AT_ONCE)
scripted("host_without_starttls", "plain", False, 1, **AT_ONCE)
scripted("host_that_drips_octets", "drips", True, 1, **AT_ONCE)
scripted("ehlo_refused_then_helo", "ehlo_refused", False, 1, **AT_ONCE)
scripted("starttls_answered_454_gets_plaintext", "starttls_454", False, 1, **AT_ONCE)
scripted("starttls_answered_501_gets_plaintext", "starttls_501", False, 1, **AT_ONCE)
scripted("garbage_instead_of_server_hello_gets_plaintext", "garbage_handshake", False, 2, **AT_ONCE)
scripted("stalled_handshake_gets_plaintext", "stalled_handshake", False, 2, **AT_ONCE)
scripted("close_instead_of_handshake_gets_plaintext", "closes_at_handshake", False, 2, **AT_ONCE)
scripted("reset_instead_of_handshake_gets_plaintext", "resets_at_handshake", False, 2, **AT_ONCE)
# With the next attempt, a second later:
scripted("exchange_busy_421_at_greeting", "exchange_busy", True, 2)
scripted("exchange_back_pressure_452_at_mail", "exchange_back_pressure", True)
scripted("exchange_421_at_recipient", "exchange_421_at_recipient", True, 2)
scripted("greylisting_451_at_recipient", "greylists", True)
scripted("connection_dropped_before_the_final_reply", "drops_before_final_reply", True, 2)


@case
def plaintext_injected_before_the_handshake_is_ignored(bench: Bench) -> None:
    """Bytes that follow the 220 to STARTTLS in plaintext are never taken for replies (RFC 3207 section 4.2).

    They stand where the ServerHello should, so the handshake fails, and a new connection gets plaintext; or they
    came with the 220 and are thrown away, and the handshake succeeds. Both are right; believing them is not: they
    announce a size limit that would bounce the mail.
    """
    mail = Mail()
    with bench.host("injects_before_handshake") as hop:
        with bench.relay(hop.port, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(hop)
        check_arrived_once_intact(mail, hop.delivered())


@case
def certificates_that_prove_nothing_are_good_enough_for_opportunistic_tls(bench: Bench) -> None:
    """X.509 version 1, as very old installations still have: encrypted all the same."""
    certificate_file, key = certificate.version_1(bench.directory, "ex01.corp.test", bench.programs.environment())
    host = ScriptedHost(BEHAVIOURS["exchange"], (certificate_file, key))
    bench.started.append(host)
    with host as hop:
        relayed_once(bench, hop, submit, tls_in=False, tls_out=True, **AT_ONCE)


@case
def exchange_that_times_out_an_idle_connection(bench: Bench) -> None:
    """The host says 421 4.4.1 to a connection kept for reuse, and closes it; the next message must not suffer."""
    first, second = Mail(), Mail()
    with bench.host("exchange_times_out") as hop:
        with bench.relay(hop.port) as relay:
            submit(relay, first)
            wait_for_arrivals(hop)
            wait_until(
                "the idle connection is over",
                lambda: not hop.open or "QUIT" in "\n".join(hop.dialogue),
                ARRIVAL_SECONDS_MAX,
            )
            submit(relay, second)
            wait_for_arrivals(hop, 2)
        check_arrived_once_intact(first, hop.delivered())
        check_arrived_once_intact(second, hop.delivered())


@case
def encrypt_never_falls_back_to_plaintext(bench: Bench) -> None:
    """With --tls-out-for sink.test=encrypt a host with broken TLS gets no mail; the sender gets a bounce."""
    mail = Mail()
    with bench.host("garbage_handshake") as broken, bench.host("plain", "sender-hop.test") as home:
        routes = [f"sink.test=[127.0.0.1]:{broken.port}", f"source.test=[127.0.0.1]:{home.port}"]
        with bench.relay(None, route=routes, tls_out_for="sink.test=encrypt", queue_lifetime="0s") as relay:
            submit(relay, mail)
            wait_for_arrivals(home)
        check(not broken.commands("MAIL", tls=False), "mail went out in plaintext in spite of encrypt")
        check_bounce(home, mail, mail.recipients, None)


def check_bounce(home: ScriptedHost, mail: Mail, failed: list[str], status: str | None) -> None:
    """One RFC 3464 report with a null reverse-path to the sender, about exactly these recipients.

    `status`: what one of them failed with; None where it is ours to choose.
    """
    check(len(home.arrivals) == 1, f"{len(home.arrivals)} messages came back to the sender, not one")
    bounce = home.arrivals[0]
    check(
        bounce.sender == "" and bounce.recipients == [mail.sender],
        f"bounce from <{bounce.sender}> to {bounce.recipients}",
    )
    text = Delivered(bounce.content)
    check("multipart/report" in text.fields("Content-Type")[0], f"the bounce is {text.fields('Content-Type')}")
    body = text.body.decode("utf-8", "replace")
    about = re.findall(r"(?im)^Final-Recipient: *rfc822; *(\S+)", body)
    check(sorted(about) == sorted(failed), f"the bounce is about {about}, not {failed}")
    check(re.findall(r"(?im)^Action: *(\S+)", body) == ["failed"] * len(failed), "Action is not failed")
    check(mail.token in body, "the bounce does not quote the message's header")
    statuses = re.findall(r"(?im)^Status: *(\S+)", body)
    check(len(statuses) == len(failed) and status in (None, *statuses), f"Status: {statuses}, not {status}")


@case
def one_unknown_recipient_of_three_bounces_alone(bench: Bench) -> None:
    mail = Mail(recipients=["first@sink.test", "unknown@sink.test", "third@sink.test"])
    with bench.host("rejects_one_recipient") as hop, bench.host("exchange", "sender-hop.test") as home:
        routes = [f"sink.test=[127.0.0.1]:{hop.port}", f"source.test=[127.0.0.1]:{home.port}"]
        with bench.relay(None, route=routes, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(hop)
            wait_for_arrivals(home)
        check_arrived_once_intact(mail, hop.delivered())
        check(
            hop.arrivals[0].recipients == ["first@sink.test", "third@sink.test"],
            f"{hop.arrivals[0].recipients}",
        )
        check_bounce(home, mail, ["unknown@sink.test"], "5.1.10")


@case
def content_rejected_after_the_data_bounces(bench: Bench) -> None:
    mail = Mail()
    with bench.host("rejects_content") as hop, bench.host("exchange", "sender-hop.test") as home:
        routes = [f"sink.test=[127.0.0.1]:{hop.port}", f"source.test=[127.0.0.1]:{home.port}"]
        with bench.relay(None, route=routes, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(home)
        check(not hop.arrivals, "the hop kept what it rejected")
        check_bounce(home, mail, mail.recipients, "5.7.1")


@case
def mail_larger_than_the_hops_size_bounces_without_being_sent(bench: Bench) -> None:
    mail = Mail()
    with bench.host("small_size") as hop, bench.host("exchange", "sender-hop.test") as home:
        routes = [f"sink.test=[127.0.0.1]:{hop.port}", f"source.test=[127.0.0.1]:{home.port}"]
        with bench.relay(None, route=routes, **AT_ONCE) as relay:
            submit(relay, mail)
            wait_for_arrivals(home)
        check(not hop.commands("DATA", tls=True), "the message was sent in spite of SIZE")
        check_bounce(home, mail, mail.recipients, None)


@case
def a_connection_is_reused_for_the_next_message(bench: Bench) -> None:
    """Twenty messages at once: far fewer handshakes than messages."""
    mails = [Mail() for _ in range(20)]
    with bench.host("exchange") as hop:
        with bench.relay(hop.port, delivery_connections="2") as relay:
            for mail in mails:
                submit(relay, mail, with_tls=True)
            wait_for_arrivals(hop, len(mails))
        for mail in mails:
            check_arrived_once_intact(mail, hop.delivered())
        check(hop.connections < len(mails) // 2, f"{hop.connections} connections for {len(mails)} messages")


@case
def a_large_message_passes_whole(bench: Bench) -> None:
    """Twelve megabytes: streamed to the spool in pieces, read back in pieces, over TLS both ways."""
    mail = Mail(extra_lines=170_000)
    with bench.host("exchange") as hop:
        relayed_once(
            bench,
            hop,
            lambda relay, mail: submit(relay, mail, True),
            tls_in=True,
            tls_out=True,
            mail=mail,
            **AT_ONCE,
        )
