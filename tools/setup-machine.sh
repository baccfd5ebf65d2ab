#!/bin/sh
# QEMU with its firmware, and the programs that judge our answers (gdb, binutils).
set -eu
missing=
command -v qemu-system-x86_64 >/dev/null 2>&1 || missing="$missing qemu-system-x86"
command -v qemu-system-aarch64 >/dev/null 2>&1 || missing="$missing qemu-system-arm"
ls /usr/share/OVMF/OVMF_CODE*.fd >/dev/null 2>&1 || missing="$missing ovmf"
command -v gdb >/dev/null 2>&1 || missing="$missing gdb"
command -v addr2line >/dev/null 2>&1 || missing="$missing binutils"
[ -z "$missing" ] && exit 0
exec sh "$(dirname "$0")/apt.sh" $missing
