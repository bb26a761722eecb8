#!/usr/bin/env bash
# A container that has joined a pod's IPC namespace takes its neighbours' shared memory into its checkpoint, and so cannot be restored.
#
# Guess: what is in a namespace that config.json joins by path belongs to others, and stays outside, as a joined network namespace does
# (runc tells CRIU of that one as external).
# Seen: runc says nothing of a joined IPC namespace, and CRIU saves all of it: a segment of a neighbour is written into the images, with
# what is in it. The checkpoint says 0. The restore into the same pod fails, for the segment is there ("File exists"), and will fail as
# long as the neighbour lives.
# Where hiber's users meet it: nowhere: hiber runs CRIU inside of such namespaces, which leaves them out
# (crates/runtime/src/checkpoint/shared.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled idle <<'C'
#include <unistd.h>
int main(void)
{
	for (;;)
		pause();
}
C
compiled neighbour <<'C'
#include <fcntl.h>
#include <string.h>
#include <sys/shm.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	strcpy(shmat(shmget(4711, 65536, IPC_CREAT | 0600), NULL, 0), "the neighbour's words");
	close(open(argv[1], O_CREAT | O_WRONLY, 0600));
	for (;;)
		pause();
}
C
unshare --ipc "$WORK/neighbour" "$WORK/ready" &
PIDS+=($!)
for _ in {1..50}; do [[ -e $WORK/ready ]] || sleep 0.1; done
id=findings-ipc-$$
bundle "$WORK/b" idle
python3 - "$WORK/b/config.json" "/proc/${PIDS[0]}/ns/ipc" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
for namespace in config["linux"]["namespaces"]:
    if namespace["type"] == "ipc":
        namespace["path"] = sys.argv[2]
json.dump(config, open(sys.argv[1], "w"))
PY
cleanup() { runc delete --force "$id" 2>/dev/null; }
runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
status=0
sleeps "$id" || status=$?
saw "checkpoint: exit status" 0 "$status"
saw "images with the neighbour's words" 1 "$(grep -l "the neighbour's words" "$WORK"/images/* | wc -l)"
wakes "$id" || status=$?
saw "restore: exit status" 1 "$status"
saw "its reason" "File exists" "$(grep -o 'shm.*File exists' "$WORK/logs/restore.log" | grep -o 'File exists' | head -1)"
