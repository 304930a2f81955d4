#!/usr/bin/env python3
"""What somebody meets who has just cloned the project: the README's command, and the bare binary without root.

    first_run.py "cargo run --release" target/release/ringpost

Both must come up on 127.0.0.1:2525 without a flag, offer STARTTLS with a certificate that the second start still
has, take a message for a null MX or an unknown host without losing their head, and end with 0 on SIGTERM and Ctrl-C.
"""

import os
import pwd
import shlex
import shutil
import signal
import smtplib
import ssl
import sys
import tempfile
from pathlib import Path

from mail import Mail
from process import Failed, Process, accepts, check, tail, wait_until

PORT = 2525
UNPRIVILEGED = "nobody"


def certificate_of_the_relay() -> bytes:
    """Says EHLO and STARTTLS, hands in a message for a domain that cannot exist (RFC 6761), and quits."""
    mail = Mail(recipients=["somebody@nowhere.invalid"])
    with smtplib.SMTP("127.0.0.1", PORT, local_hostname="client.test", timeout=20) as client:
        client.starttls(context=ssl._create_unverified_context())
        certificate = client.sock.getpeercert(binary_form=True)
        client.sendmail(mail.sender, mail.recipients, mail.content, mail_options=["BODY=8BITMIME"])
    return certificate


def run_once(command: list[str], state: Path, ending: signal.Signals) -> bytes:
    """One start and stop; returns the certificate that STARTTLS showed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RINGPOST_")}
    environment.pop("STATE_DIRECTORY", None)
    environment["XDG_STATE_HOME"] = str(state)
    log = state / "log"
    with Process("the relay", command, log, environment) as relay:
        try:
            relay.wait_for_port(PORT)
            certificate = certificate_of_the_relay()
            relay.child.send_signal(ending)
            code = relay.child.wait(40)
            check(code == 0, f"exit code {code} after {ending.name}")
            # The kernel takes a ring apart some milliseconds after its process has ended, and until then the sockets
            # that it polled still listen: who connects now is reset.
            wait_until(f"nobody listens on port {PORT}", lambda: not accepts(PORT), 5)
        except Exception as failure:
            raise Failed(f"{shlex.join(command)}: {failure}\n{tail(log)}") from failure
    print(f"--- {shlex.join(command)}, ended by {ending.name}\n{tail(log)}")
    return certificate


def run_twice(command: list[str], owner: str | None) -> None:
    check(not accepts(PORT), f"somebody listens on port {PORT} already")
    with tempfile.TemporaryDirectory(prefix="ringpost-first-run-") as directory:
        state = Path(directory)
        if owner:
            account = pwd.getpwnam(owner)
            os.chown(state, account.pw_uid, account.pw_gid)
        first = run_once(command, state, signal.SIGINT)
        check(first == run_once(command, state, signal.SIGTERM), "the second start has another certificate")


def main() -> None:
    readme_command, binary = sys.argv[1:]
    try:
        run_twice(shlex.split(readme_command), None)
        if os.geteuid() == 0:
            with tempfile.TemporaryDirectory() as directory:
                # The build directory may be out of reach for others.
                os.chmod(directory, 0o755)
                copy = shutil.copy(binary, directory)
                identity = ["--reuid", UNPRIVILEGED, "--regid", "nogroup", "--clear-groups", "--no-new-privs"]
                run_twice(["setpriv", *identity, copy], UNPRIVILEGED)
    except Failed as failure:
        sys.exit(str(failure))
    print("The first run is as the README promises.")


if __name__ == "__main__":
    main()
