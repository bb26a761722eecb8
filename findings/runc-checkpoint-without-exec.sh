#!/usr/bin/env bash
# A checkpoint by runc leaves out what `runc exec` started.
#
# Guess: the processes of an exec are in the container's cgroup and pid namespace, so that CRIU dumps them, too, or
# refuses the container.
# Seen: CRIU dumps the tree below the first process. `runc checkpoint` says 0, the process is killed with the container,
# and the restored container does not have it. Neither runc nor CRIU's log has a warning.
# Where hiber's users meet it: hiber names such processes beforehand; docs/limits.md, beside-first.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled sleeper <<'C'
#include <unistd.h>
int main(void) { for (;;) pause(); }
C
id=findings-exec-$$
bundle "$WORK/b" sleeper
cleanup() { runc delete --force "$id" 2>/dev/null; }
count() { runc ps --format json "$id" | tr -cd , | wc -c | awk '{ print $1 + 1 }'; }

runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
runc exec --detach "$id" /sleeper </dev/null >/dev/null 2>&1
saw "processes before" 2 "$(count)"
status=0
sleeps "$id" || status=$?
saw "checkpoint: exit status, bytes said" "0, 0" "$status, $(stat -c %s "$WORK/said")"
saw "warnings of left-out processes in CRIU's log" 0 "$(grep -c -i -E 'left out|not in the tree|skip.*(task|process)' "$WORK/logs/dump.log" || true)"
wakes "$id"
saw "processes after" 1 "$(count)"
