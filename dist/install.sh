#!/bin/sh
# Installs ringpost for systemd. Flags that are there already stay as they are.
# DESTDIR stands in front of every path, for packages.
set -eu
cd "$(dirname "$0")/.."
destination=${DESTDIR:-}
install -D -m 755 target/release/ringpost "$destination/usr/local/bin/ringpost"
install -D -m 644 README.md "$destination/usr/local/share/doc/ringpost/README.md"
for unit in ringpost.service ringpost.socket; do
    install -D -m 644 "dist/$unit" "$destination/etc/systemd/system/$unit"
done
[ -e "$destination/etc/ringpost/flags" ] || install -D -m 644 dist/flags "$destination/etc/ringpost/flags"
if [ -z "$destination" ]; then
    systemctl daemon-reload
fi
