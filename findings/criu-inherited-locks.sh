#!/usr/bin/env bash
# A child's anonymous memory that it has from its parent is not locked any more after a restore; the parent's is.
#
# Guess: CRIU notes that an area is locked, and locks anonymous memory again with MAP_LOCKED, in each process alike.
# Seen: a child's areas that are as its parent's (copy on write) are not mapped by CRIU in the child, but inherited by fork(2), as
# at first; and locks are not inherited. A child that had locked all its memory has only that locked which it mapped
# itself. Checkpoint and restore say 0, without a warning.
# Where hiber's users meet it: nowhere; hiber locks such areas again (crates/runtime/src/checkpoint/kept/areas.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled locker <<'C'
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static void *map(void *at) { return memset(mmap(at, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 1 << 20); }
int main(void)
{
	map((void *)0x10000000);
	if (fork() == 0)
		map((void *)0x20000000);
	if (mlockall(MCL_CURRENT))
		return 1;
	for (;;)
		pause();
}
C
id=findings-locks-$$
bundle "$WORK/b" locker
python3 - "$WORK/b/config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
for name in ("bounding", "effective", "permitted"):
    config["process"]["capabilities"][name].append("CAP_IPC_LOCK")
json.dump(config, open(sys.argv[1], "w"))
PY
cleanup() { runc delete --force "$id" 2>/dev/null; }
# locked ADDRESS: whether each process, the parent first, has locked the area that begins there.
locked() {
    local pid
    for pid in $(runc ps --format json "$id" | tr -d '[]' | tr , ' '); do
        awk -v at="$1" '/^[0-9a-f]+-/ { own = index($1, at "-") == 1 } own && /^VmFlags:/ { print / lo / ? "locked" : "free" }' "/proc/$pid/smaps"
    done | xargs
}

runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
for _ in {1..50}; do [[ $(locked 20000000) == locked ]] || sleep 0.1; done
saw "of the parent's area, before" "locked locked" "$(locked 10000000)"
status=0
sleeps "$id" || status=$?
saw "checkpoint: exit status, bytes said" "0, 0" "$status, $(stat -c %s "$WORK/said")"
wakes "$id"
saw "of the parent's area, after" "locked free" "$(locked 10000000)"
saw "of the child's own area, after" "locked" "$(locked 20000000)"
