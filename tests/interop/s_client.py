"""`openssl s_client` as a person would use it: a line, the reply, the next line."""

import os
import re
import selectors
import subprocess
import time

from mail import Mail
from process import Failed

REPLY_SECONDS_MAX = 20.0


class Conversation:
    """One run of s_client. `text` is everything that it printed."""

    def __init__(self, port: int, options: list[str], environment: dict[str, str]):
        self.command = [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{port}",
            "-crlf",
            "-ign_eof",
            "-nocommands",
            *options,
        ]
        self.environment = environment
        self.octets = b""
        self.seen = 0

    def __enter__(self) -> "Conversation":
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=self.environment
        )
        os.set_blocking(self.child.stdout.fileno(), False)
        return self

    def __exit__(self, *_exception) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()

    @property
    def text(self) -> str:
        return self.octets.decode("utf-8", "replace")

    def report(self) -> str:
        return f"--- {' '.join(self.command)}\n{self.text}"

    def send(self, lines: bytes) -> None:
        self.child.stdin.write(lines)
        self.child.stdin.flush()

    def expect(self, code: str) -> None:
        """Reads on until the last line of a reply with this code; Failed at any other final reply line."""
        self._read_until(rb"(?m)^(\d{3}) .*\r?\n", f"{self.command[0]} got a reply {code}", code)

    def expect_text(self, pattern: bytes) -> None:
        """Reads on until s_client prints this, which need not be a reply."""
        self._read_until(pattern, f"openssl prints {pattern!r}", None)

    def ask(self, line: str, code: str) -> None:
        self.send(line.encode() + b"\n")
        self.expect(code)

    def wait_for_end(self) -> None:
        """Reads to the end: the server closed, and s_client ended."""
        self._read_until(rb"(?!)", "the server closes", None, end_is_fine=True)
        self.child.wait(REPLY_SECONDS_MAX)

    def _read_until(self, pattern: bytes, story: str, code: str | None, end_is_fine: bool = False) -> None:
        give_up_at = time.monotonic() + REPLY_SECONDS_MAX
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            while True:
                found = re.compile(pattern).search(self.octets, self.seen)
                if found:
                    self.seen = found.end()
                    if code and found[1].decode() != code:
                        raise Failed(f"expected {code}, got {found[0]!r}")
                    return
                if not selector.select(max(0.0, give_up_at - time.monotonic())):
                    raise Failed(f"waited {REPLY_SECONDS_MAX:g} s in vain: {story}")
                more = self.child.stdout.read()
                if not more:
                    if end_is_fine:
                        return
                    raise Failed(f"openssl ended; expected: {story}")
                self.octets += more


def transaction(talk: Conversation, mail: Mail) -> None:
    """From EHLO to the end of a QUIT, each line after the reply to the one before."""
    talk.ask("EHLO client.test", "250")
    talk.ask(f"MAIL FROM:<{mail.sender}> BODY=8BITMIME", "250")
    for recipient in mail.recipients:
        talk.ask(f"RCPT TO:<{recipient}>", "250")
    talk.ask("DATA", "354")
    talk.send(re.sub(rb"(?m)^\.", b"..", mail.content.replace(b"\r\n", b"\n")) + b".\n")
    talk.expect("250")
    talk.ask("QUIT", "221")
    talk.wait_for_end()
