"""A private Postfix: its own configuration, queue, log and maildirs below one directory, loopback only."""

import grp
import os
import pwd
import re
import subprocess
from pathlib import Path

from process import Failed, Process, free_port, tail, wait_until
from programs import HANDED_ON, Programs

# Postfix wants two accounts that nobody else uses in its configuration. These exist on every Debian, own
# nothing that matters here, and no account has to be made.
MAIL_OWNER = "news"
SETGID_GROUP = "uucp"
DELIVERY_USER = "nobody"
QUEUE_SECONDS_MAX = 30.0
# Without root everything belongs to one user, and preload.c lets Postfix believe what it needs to believe.
IS_ROOT = os.geteuid() == 0

MASTER_CF = """\
{smtpd}
pickup    unix  n       -       n       1       1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       1       1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""

MAIN_CF = {
    "compatibility_level": "3.6",
    "myhostname": "{hostname}",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "local_transport": "error:no local delivery here",
    "virtual_mailbox_domains": "sink.test",
    "virtual_mailbox_base": "{maildirs}",
    "virtual_mailbox_maps": "static:all/",
    "virtual_transport": "virtual",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtpd_peername_lookup": "no",
    "disable_dns_lookups": "yes",
    "smtp_host_lookup": "native",
    "biff": "no",
    "smtpd_tls_received_header": "yes",
    "smtpd_tls_loglevel": "1",
    "smtp_tls_loglevel": "1",
    "minimal_backoff_time": "2s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "2s",
}


class Postfix:
    """Started on entering the context, and stopped on leaving it, by the id of its master process.

    `listens`: whether it has an smtpd, whose port is then `self.port`: the one given, or a free one.
    `settings`: main.cf parameters beside and before those above.
    """

    def __init__(self, programs: Programs, directory: Path, hostname: str, listens: bool, settings: dict[str, str], port: int | None = None):
        self.programs = programs
        self.directory = directory
        self.configuration = directory / "etc"
        self.maildirs = directory / "maildirs"
        self.queue = directory / "queue"
        self.log = directory / "maillog"
        self.port = (port or free_port()) if listens else None
        self.environment = programs.server_environment(hostname, self.log) | {"MAIL_CONFIG": str(self.configuration)}
        if not IS_ROOT:
            self.environment["INTEROP_IDENTITY"] = "1"
        self._make_directories()
        self._configure(hostname, settings)
        self.master = Process(
            f"Postfix {hostname}",
            [str(programs.path("/usr/lib/postfix/sbin/master")), "-d", "-c", str(self.configuration)],
            directory / "master.log",
            self.environment,
        )

    def __enter__(self) -> "Postfix":
        self.master.__enter__()
        try:
            if self.port:
                self.master.wait_for_port(self.port)
            wait_until("Postfix has its pickup service", lambda: (self.queue / "public/pickup").exists(), 20)
        except Failed as failure:
            self.master.__exit__()
            raise Failed(f"{failure}\n{self.report()}") from None
        return self

    def __exit__(self, *exception) -> None:
        self.master.__exit__(*exception)

    def submit(self, sender: str, recipients: list[str], message: bytes) -> None:
        """Hands a message to this Postfix as a local program would, by its sendmail command."""
        subprocess.run(
            [
                str(self.programs.path("/usr/sbin/sendmail")),
                "-C",
                str(self.configuration),
                "-i",
                "-f",
                sender,
                "--",
            ]
            + recipients,
            input=message.replace(b"\r\n", b"\n"),
            env=self.environment,
            check=True,
            timeout=30,
        )

    def flush(self) -> None:
        """Tries everything in the queue again at once."""
        subprocess.run(
            [str(self.programs.path("/usr/sbin/postqueue")), "-c", str(self.configuration), "-f"],
            env=self.environment,
            check=True,
            timeout=30,
        )

    def wait_until_idle(self) -> None:
        """Until nothing is in any queue: what was to arrive has arrived, what was to be sent is sent."""
        queues = [self.queue / name for name in ("maildrop", "incoming", "active", "deferred")]

        def idle() -> bool:
            return not any(entry.is_file() for queue in queues for entry in queue.rglob("*"))

        wait_until(f"the queue of {self.master.name} is empty", idle, QUEUE_SECONDS_MAX)

    def delivered(self) -> list[bytes]:
        """Every message in its maildirs, trace headers and all, with bare LF line ends."""
        return [path.read_bytes() for path in sorted(self.maildirs.glob("all/new/*"))]

    def log_lines(self, pattern: str) -> list[str]:
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text("utf-8", "replace").splitlines() if re.search(pattern, line)]

    def report(self) -> str:
        return f"--- log of {self.master.name}\n{tail(self.log)}\n{tail(self.directory / 'master.log')}"

    def _make_directories(self) -> None:
        owner, group = pwd.getpwnam(MAIL_OWNER).pw_uid, grp.getgrnam(SETGID_GROUP).gr_gid
        # They may be there: a queue outlives its Postfix.
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o755)
        private = "active bounce corrupt defer deferred flush hold incoming private saved trace".split()
        modes = {name: 0o700 for name in private} | {"public": 0o710, "maildrop": 0o730, "pid": 0o755}
        self.queue.mkdir(exist_ok=True)
        for name, mode in modes.items():
            path = self.queue / name
            path.mkdir(exist_ok=True)
            path.chmod(mode)
            give(path, 0 if name == "pid" else owner, group if name in ("public", "maildrop") else -1)
        (self.directory / "data").mkdir(mode=0o700, exist_ok=True)
        give(self.directory / "data", owner, -1)
        self.maildirs.mkdir(exist_ok=True)
        account = pwd.getpwnam(DELIVERY_USER)
        give(self.maildirs, account.pw_uid, account.pw_gid)

    def _configure(self, hostname: str, settings: dict[str, str]) -> None:
        account = pwd.getpwnam(DELIVERY_USER)
        places = {
            "queue_directory": self.queue,
            "data_directory": self.directory / "data",
            "command_directory": self.programs.path("/usr/sbin"),
            "daemon_directory": self.programs.path("/usr/lib/postfix/sbin"),
            "shlib_directory": self.programs.path("/usr/lib/postfix"),
            "meta_directory": self.configuration,
            "maillog_file": self.log,
            "maillog_file_prefixes": self.directory,
            "mail_owner": MAIL_OWNER,
            "setgid_group": SETGID_GROUP,
            "default_privs": DELIVERY_USER,
            "virtual_uid_maps": f"static:{account.pw_uid}",
            "virtual_gid_maps": f"static:{account.pw_gid}",
            # Postfix clears the environment of its programs; they need to find their libraries.
            "import_environment": f"MAIL_CONFIG {HANDED_ON}",
            "export_environment": f"MAIL_CONFIG {HANDED_ON}",
        }
        fixed = {name: value.format(hostname=hostname, maildirs=self.maildirs) for name, value in MAIN_CF.items()}
        lines = [f"{name} = {value}\n" for name, value in (places | fixed | settings).items()]
        self.configuration.mkdir(exist_ok=True)
        (self.configuration / "main.cf").write_text("".join(lines))
        smtpd = f"127.0.0.1:{self.port} inet n - n - - smtpd" if self.port else ""
        (self.configuration / "master.cf").write_text(MASTER_CF.format(smtpd=smtpd))


def give(path: Path, owner: int, group: int) -> None:
    if IS_ROOT:
        os.chown(path, owner, group)


def receiving(programs: Programs, directory: Path, settings: dict[str, str]) -> Postfix:
    """A next hop: keeps everything for anybody at sink.test."""
    return Postfix(programs, directory, "postfix-hop.test", True, settings)


def sending(programs: Programs, directory: Path, relay_port: int, settings: dict[str, str]) -> Postfix:
    """A client: passes everything on to the relay at this port."""
    everything = {"relayhost": f"[127.0.0.1]:{relay_port}", "virtual_mailbox_domains": ""}
    return Postfix(programs, directory, "postfix-client.test", False, everything | settings)
