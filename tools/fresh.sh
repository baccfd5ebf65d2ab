#!/bin/sh
# The README's two commands on a minimal Debian, as a new user gives them: fresh.sh SUITE, as root.
# The Debian is bootstrapped into build/fresh/SUITE from this machine's own apt source, or from
# $MIRROR; the last commit of this tree is cloned into it. Mounts and processes live in namespaces
# of their own, so that nothing of them is left however this ends. The folder stays when it failed.
set -eu
suite=${1:-trixie}
tree=$(cd "$(dirname "$0")/.." && pwd)
place=$tree/build/fresh/$suite
home=/root/breenix_gdbagent

say() { echo "fresh: $*" >&2; }

outside() {
    case $suite in
        *[!a-z]*) say "SUITE is a Debian release, as trixie or bookworm, not '$suite'"; exit 2 ;;
    esac
    if [ "$(id -u)" -ne 0 ]; then
        say "a Debian is bootstrapped by root only: sudo make fresh SUITE=$suite"
        exit 2
    fi
    command -v debootstrap >/dev/null 2>&1 || sh "$tree/tools/apt.sh" debootstrap
    mirror=${MIRROR:-$(debian_source)}
    if [ -z "$mirror" ]; then
        say "this machine has no Debian apt source; name one: make fresh SUITE=$suite MIRROR=URI"
        exit 2
    fi
    if [ -n "$(git -C "$tree" status --porcelain -uno)" ]; then
        say "what is not committed is not tried"
    fi
    rm -rf --one-file-system "$place"
    mkdir -p "$place"
    status=0
    unshare --mount --pid --fork --kill-child --mount-proc \
        sh "$tree/tools/fresh.sh" "$suite" inside "$mirror" &
    namespace=$!
    trap 'say "interrupted; kept: $place"; exit 130' INT
    trap 'say "ended; kept: $place"; exit 143' TERM HUP
    trap 'kill -KILL "$namespace" 2>/dev/null || :' EXIT
    wait "$namespace" || status=$?
    if [ "$status" -ne 0 ]; then
        say "$suite failed ($status); kept: $place"
        exit "$status"
    fi
    rm -rf --one-file-system "$place"
    say "$suite passed: $(two_commands | paste -s -d, -)"
}

# The first archive of Debian's own in this machine's apt sources that debootstrap can read.
debian_source() {
    apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        sed -n -e 's/^Debian main \(http:.*\)/\1/p' -e 's/^Debian main \(https:.*\)/\1/p' \
            -e 's/^Debian main \(file:.*\)/\1/p' | head -n 1
}

two_commands() {
    sed -n '/^## Two commands/,/^## /{s/^\(make [a-z]*\).*/\1/p;}' "$tree/README.md"
}

inside() {
    say "a minimal $suite into $place"
    # What the README asks for, and nothing else.
    debootstrap --variant=minbase --include=git,make "$suite" "$place" "$1" >"$place.log" 2>&1 || {
        tail -n 5 "$place.log" >&2
        say "debootstrap failed: $place.log"
        exit 1
    }
    rm -f "$place.log"
    mount -t proc proc "$place/proc"
    mount -t sysfs -o ro sysfs "$place/sys"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$place/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$place/dev/shm"
    network
    git clone --quiet --depth 1 "file://$tree" "$place$home"
    say "commit $(git -C "$place$home" log -1 --format='%h %s')"
    [ -n "$(two_commands)" ] || { say "the README names no commands"; exit 1; }
    two_commands | while read -r command; do
        say "$command"
        chroot "$place" env -i HOME=/root TERM=dumb \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            sh -c "[ ! -f /etc/network-of-the-host ] || . /etc/network-of-the-host
                   cd $home && exec $command" </dev/null || exit $?
    done
}

# How this machine reaches the network, told to the one inside: names, proxies, the package index,
# a certificate of its own.
network() {
    cp -L /etc/resolv.conf "$place/etc/resolv.conf"
    [ -s "$place/etc/hosts" ] || echo "127.0.0.1 localhost" >"$place/etc/hosts"
    told=$place/etc/network-of-the-host
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
        PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || printf "export %s='%s'\n" "$name" "$value" >>"$told"
    done
    certificate=${PIP_CERT:-${SSL_CERT_FILE:-}}
    if [ -n "$certificate" ]; then
        cp -L "$certificate" "$place/etc/certificates-of-the-host.crt"
        echo "export PIP_CERT=/etc/certificates-of-the-host.crt" >>"$told"
    fi
}

case ${2:-} in
    inside) inside "$3" ;;
    *) outside ;;
esac
