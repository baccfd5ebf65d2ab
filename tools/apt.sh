#!/bin/sh
# Install Debian or Ubuntu packages, as root or with sudo; else say the line to type.
set -eu
line="apt-get install -y --no-install-recommends $*"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing here: $*; install them with this machine's package manager" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo=sudo
else
    echo "missing here: $*; install them with: sudo $line" >&2
    exit 1
fi
DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
$sudo apt-get update -q >/dev/null
$sudo $line >/dev/null
