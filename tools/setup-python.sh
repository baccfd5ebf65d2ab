#!/bin/sh
# A virtual environment with the package and its test tools. $1: where.
set -eu
venv=$1
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1 && [ -z "${PYTHON:-}" ]; then
    sh "$(dirname "$0")/apt.sh" python3 python3-venv
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "breenix_gdbagent needs Python 3.11 or newer as '$python'" >&2
    echo "on Debian or Ubuntu: apt-get install python3 python3-venv" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    sh "$(dirname "$0")/apt.sh" python3-venv
fi
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
"$venv/bin/python" -m compileall -q breenix_gdbagent
