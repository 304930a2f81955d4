"""Processes, ports and waiting: nothing here knows what mail is.

Every process is started in a process group of its own and ended by its id; every wait is bounded.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, TypeVar

POLL_SECONDS = 0.02
START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 20.0
LOG_TAIL_BYTES = 12_000
PORT_MIN, PORT_MAX = 10_240, 32_000
RESERVING_ADDRESS = "127.77.77.77"
RESERVATIONS: list[socket.socket] = []

T = TypeVar("T")


class Failed(Exception):
    """What a case expected did not happen. The text says what, for a person to read."""


def check(condition: object, story: str) -> None:
    if not condition:
        raise Failed(story)


def free_port() -> int:
    """A loopback port that nobody has, below the range that the system hands to outgoing connections.

    Asking for port 0 would give one of that range, and a client of a neighbouring test might take it between our
    asking and the server's binding. Against other tests that ask here, the port stays reserved until this process
    ends: by a socket on an address that nobody uses.
    """
    start = PORT_MIN + (os.getpid() * 97 + time.monotonic_ns() // 1000) % (PORT_MAX - PORT_MIN)
    for port in [*range(start, PORT_MAX), *range(PORT_MIN, start)]:
        reservation = socket.socket()
        try:
            reservation.bind((RESERVING_ADDRESS, port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
            continue
        RESERVATIONS.append(reservation)
        return port
    raise Failed(f"no free port in {PORT_MIN}..{PORT_MAX}")


def wait_until(what: str, ready: Callable[[], T], seconds_max: float) -> T:
    """The first true value of `ready`; Failed with `what` when the time is over."""
    give_up_at = time.monotonic() + seconds_max
    while True:
        value = ready()
        if value:
            return value
        if time.monotonic() > give_up_at:
            raise Failed(f"waited {seconds_max:g} s in vain: {what}")
        time.sleep(POLL_SECONDS)


def accepts(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tail(path: Path) -> str:
    """The end of a log, for a failure's report."""
    if not path.exists():
        return "(no such file)"
    with open(path, "rb") as log:
        log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return log.read().decode("utf-8", "replace")


class Process:
    """A program with its output in a log file. On leaving the context it is ended, by its id, and reaped."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.name = name
        self.command = command
        self.log = log
        self.environment = environment
        self.child: subprocess.Popen | None = None

    def __enter__(self) -> "Process":
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_exception) -> None:
        if self.child.poll() is None:
            with contextlib.suppress(Failed):
                self.terminate()
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        # What it forked and left behind dies with its group, which is ours alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and the exit code it leads to."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still runs {STOP_SECONDS_MAX:g} s after SIGTERM") from None

    def wait_for_port(self, port: int) -> None:
        def ready() -> bool:
            code = self.child.poll()
            check(code is None, f"{self.name} ended with exit code {code} before it listened")
            return accepts(port)

        wait_until(f"{self.name} listens on port {port}", ready, START_SECONDS_MAX)
