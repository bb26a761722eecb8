#!/usr/bin/env bash
# A process with a deadline schedule (SCHED_DEADLINE) is dumped with success, and its images can never be restored.
#
# Guess: CRIU refuses a policy that it does not know when it dumps, while the process can still run on; or it restores the policy
# and loses the three times that belong to it.
# Seen: the dump stores the number of the policy and says 0, after which the process is gone. Only the restore finds that it does not
# can do nothing with it, and it refuses the images each time.
# Where hiber's users meet it: they do not: hiber keeps the schedule itself (crates/runtime/src/checkpoint/kept/tasks.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled deadline <<'C'
#define _GNU_SOURCE
#include <linux/sched/types.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void)
{
	close_range(3, ~0U, 0);
	struct sched_attr attributes = { .size = sizeof attributes, .sched_policy = 6,
		.sched_runtime = 1000000, .sched_deadline = 50000000, .sched_period = 100000000 };
	if (syscall(SYS_sched_setattr, 0, &attributes, 0))
		return perror("sched_setattr"), 1;
	fclose(fopen("ready", "w"));
	for (;;)
		pause();
}
C
cd "$WORK"
mkdir images
cat >inside <<'SH'
ip link set lo up
setsid ./deadline </dev/null >/dev/null 2>said &
pid=$!
for i in $(seq 50); do [ -e ready ] || sleep 0.1; done
[ -e ready ] || { cat said; exit 1; }
criu dump --tree "$pid" --images-dir images --log-file dump.log -v4 >/dev/null 2>&1
echo "$?" >status
kill -0 "$pid" 2>/dev/null && echo runs >>status || echo gone >>status
criu restore --images-dir images --log-file restore.log -v4 --restore-detached >/dev/null 2>&1
echo "$?" >>status
SH
unshare --net --mount-proc --pid --fork --kill-child sh ./inside
saw "status of the dump, the process, status of the restore" "0 gone 1" "$(xargs <status)"
saw "the reason" "Inconsistent sched params" "$(grep -o "Inconsistent sched params" images/restore.log)"
