#!/usr/bin/env bash
# A tmpfs that a container mounts over one of its volumes is gone after a restore: the container sees, and writes, the host's files.
#
# Guess: a mount that the container made itself is saved like any other, or the checkpoint is refused, as it is for kinds of mounts
# that CRIU does not know.
# Seen: a runtime tells CRIU by its mount point that the volume comes from outside. CRIU takes each mount on that point for the volume:
# the tmpfs above is not saved, and at the restore both are the volume. Checkpoint and restore say 0. What the program had hidden
# there (a key in memory, for instance) is gone, and what it writes next is on the host's disk.
# Where hiber's users meet it: hiber compares the mounts with config.json before anything stops, and refuses
# (docs/limits.md, the check `mount-over`).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled keeper <<'C'
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");
	fputs(text, file);
	fclose(file);
}
int main(void)
{
	if (mount("secret", "/volume", "tmpfs", 0, "mode=700"))
		return 1;
	put("/volume/key", "in memory");
	put("/ready", "");
	while (access("/go", F_OK))
		usleep(50000);
	put("/seen", access("/volume/key", F_OK) ? "gone" : "there");
	put("/volume/written", "later");
	put("/done", "");
	for (;;)
		pause();
}
C
id=findings-over-$$
bundle "$WORK/b" keeper
mkdir "$WORK/volume" "$WORK/b/rootfs/volume"
echo host >"$WORK/volume/of-the-host"
python3 - "$WORK/b/config.json" "$WORK/volume" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
config["mounts"].append({"destination": "/volume", "type": "bind", "source": sys.argv[2], "options": ["bind", "rw"]})
for name in ("bounding", "effective", "permitted"):
    config["process"]["capabilities"][name].append("CAP_SYS_ADMIN")
json.dump(config, open(sys.argv[1], "w"))
PY
cleanup() { runc delete --force "$id" 2>/dev/null; }
once() { for _ in {1..100}; do [[ ! -e $WORK/b/rootfs/$1 ]] || return 0; sleep 0.1; done; die "no /$1"; }

runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
once ready
saw "on the host, before" of-the-host "$(ls "$WORK/volume")"
status=0
sleeps "$id" || status=$?
saw "checkpoint: exit status" 0 "$status"
wakes "$id" || status=$?
saw "restore: exit status" 0 "$status"
touch "$WORK/b/rootfs/go"
once "done"
saw "the key, after" gone "$(cat "$WORK/b/rootfs/seen")"
saw "on the host, after" "of-the-host written" "$(cd "$WORK/volume" && echo *)"
