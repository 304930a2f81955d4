"""A name server with the few records of a case, over UDP on the loopback (RFC 1035, RFC 7505)."""

import socket
import struct
import threading
from dataclasses import dataclass, field

A, CNAME, SOA, MX = 1, 5, 6, 15
IN = 1
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
TTL_SECONDS = 60


@dataclass
class Zone:
    """Names in lower case without the final dot. What is in none of these does not exist."""

    mx: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    a: dict[str, list[str]] = field(default_factory=dict)
    cname: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def knows(self, name: str) -> bool:
        return any(name in records for records in (self.mx, self.a, self.cname))


class NameServer:
    def __init__(self, zone: Zone):
        self.zone = zone
        self.asked: list[tuple[str, int]] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def __enter__(self) -> "NameServer":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_exception) -> None:
        self.socket.close()

    def report(self) -> str:
        return f"--- name server was asked {self.asked}"

    def _serve(self) -> None:
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
                self.socket.sendto(self.answer(query), client)
            except OSError:
                return
            except (IndexError, struct.error, UnicodeDecodeError):
                continue

    def answer(self, query: bytes) -> bytes:
        name, end = read_name(query, 12)
        (kind,) = struct.unpack_from("!H", query, end)
        self.asked.append((name, kind))
        question = query[12 : end + 4]
        code, records = self.records(name, kind)
        authority = (
            b"" if records else record("test", SOA, name_octets("ns.test") * 2 + struct.pack("!5I", 1, 1, 1, 1, 1))
        )
        flags = 0x8580 | code  # a response, authoritative, recursion asked and available
        header = query[:2] + struct.pack("!5H", flags, 1, len(records), 1 if authority else 0, 0)
        return header + question + b"".join(records) + authority

    def records(self, name: str, kind: int) -> tuple[int, list[bytes]]:
        if name in self.zone.broken:
            return SERVFAIL, []
        chain = []
        while name in self.zone.cname:
            chain.append(record(name, CNAME, name_octets(self.zone.cname[name])))
            name = self.zone.cname[name]
        if not self.zone.knows(name):
            return NXDOMAIN, chain
        found = []
        if kind == MX:
            for preference, host in self.zone.mx.get(name, []):
                found.append(record(name, MX, struct.pack("!H", preference) + name_octets(host)))
        elif kind == A:
            found = [record(name, A, socket.inet_aton(address)) for address in self.zone.a.get(name, [])]
        return NOERROR, chain + found


def read_name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def name_octets(name: str) -> bytes:
    """The root is the empty name."""
    labels = [label for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def record(name: str, kind: int, data: bytes) -> bytes:
    return name_octets(name) + struct.pack("!HHIH", kind, IN, TTL_SECONDS, len(data)) + data
