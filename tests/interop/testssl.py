"""Debian's testssl.sh, and what it finds on a port: a row per question, by its name."""

import csv
import subprocess
from pathlib import Path

from process import check
from programs import Programs

# What is asked in the default run, and whether it is asked at all, depends on the kind of port. So does the simulation of
# browsers.
DEPENDS_ON_PORT = {"service", "NPN", "ALPN", "ticketbleed", "scanTime"}
# testssl.sh itself cannot resume a session over STARTTLS.
DEPENDS_ON_PORT |= {"sessionresumption_ticket", "sessionresumption_ID"}


def findings(programs: Programs, directory: Path, port: int, flags: list[str], seconds_max: int) -> dict[str, str]:
    """What testssl.sh with these flags says of 127.0.0.1:port: id and finding of each row of its report."""
    report = directory / f"testssl-{port}.csv"
    # It wants a resolver's tool even where no name is to be resolved.
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "dig").write_text("#!/bin/sh\nexit 0\n")
    (tools / "dig").chmod(0o755)
    environment = programs.environment()
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    environment["TESTSSL_INSTALL_DIR"] = str(programs.root / "etc/testssl")
    command = ["bash", str(programs.path("/usr/bin/testssl")), "--nodns", "none", "--color", "0", "--warnings", "off"]
    command += ["--quiet", "--openssl", str(programs.path("/usr/bin/openssl")), "--csvfile", str(report), *flags]
    done = subprocess.run(
        [*command, f"127.0.0.1:{port}"],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds_max,
    )
    said = f"testssl.sh {' '.join(flags)} on port {port}:\n{done.stdout}{done.stderr}"
    check(report.exists(), said)
    with open(report, newline="") as rows:
        found = {row["id"]: row["finding"] for row in csv.DictReader(rows)}
    check("scanProblem" not in found, said)
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Rows that are not the same in both, of those that may be compared."""
    names = {name for name in one.keys() | other.keys() if not name.startswith("clientsimulation-")} - DEPENDS_ON_PORT
    return [f"{name}: {one.get(name)} / {other.get(name)}" for name in sorted(names) if one.get(name) != other.get(name)]
