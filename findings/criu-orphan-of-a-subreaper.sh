#!/usr/bin/env bash
# A daemon that forked away from its session's leader, below a process that takes orphans, is dumped with success and cannot be restored.
#
# Guess: a session whose leader has ended is restored wherever its members are: CRIU makes a process in the leader's place for them.
# Seen: CRIU does so for children of the first process alone. Where a subreaper (PR_SET_CHILD_SUBREAPER), as service managers are, has
# taken the daemon, the dump says 0 and ends the processes, and each restore fails: "Can't find a session leader".
# Where hiber's users meet it: they do not: `checkpoint` refuses such a container before anything is frozen (docs/limits.md,
# `session-leader`).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled daemons <<'C'
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void)
{
	if (fork() == 0) {
		if (getenv("SUBREAPER"))
			prctl(PR_SET_CHILD_SUBREAPER, 1);
		if (fork() == 0) {
			/* as daemon(3) does, twice forked */
			setsid();
			if (fork())
				_exit(0);
			for (;;)
				pause();
		}
		if (!getenv("SUBREAPER"))
			_exit(0);
		wait(NULL);
		for (;;)
			pause();
	}
	for (;;)
		if (wait(NULL) < 0)
			pause();
}
C
id=findings-orphan-$$
bundle "$WORK/b" daemons
cleanup() { runc delete --force "$id" 2>/dev/null; }
# goes: checkpoint and restore of the container, by their exit status.
goes() {
    local dumped=0 restored=0
    runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
    sleep 0.5
    sleeps "$id" || dumped=$?
    wakes "$id" || restored=$?
    runc delete --force "$id" 2>/dev/null || true
    printf 'checkpoint %s, restore %s' "$dumped" "$((restored != 0))"
}
saw "the first process takes the orphan" "checkpoint 0, restore 0" "$(goes)"
python3 - "$WORK/b/config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
config["process"]["env"].append("SUBREAPER=1")
json.dump(config, open(sys.argv[1], "w"))
PY
rm -rf "$WORK/images"
saw "a subreaper takes it" "checkpoint 0, restore 1" "$(goes)"
