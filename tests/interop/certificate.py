"""Self-signed certificates for the peers, as a host that nobody configured has one."""

import subprocess
from pathlib import Path


def self_signed(directory: Path, name: str, environment: dict[str, str], key: str = "ec") -> tuple[Path, Path]:
    """(certificate, key) in PEM below `directory`. `key` is "ec" or "rsa"."""
    algorithm = {
        "ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        "rsa": ["-newkey", "rsa:2048"],
    }[key]
    certificate, private_key = directory / f"{name}.{key}.crt", directory / f"{name}.{key}.key"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-nodes",
            *algorithm,
            "-keyout",
            str(private_key),
            "-out",
            str(certificate),
        ]
        + ["-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"],
        check=True,
        capture_output=True,
        env=environment,
        timeout=60,
    )
    private_key.chmod(0o600)
    return certificate, private_key


def version_1(directory: Path, name: str, environment: dict[str, str]) -> tuple[Path, Path]:
    """(certificate, key) of X.509 version 1: no extensions, as `openssl x509 -req` makes it."""
    request, key, certificate = (directory / f"{name}.v1.{end}" for end in ("csr", "key", "crt"))
    ask = ["openssl", "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={name}"]
    sign = [
        "openssl",
        "x509",
        "-req",
        "-days",
        "30",
        "-in",
        str(request),
        "-signkey",
        str(key),
        "-out",
        str(certificate),
    ]
    for command in ([*ask, "-keyout", str(key), "-out", str(request)], sign):
        subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    key.chmod(0o600)
    return certificate, key
