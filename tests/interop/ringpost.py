"""The relay under test, started as anybody would start it, and what it says about its work."""

import json
from pathlib import Path

from process import START_SECONDS_MAX, Failed, Process, check, free_port, tail, wait_until

HOSTNAME = "relay.test"
LOG_SECONDS_MAX = 10.0
FLAGS = {
    "hostname": HOSTNAME,
    "relay-from": "127.0.0.0/8",
    "retry-min": "1s",
    "retry-max": "1s",
    "queue-lifetime": "5m",
    "report-window": "100ms",
    "handshake-timeout": "2s",
    "log-format": "json",
}


class Relay:
    """Runs from entering the context to leaving it. Leaving without an error demands a clean end on SIGTERM.

    `routes`: values of --route. `flags`: more flags, replacing those above; a value of None leaves a flag out, ""
    gives one without a value, a list repeats one. A second relay in the same directory takes over the first's spool.
    """

    def __init__(self, command: list[str], directory: Path, routes: list[str], flags: dict | None = None):
        directory.mkdir(exist_ok=True)
        self.port, self.tls_port = free_port(), free_port()
        self.log = directory / "log"
        places = {
            "listen": f"127.0.0.1:{self.port}",
            "listen-tls": f"127.0.0.1:{self.tls_port}",
            "http": "none",
            "spool": str(directory / "spool"),
            "tls-dir": str(directory / "tls"),
            "route": routes,
        }
        arguments = list(command)
        for flag, value in (FLAGS | places | (flags or {})).items():
            for one in value if isinstance(value, list) else [value]:
                arguments += [] if one is None else [f"--{flag}"] + ([one] if one else [])
        self.process = Process("ringpost", arguments, self.log)
        self.killed = False
        self.starts_before = len(self.events("ready")) if self.log.exists() else 0

    def __enter__(self) -> "Relay":
        self.process.__enter__()
        try:
            self._wait_until_ready()
        except Failed as failure:
            self.process.__exit__()
            raise Failed(f"{failure}\n{self.report()}") from None
        return self

    def __exit__(self, kind, *rest) -> None:
        try:
            if kind is None and not self.killed:
                code = self.process.terminate()
                check(code == 0, f"ringpost ended with exit code {code} on SIGTERM")
        finally:
            self.process.__exit__(kind, *rest)

    def _wait_until_ready(self) -> None:
        """By its log: a connection that says nothing would be one more client with broken TLS to it."""

        def ready() -> bool:
            code = self.process.child.poll()
            check(code is None, f"ringpost ended with exit code {code} before it was ready")
            return bool(self.events("ready")[self.starts_before :])

        wait_until("ringpost says that it is ready", ready, START_SECONDS_MAX)

    def kill(self) -> None:
        """kill -9: no goodbye, as in a power cut."""
        self.killed = True
        self.process.child.kill()
        self.process.child.wait()

    def records(self) -> list[dict]:
        """Its log so far: one JSON object per line; anything else there is kept as {"text": ...}."""
        records = []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                record = line
            records.append(record if isinstance(record, dict) else {"text": line})
        return records

    def events(self, name: str) -> list[dict]:
        """Its log records of this event: "accepted", "delivered", "deferred", "bounced", "session"."""
        return [record for record in self.records() if record.get("event") == name]

    def wait_for_delivery(self, recipient: str, hop_port: int) -> dict:
        """The record of the attempt that brought mail for this recipient to the hop at this port."""

        def sent() -> dict | None:
            for record in self.events("delivered"):
                if recipient in str(record.get("to")) and record.get("address") == f"127.0.0.1:{hop_port}":
                    return record
            return None

        return wait_until(f"ringpost's log says that mail for {recipient} was sent", sent, LOG_SECONDS_MAX)

    def report(self) -> str:
        return f"--- ringpost: {' '.join(self.process.command)}\n{tail(self.log)}"


def spoke_tls(record: dict) -> bool:
    """Whether a log record names a TLS version."""
    return "TLSv1." in json.dumps(record)
