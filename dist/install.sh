#!/bin/sh
# Installs ringpost: the program without its symbols, its pages, the flags (a file that exists is kept), and the units
# if systemd runs. DESTDIR is a prefix for every path, for packages; these always get the units.
set -eu
cd "$(dirname "$0")/.."
destination=${DESTDIR:-}
program=target/release/ringpost
if [ ! -x "$program" ]; then
    echo "$program does not exist: run cargo build --release first" >&2
    exit 1
fi
for page in README.md tuning.md docs/*.md; do
    install -D -m 644 "$page" "$destination/usr/local/share/doc/ringpost/$page"
done
[ -e "$destination/etc/ringpost/flags" ] || install -D -m 644 dist/flags "$destination/etc/ringpost/flags"

# A new file replaces the old one, which may be running.
binary=$destination/usr/local/bin/ringpost
install -D -m 755 "$program" "$binary.new"
if command -v strip >/dev/null; then
    strip "$binary.new"
else
    echo "strip (binutils) is not installed: the program keeps its symbols" >&2
fi
mv -f "$binary.new" "$binary"

if [ -n "$destination" ] || [ -d /run/systemd/system ]; then
    for unit in ringpost.service ringpost.socket; do
        install -D -m 644 "dist/$unit" "$destination/etc/systemd/system/$unit"
    done
fi
if [ -n "$destination" ]; then
    exit 0
elif [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    echo "installed; to start it: systemctl enable --now ringpost"
else
    echo "installed without units, because systemd does not run here; to start it as root:"
    echo "  useradd --system --no-create-home --shell /usr/sbin/nologin ringpost"
    echo "  ringpost --user ringpost @/etc/ringpost/flags"
fi
