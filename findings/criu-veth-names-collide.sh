#!/usr/bin/env bash
# A veth pair inside a container cannot be restored if the one that is made first is called veth0.
#
# Guess: CRIU saves both ends' names, and makes both by them.
# Seen: CRIU makes the pair by one end and gives the other its name afterwards. Meanwhile the kernel calls that by the first
# free one of veth0, veth1, ...: where the end that is made first is called so, as where the other is a port of a bridge, the
# restore fails with EEXIST, after a dump without a warning. `ip link add p type veth` names the other end veth0.
# Where hiber's users meet it: the container is refused beforehand; docs/limits.md, network-device.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled sleeper <<'C'
#include <unistd.h>
int main(void) { for (;;) pause(); }
C
# A process in a network of its own, saved and restored by CRIU alone.
try() {
    local name=$1 pid status=0
    setsid unshare --net "$WORK/sleeper" </dev/null >/dev/null 2>&1 &
    pid=$!
    disown "$pid"
    PIDS+=("$pid")
    sleep 0.5
    nsenter --net="/proc/$pid/ns/net" sh -ec "ip link add br0 type bridge; ip link add p type veth peer name $name; ip link set p master br0"
    mkdir "$WORK/$name"
    criu dump --tree "$pid" --images-dir "$WORK/$name" --manage-cgroups=ignore >/dev/null 2>&1 || status=$?
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    saw "$name: dump" 0 "$status"
    criu restore --restore-detached --pidfile "$WORK/$name/pid" --images-dir "$WORK/$name" --manage-cgroups=ignore -v4 \
        --log-file log >/dev/null 2>&1 || status=$?
    if [[ -s $WORK/$name/pid ]]; then PIDS+=("$(cat "$WORK/$name/pid")"); fi
    saw "$name: restore" "$2" "$status, $(grep -o "Can't restore link: -17" "$WORK/$name/log" | head -1)"
}
try other "0, "
try veth0 "1, Can't restore link: -17"
