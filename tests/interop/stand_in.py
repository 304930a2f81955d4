#!/usr/bin/env python3
"""Takes ringpost's place, so that the harness itself can be tested: run.py --self-test.

It takes mail, keeps it in memory, and passes it on with opportunistic TLS. It is no relay: nothing here is
durable, and it knows one route. `--spoil` makes it harm what it passes on, which the cases must notice.
"""

import argparse
import contextlib
import json
import queue
import signal
import smtplib
import ssl
import sys
import threading
import time
from pathlib import Path

import certificate
import programs
from scripted_host import Arrival, Behaviour, ScriptedHost, keywords

SPOILS = {
    "dots": lambda content: content.replace(b"\r\n..", b"\r\n."),
    "eight_bit": lambda content: bytes(octet & 0x7F for octet in content),
    "long_lines": lambda content: content.replace(b"x" * 998, b"x" * 990 + b"\r\n" + b"x" * 8),
}


class Outgoing:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.waiting: queue.Queue[Arrival] = queue.Queue()
        self.hop = ("127.0.0.1", int(options.route[0].rpartition(":")[2]))

    def run(self) -> None:
        while True:
            arrival = self.waiting.get()
            for _ in range(2 if self.options.spoil == "twice" else 1):
                if self.options.spoil != "lost":
                    self.deliver(arrival)

    def deliver(self, arrival: Arrival) -> None:
        while True:
            try:
                return self.attempt(arrival, self.options.tls_out != "none")
            except (ssl.SSLError, TimeoutError, ConnectionResetError):
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    return self.attempt(arrival, False)
            except (OSError, smtplib.SMTPException) as error:
                self.log(event="deferred", reply=str(error))
            time.sleep(1)

    def attempt(self, arrival: Arrival, wants_tls: bool) -> None:
        with smtplib.SMTP(*self.hop, local_hostname="relay.test", timeout=5) as client:
            client.ehlo()
            tls = None
            if wants_tls and client.has_extn("starttls") and client.docmd("STARTTLS")[0] == 220:
                context = ssl._create_unverified_context()
                client.sock = context.wrap_socket(client.sock)
                client.file = None
                client.helo_resp = client.ehlo_resp = None
                client.ehlo()
                tls = client.sock.version()
            protocol = "ESMTPS" if arrival.tls else "ESMTP"
            seen = f"\r\n\t(tls {arrival.tls})" if arrival.tls else ""
            trace = f"Received: from {arrival.hello}\r\n\tby relay.test with {protocol} id 1{seen}\r\n".encode()
            content = SPOILS.get(self.options.spoil, lambda same: same)(arrival.content)
            client.sendmail(arrival.sender, arrival.recipients, trace + content, mail_options=["BODY=8BITMIME"])
            self.log(event="delivered", to=arrival.recipients, address=f"{self.hop[0]}:{self.hop[1]}", tls=tls)

    def log(self, **record) -> None:
        print(json.dumps(record), flush=True)


class Incoming(ScriptedHost):
    """A scripted host with good manners that hands on what arrives, before it says 250."""

    def __init__(self, outgoing: Outgoing, implicit_tls: bool, **more):
        offered = "PIPELINING 8BITMIME SIZE_50000000 ENHANCEDSTATUSCODES DSN CHUNKING"
        if not outgoing.options.no_starttls:
            offered += " STARTTLS"
        refusals = self.refusals(outgoing.options)
        super().__init__(Behaviour(keywords=keywords(offered), replies=refusals, implicit_tls=implicit_tls), **more)
        self.arrivals = Handing(outgoing.waiting)

    @staticmethod
    def refusals(options: argparse.Namespace) -> dict[str, str | list[str]]:
        return {} if options.relay_from.startswith("127.") else {"RCPT": "554 5.7.1 Relaying denied"}


class Handing(list):
    def __init__(self, waiting: queue.Queue):
        super().__init__()
        self.waiting = waiting

    def append(self, arrival: Arrival) -> None:
        super().append(arrival)
        self.waiting.put(arrival)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for flag in ("listen", "listen-tls", "spool", "tls-dir", "relay-from", "spoil"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--route", action="append")
    parser.add_argument("--tls-out", default="may")
    parser.add_argument("--no-starttls", action="store_true")
    return parser.parse_known_args()[0]


def main() -> None:
    options = parse()
    Path(options.tls_dir).mkdir(parents=True)
    pair = certificate.self_signed(Path(options.tls_dir), "relay.test", programs.ensure().environment())
    outgoing = Outgoing(options)
    threading.Thread(target=outgoing.run, daemon=True).start()
    port, tls_port = (int(address.rpartition(":")[2]) for address in (options.listen, options.listen_tls))
    with (
        Incoming(outgoing, False, certificate=pair, hostname="relay.test", port=port),
        Incoming(outgoing, True, certificate=pair, hostname="relay.test", port=tls_port),
    ):
        outgoing.log(event="ready")
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    sys.exit(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
