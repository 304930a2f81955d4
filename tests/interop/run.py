#!/usr/bin/env python3
"""Runs one interop case against a ringpost binary.

run.py --list                        the names of all cases
run.py CASE --ringpost PATH          exit code 0 if the case holds; otherwise a report, and 1
run.py CASE --stand-in               the same with stand_in.py instead of ringpost
run.py CASE ... --thorough           the same with what takes minutes, where a case has such a part
run.py --self-test                   the harness itself: spoilt mail must be noticed
"""

import argparse
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import cases
import programs
from cases import CASES, Bench
from process import Failed

CASE_SECONDS_MAX = 120
THOROUGH_SECONDS_MAX = 1800
# The stand-in is quick, and one of its sins is to lose mail, which is waited for.
SELF_TEST_ARRIVAL_SECONDS_MAX = 5.0
STAND_IN = [sys.executable, str(Path(__file__).parent / "stand_in.py")]
SPOILS = ["dots", "eight_bit", "long_lines", "twice", "lost"]


def run_case(name: str, relay_command: list[str], thorough: bool = False) -> bool:
    """Whether the case holds; prints the story if it does not."""
    directory = Path(tempfile.mkdtemp(prefix="ringpost-interop-"))
    # Programs that change their user must get in.
    directory.chmod(0o755)
    bench = Bench(programs.ensure(), relay_command, directory, thorough)
    signal.alarm(THOROUGH_SECONDS_MAX if thorough else CASE_SECONDS_MAX)
    try:
        CASES[name](bench)
        return True
    except Exception as failure:  # whatever it is, the reports belong to it
        print(f"FAILED {name}: {failure}\n{traceback.format_exc()}")
        for started in bench.started:
            print(started.report())
        return False
    finally:
        signal.alarm(0)
        shutil.rmtree(directory, ignore_errors=True)


def too_long(*_signal) -> None:
    raise Failed("the case did not end in time")


def self_test() -> bool:
    """The stand-in passes an honest case; each way to harm mail makes the same case fail."""
    name = "host_without_starttls"
    cases.ARRIVAL_SECONDS_MAX = SELF_TEST_ARRIVAL_SECONDS_MAX
    good = run_case(name, STAND_IN)
    noticed = {spoil: not run_case(name, [*STAND_IN, "--spoil", spoil]) for spoil in SPOILS}
    print(f"honest: {good}; noticed: {noticed}")
    return good and all(noticed.values())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", nargs="?", choices=[*CASES, []])
    parser.add_argument("--ringpost", type=Path)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, too_long)
    if options.list:
        print("\n".join(CASES))
        return 0
    try:
        if options.self_test:
            return 0 if self_test() else 1
        if not options.case or not (options.stand_in or options.ringpost):
            parser.error("a case, and --ringpost PATH or --stand-in")
        command = STAND_IN if options.stand_in else [str(options.ringpost)]
        return 0 if run_case(options.case, command, options.thorough) else 1
    except programs.Missing as missing:
        print(missing)
        return 1


if __name__ == "__main__":
    sys.exit(main())
