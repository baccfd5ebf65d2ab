#!/bin/sh
# On every Python from 3.11 up that is here (or those given): the wheel is installed and boots the lab
# guest, the unit tests pass. pythons.sh [PYTHON]...   $BUILDER: a python that has hatchling.
set -u
tree=$(cd "$(dirname "$0")/.." && pwd)
place=$tree/build/pythons
builder=${BUILDER:-$tree/.venv/bin/python}

found() {
    for python in python3 python3.11 python3.12 python3.13 python3.14 python3.15 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
        # A shim of pyenv's may be there for a version that it does not start.
        "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
            "$python" -c 'import os, sys; print(os.path.realpath(sys.executable))'
    done | sort -u
}

try() {
    version=$("$1" -c 'import platform; print(platform.python_version())')
    echo "== Python $version ($1)"
    room=$place/$version
    "$1" -m venv "$room" &&
        "$room/bin/python" -m pip install --quiet "$wheel[dev]" &&
        (cd "$room" && bin/breenix-gdbagent ci --lab clean >ci.txt) &&
        tail -n 1 "$room/ci.txt" &&
        (cd "$tree" && "$room/bin/python" -m pytest tests/unit -n 2 -p no:cacheprovider)
}

rm -rf "$place"
mkdir -p "$place"
cd "$tree" || exit 3
"$builder" -m hatchling build -t wheel -d "$place/wheel" >/dev/null || exit 3
wheel=$(ls "$place"/wheel/*.whl)
[ $# -gt 0 ] || set -- $(found)
failed=
for python in "$@"; do
    try "$python" || failed="$failed $python"
done
[ -z "$failed" ] || { echo "failed on:$failed" >&2; exit 1; }
