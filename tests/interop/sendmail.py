"""A private Sendmail: its own sendmail.cf (made from the .mc below with m4), queue and mailbox, loopback only."""

import os
import pwd
import subprocess
from pathlib import Path

from process import Failed, Process, check, free_port, tail
from programs import Programs

RUN_SECONDS_MAX = 60

# Nothing is looked up in DNS and nothing is read from /etc/mail. `maildir` is a mailer of our own that keeps
# each message in a file: no line limit, no change to 8-bit text.
SENDMAIL_MC = """\
include(`{cf}/m4/cf.m4')dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `{hostname}')dnl
define(`confCW_FILE', `-o {directory}/no-such-file')dnl
define(`confCT_FILE', `-o {directory}/no-such-file')dnl
define(`ALIAS_FILE', `')dnl
define(`HELP_FILE', `')dnl
define(`STATUS_FILE', `')dnl
define(`confSERVICE_SWITCH_FILE', `{directory}/service.switch')dnl
define(`confHOSTS_FILE', `{directory}/hosts')dnl
define(`QUEUE_DIR', `{directory}/queue')dnl
define(`confPID_FILE', `{directory}/sendmail.pid')dnl
define(`confDELIVERY_MODE', `{delivery_mode}')dnl
define(`confEIGHT_BIT_HANDLING', `pass8')dnl
define(`confTO_IDENT', `0')dnl
define(`confMIN_QUEUE_AGE', `0')dnl
define(`confTO_HOSTSTATUS', `0')dnl
define(`confREJECT_MSG', `550 relaying denied')dnl
define(`confDONT_BLAME_SENDMAIL', `TrustStickyBit, GroupWritableDirPathSafe, GroupReadableKeyFile')dnl
define(`confPRIVACY_FLAGS', `')dnl
define(`confTRUSTED_USER', `{user}')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {relay_port}')dnl
{tls}
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`promiscuous_relay')dnl
{daemon}
{smart_host}
MAILER(`smtp')dnl
MAILER_DEFINITIONS
Mmaildir, P={directory}/keep, F=lsDFMPSmn8, E=\\n, L=0,
\tT=DNS/RFC822/X-Unix, A=keep $u
"""

KEEP_MC = """\
LOCAL_RULE_0
R$+ < @ sink.test . > $*\t$#maildir $: $1@sink.test
R$+ < @ sink.test > $*\t$#maildir $: $1@sink.test
"""

TLS_MC = """\
define(`confCACERT', `{certificate}')dnl
define(`confCACERT_PATH', `{directory}')dnl
define(`confSERVER_CERT', `{certificate}')dnl
define(`confSERVER_KEY', `{key}')dnl
{more}dnl
"""

# Complete files appear in new/, under a name that `mktemp` made unique.
KEEP = """\
#!/bin/sh
umask 022
kept=$(mktemp {directory}/mail/tmp/XXXXXXXX) && cat > "$kept" && mv "$kept" {directory}/mail/new/
"""


class Sendmail:
    """A receiving daemon (`relay_port` None) or a client that passes everything to the relay at `relay_port`.

    `certificate`: (certificate, key); None means no STARTTLS on either side. `more_tls`: m4 lines beside them.
    """

    def __init__(
        self,
        programs: Programs,
        directory: Path,
        hostname: str,
        relay_port: int | None = None,
        certificate: tuple[Path, Path] | None = None,
        more_tls: str = "",
    ):
        self.programs = programs
        self.directory = directory
        self.log = directory / "maillog"
        self.environment = programs.server_environment(hostname, self.log)
        self.port = None if relay_port else free_port()
        self.transcript = directory / "transcript"
        self.binary = str(programs.path("/usr/libexec/sendmail/sendmail"))
        self.configuration = directory / "sendmail.cf"
        self._make_directories()
        self._configure(hostname, relay_port, certificate, more_tls)
        self.daemon: Process | None = None

    def __enter__(self) -> "Sendmail":
        if self.port:
            command = [self.binary, "-C", str(self.configuration), "-bD", "-X", str(self.transcript)]
            self.daemon = Process("Sendmail", command, self.directory / "output", self.environment)
            self.daemon.__enter__()
            try:
                self.daemon.wait_for_port(self.port)
            except Failed as failure:
                self.daemon.__exit__()
                raise Failed(f"{failure}\n{self.report()}") from None
        return self

    def __exit__(self, *exception) -> None:
        if self.daemon:
            self.daemon.__exit__(*exception)

    def queue_message(self, sender: str, recipients: list[str], message: bytes) -> None:
        """Puts a message into this Sendmail's queue, as a local program would; `run_queue` sends it."""
        self._run(["-odq", "-i", "-f", sender, "--", *recipients], message.replace(b"\r\n", b"\n"))

    def run_queue(self) -> str:
        """Tries everything in the queue once. Returns the dialogues, as `sendmail -v` shows them."""
        return self._run(["-q", "-v"], b"")

    def wait_until_idle(self) -> None:
        """Nothing waits in its queue. The daemon delivers before it answers 250, so there is nothing to wait for."""
        waiting = [entry.name for entry in (self.directory / "queue").iterdir()]
        check(not waiting, f"Sendmail's queue still holds {waiting}")

    def delivered(self) -> list[bytes]:
        """Every message that it kept, trace headers and all, with bare LF line ends."""
        return [path.read_bytes() for path in sorted((self.directory / "mail/new").iterdir())]

    def report(self) -> str:
        logs = [self.directory / "output", self.log, self.transcript]
        return f"--- Sendmail in {self.directory.name}\n" + "\n".join(tail(log) for log in logs)

    def _run(self, arguments: list[str], standard_input: bytes) -> str:
        command = [self.binary, "-C", str(self.configuration), "-X", str(self.transcript), *arguments]
        done = subprocess.run(
            command,
            input=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            timeout=RUN_SECONDS_MAX,
        )
        output = done.stdout.decode("utf-8", "replace")
        check(done.returncode == 0, f"sendmail {arguments} ended with exit code {done.returncode}:\n{output}")
        return output

    def _make_directories(self) -> None:
        for name in ("", "queue", "mail", "mail/new", "mail/tmp"):
            path = self.directory / name
            path.mkdir()
            path.chmod(0o755)
        (self.directory / "queue").chmod(0o700)
        (self.directory / "service.switch").write_text("hosts files\naliases files\n")
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n")
        keep = self.directory / "keep"
        keep.write_text(KEEP.format(directory=self.directory))
        keep.chmod(0o755)

    def _configure(
        self, hostname: str, relay_port: int | None, certificate: tuple[Path, Path] | None, more_tls: str
    ) -> None:
        cf = self.programs.path("/usr/share/sendmail/cf")
        modifier = "" if certificate else ", M=S"
        tls = ""
        if certificate:
            tls = TLS_MC.format(certificate=certificate[0], key=certificate[1], directory=self.directory, more=more_tls)
        if relay_port:
            daemon = f"CLIENT_OPTIONS(`Family=inet{modifier}')dnl"
            smart_host = "define(`SMART_HOST', `relay:[127.0.0.1]')dnl"
        else:
            daemon = f"DAEMON_OPTIONS(`Port={self.port}, Addr=127.0.0.1, Name=MTA{modifier}')dnl"
            smart_host = "dnl"
        text = SENDMAIL_MC.format(
            cf=cf,
            hostname=hostname,
            user=pwd.getpwuid(os.getuid()).pw_name,
            directory=self.directory,
            delivery_mode="queueonly" if relay_port else "interactive",
            relay_port=relay_port or 25,
            tls=tls,
            daemon=daemon,
            smart_host=smart_host,
        )
        source = self.directory / "sendmail.mc"
        source.write_text(text + ("" if relay_port else KEEP_MC))
        made = subprocess.run(
            ["m4", f"-D_CF_DIR_={cf}/", str(source)],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=30,
        )
        check(made.returncode == 0 and made.stdout, f"m4 could not make sendmail.cf: {made.stderr}")
        self.configuration.write_text(made.stdout)
        os.chmod(self.configuration, 0o644)
