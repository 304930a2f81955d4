"""Where the real programs come from.

Postfix and Sendmail cannot be installed beside each other, and a test has no business installing a mail
server on anybody's machine. So their Debian packages, and whatever they need that the machine lacks, are
unpacked (never installed) below a cache directory, and run from there. Downloading needs no root: apt keeps
its lists and archives in the cache directory too. Nothing outside that directory is written.
"""

import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

# Always unpacked, even where the machine has one of them: its own configuration must stay out of the tests.
PRIVATE = ["postfix", "sendmail-bin", "sendmail-base", "sendmail-cf", "testssl.sh", "prometheus"]
# Unpacked where the machine lacks them; apt's resolver adds the libraries and Perl modules they need.
# The two mail servers exclude each other, so each line is resolved alone.
RESOLVED = [
    ["postfix"],
    ["sendmail-bin"],
    ["swaks", "libio-socket-ssl-perl", "libnet-ssleay-perl", "m4", "openssl", "bsdextrautils"],
]
CACHE_FORMAT = "3"
APT_SECONDS_MAX = 300

HOW_TO_INSTALL = """\
The interop tests need Postfix, Sendmail, swaks, m4, openssl, testssl.sh and promtool from Debian's packages. They are downloaded and
unpacked (not installed) below {root} on the first run, which needs apt-get, dpkg-deb, a package mirror, and a
C compiler as `cc` (apt-get install gcc libc6-dev):
    python3 tests/interop/programs.py
Where that is not possible, skip these tests with RINGPOST_SKIP_INTEROP=1.
"""
PRELOAD_SOURCE = Path(__file__).parent / "preload.c"


class Missing(Exception):
    """A program that the tests need is not there, and could not be brought."""


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "ringpost-interop"


class Programs:
    """The unpacked tree, and how to run what is in it."""

    def __init__(self, root: Path, preload: Path):
        self.root = root
        self.preload = preload

    def path(self, inside: str) -> Path:
        """A file of the unpacked tree, or the machine's own where the tree has none."""
        unpacked = self.root / inside.lstrip("/")
        return unpacked if unpacked.exists() else Path(inside)

    def environment(self) -> dict[str, str]:
        """Libraries, Perl modules and tools of the tree come first; Debian's own paths stay behind them."""
        libraries = glob.glob(f"{self.root}/usr/lib/*-linux-gnu") + glob.glob(f"{self.root}/lib/*-linux-gnu")
        libraries.append(str(self.root / "usr/lib/postfix"))
        perl = [str(self.root / "usr/share/perl5")]
        for pattern in (
            "usr/lib/*-linux-gnu/perl5/*",
            "usr/share/perl/5*",
            "usr/lib/*-linux-gnu/perl/5*",
            "usr/lib/*-linux-gnu/perl-base",
        ):
            perl += glob.glob(f"{self.root}/{pattern}")
        tools = [str(self.root / part) for part in ("usr/bin", "usr/sbin", "bin", "sbin")]
        return {
            "PATH": ":".join(tools + ["/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]),
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PERL5LIB": ":".join(perl),
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.root),
        }

    def server_environment(self, hostname: str, syslog: Path) -> dict[str, str]:
        """For Postfix and Sendmail: beside the above, what preload.c pretends to them."""
        pretended = {
            "LD_PRELOAD": str(self.preload),
            "INTEROP_HOSTNAME": hostname,
            "INTEROP_SYSLOG": str(syslog),
        }
        return self.environment() | pretended


# What of the above a program must hand on to the programs that it starts.
HANDED_ON = "LD_LIBRARY_PATH LD_PRELOAD INTEROP_HOSTNAME INTEROP_SYSLOG INTEROP_IDENTITY"


def ensure() -> Programs:
    """The programs, brought first if this machine never had them. One process at a time does the bringing."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = root / "tree"
        stamp = root / "complete"
        try:
            if not stamp.exists() or stamp.read_text() != CACHE_FORMAT:
                _bring(root, tree)
                stamp.write_text(CACHE_FORMAT)
            preload = _compile_preload(root)
        except (OSError, subprocess.SubprocessError) as error:
            detail = getattr(error, "stderr", "") or str(error)
            raise Missing(f"{HOW_TO_INSTALL.format(root=root)}What failed: {detail}") from error
    return Programs(tree, preload)


def _compile_preload(root: Path) -> Path:
    source = PRELOAD_SOURCE.read_bytes()
    library = root / f"preload-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if not library.exists():
        being_made = library.with_suffix(".new")
        _run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", str(being_made), str(PRELOAD_SOURCE)])
        being_made.rename(library)
    return library


def _bring(root: Path, tree: Path) -> None:
    apt = _private_apt(root)
    _run(apt + ["update", "-qq"])
    names = list(PRIVATE)
    for wanted in RESOLVED:
        names += _lacking(apt, wanted)
    archives = root / "debs"
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir()
    _run(apt + ["download", "-qq", *sorted(set(names))], cwd=archives)
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(archive), str(tree)])
    _run(["chmod", "-R", "a-s", str(tree)])
    shutil.rmtree(root / "apt", ignore_errors=True)


def _private_apt(root: Path) -> list[str]:
    """apt-get with state and cache of its own; only the list of installed packages is the machine's."""
    state, cache = root / "apt/state", root / "apt/cache"
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives/partial").mkdir(parents=True, exist_ok=True)
    return [
        "apt-get",
        f"-oDir::State={state}",
        f"-oDir::Cache={cache}",
        "-oDir::State::status=/var/lib/dpkg/status",
        "-oDebug::NoLocking=1",
        "-oAPT::Sandbox::User=",
        "-oAcquire::Retries=3",
    ]


def _lacking(apt: list[str], wanted: list[str]) -> list[str]:
    """Names of the packages that installing `wanted` on this machine would fetch."""
    uris = _run(apt + ["install", "--print-uris", "-y", "-qq", "--no-upgrade", "--no-install-recommends", *wanted])
    return [line.split()[1].split("_")[0] for line in uris.splitlines() if line.startswith("'")]


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=APT_SECONDS_MAX)
    return done.stdout


if __name__ == "__main__":
    try:
        print(f"The interop programs are below {ensure().root}")
    except Missing as missing:
        raise SystemExit(str(missing)) from None
