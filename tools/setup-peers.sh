#!/bin/sh
# The tools that `make bench` measures against and that come from a package registry, in an
# environment of their own: setup-peers.sh DIR. Without them their rows say so.
set -u
dir=$1
[ -f "$dir/.installed" ] && exit 0
if python3 -m venv "$dir" && "$dir/bin/pip" install -q --retries 1 --timeout 20 volatility3 drgn; then
    touch "$dir/.installed"
else
    rm -rf "$dir"
    echo "bench: volatility3 and drgn cannot be installed here" >&2
fi
exit 0
