"""The mail that goes through, and the judgement whether it came out whole."""

import re
import uuid
from dataclasses import dataclass, field

from process import check

LINE_BYTES_MAX = 998  # RFC 5321 section 4.5.3.1.6, without the CRLF
CRLF = b"\r\n"

# What relays are known to harm: dots at the start of lines (RFC 5321 section 4.5.2), the longest line, 8-bit
# text, spaces at the end of a line, what mbox would quote, what looks like a command, empty lines at the end.
DELICATE_LINES = [
    b"",
    b".",
    b"..",
    b"...",
    b".a line that begins with a dot",
    b"..and one with two",
    b" . ",
    b"x" * LINE_BYTES_MAX,
    b"." + b"y" * (LINE_BYTES_MAX - 2) + b".",
    bytes(range(0x80, 0x100)),
    "Grüße, naïve café, 日本語".encode("utf-8"),
    b"From here on nothing may be quoted",
    b"QUIT",
    b"trailing spaces and a tab  \t",
    b"\ta line that begins with a tab",
    b"",
    b"",
]


@dataclass
class Mail:
    """One message and its envelope. `content` is complete, with CRLF line ends and no dot-stuffing."""

    sender: str = "sender@source.test"
    recipients: list[str] = field(default_factory=lambda: ["recipient@sink.test"])
    extra_lines: int = 0
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def body(self) -> bytes:
        filler = [b"%08d %s" % (number, b"z" * 60) for number in range(self.extra_lines)]
        return CRLF.join(DELICATE_LINES + filler) + CRLF

    @property
    def content(self) -> bytes:
        header = [
            f"From: <{self.sender}>",
            f"To: {', '.join(self.recipients)}",
            "Date: Tue, 24 Nov 2026 10:00:00 +0000",
            f"Message-ID: <{self.token}@source.test>",
            f"Subject: interop {self.token}",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=iso-8859-1",
            "Content-Transfer-Encoding: 8bit",
        ]
        return "\r\n".join(header).encode() + CRLF + CRLF + self.body


class Delivered:
    """A message as somebody kept it, with whatever line ends that program writes."""

    def __init__(self, content: bytes):
        unix = content.replace(CRLF, b"\n")
        header, _, self.body = unix.partition(b"\n\n")
        self.header = re.sub(r"\n[ \t]+", " ", header.decode("latin-1"))

    def fields(self, name: str) -> list[str]:
        """The values of every header field of this name, unfolded, the latest hop's first."""
        return re.findall(rf"(?im)^{re.escape(name)}:[ \t]*(.*)$", self.header)

    def received_by(self, host: str) -> str:
        """The one trace field that this host wrote."""
        traces = [value for value in self.fields("Received") if re.search(rf"\bby {re.escape(host)}\b", value)]
        check(len(traces) == 1, f"{len(traces)} Received: fields by {host}, not one, in\n{self.header}")
        return traces[0]

    def is_copy_of(self, mail: Mail) -> bool:
        return self.fields("Message-ID") == [f"<{mail.token}@source.test>"]


def check_arrived_once_intact(mail: Mail, kept: list[bytes]) -> Delivered:
    """Fails unless exactly one copy of the message was kept, and its body is the same byte for byte."""
    copies = [copy for copy in map(Delivered, kept) if copy.is_copy_of(mail)]
    check(len(copies) == 1, f"{len(copies)} copies arrived, not one (of {len(kept)} messages there)")
    check(copies[0].fields("Subject") == [f"interop {mail.token}"], f"Subject was changed:\n{copies[0].header}")
    expected = mail.body.replace(CRLF, b"\n")
    check(copies[0].body == expected, f"the body was changed: {first_difference(expected, copies[0].body)}")
    return copies[0]


def first_difference(expected: bytes, actual: bytes) -> str:
    expected_lines, actual_lines = expected.split(b"\n"), actual.split(b"\n")
    for number, (left, right) in enumerate(zip(expected_lines, actual_lines), 1):
        if left != right:
            return f"line {number}: {left[:120]!r} became {right[:120]!r} ({len(left)} -> {len(right)} bytes)"
    return f"{len(expected_lines)} lines became {len(actual_lines)}"
