#!/usr/bin/env bash
# A firewall rule with a comment, made by iptables-nft, takes a checkpointed process down: the dump says 0, and every restore fails.
#
# Guess: the rules come back, or the dump refuses them. CRIU has libnftables list a network namespace's rules, and read them again.
# Seen: libnftables lists the comment between the matches and the counter, where its own grammar has none, so it refuses its own
# words ("unexpected counter").
# Where hiber's users meet it: nowhere; hiber keeps such rules as the kernel tells them (crates/runtime/src/checkpoint/kept/).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need bookworm iptables-1.8.9 iptables=1.8.9-2
PLUGINS=$CACHE/findings/iptables-1.8.9/usr/lib/$(uname -m)-linux-gnu/xtables
export PLUGINS
need forky criu-4.2.1 criu=4.2.1-1

mkdir "$WORK/plain" "$WORK/comment"
# sleeps_and_wakes NAME OPTION...: the exit statuses of dump and restore of a process whose network has a rule with these options, and the
# error of the restore.
sleeps_and_wakes() {
    local name=$1
    shift
    cat >"$WORK/inside" <<'SH'
set -eu
name=$1
shift
ip link set lo up
cat >rules <<'RULES'
ip link set lo up
XTABLES_LIBDIR=$PLUGINS iptables-nft -A INPUT -p tcp --dport 22 "$@" -j ACCEPT
exec setsid sleep 1000
RULES
unshare --net sh ./rules "$@" </dev/null >/dev/null 2>&1 &
pid=$!
for i in $(seq 50); do [ "$(cat /proc/$pid/comm)" != sleep ] || break; sleep 0.1; done
status=0
criu dump --tree "$pid" --images-dir "$name" --log-file dump.log >/dev/null 2>&1 || status=$?
[ "$status" != 0 ] || wait "$pid" || true
echo "dump $status"
status=0
criu restore --images-dir "$name" --log-file restore.log --restore-detached >/dev/null 2>&1 || status=$?
echo "restore $status"
grep -o 'nft command error' "$name/restore.log" | head -n 1
kill -KILL "$pid" 2>/dev/null || true
SH
    (cd "$WORK" && unshare --net --mount-proc --pid --fork --kill-child sh ./inside "$name" "$@") | paste -sd ' '
}
saw "without a comment" "dump 0 restore 0" "$(sleeps_and_wakes plain)"
saw "with one" "dump 0 restore 1 nft command error" "$(sleeps_and_wakes comment -m comment --comment hello)"
