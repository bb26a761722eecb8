#!/usr/bin/env bash
# A host's tmpfs that lies below a directory bound with `rbind` becomes a private copy of the container's at a restore.
#
# Guess: a volume comes from outside with all that is below it, since `rbind` says so: at the restore the host's mounts are bound again.
# Seen: runc tells CRIU of the one mount of config.json; each mount below it is for CRIU the container's own. The tmpfs's content is
# written into the images, however large, and at the restore a new tmpfs with that content lies over the host's. From then
# on the two sides see different files. Checkpoint and restore say 0.
# Where hiber's users meet it: they do not: hiber gives CRIU each of these mounts as one from outside, and refuses those that a restore
# would not find (docs/limits.md, `mount-of-host`).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled reader <<'C'
#include <stdio.h>
#include <unistd.h>
int main(void)
{
	for (;; usleep(50000)) {
		char text[64] = "none";
		FILE *from = fopen("/volume/below/news", "r"), *to = fopen("/seen.new", "w");
		if (from && fgets(text, sizeof text, from))
			fclose(from);
		fputs(text, to);
		fclose(to);
		rename("/seen.new", "/seen");
	}
}
C
id=findings-below-$$
bundle "$WORK/b" reader
mkdir -p "$WORK/volume/below" "$WORK/b/rootfs/volume"
cleanup() { runc delete --force "$id" 2>/dev/null; umount "$WORK/volume/below"; }
mount -t tmpfs news "$WORK/volume/below"
echo first >"$WORK/volume/below/news"
python3 - "$WORK/b/config.json" "$WORK/volume" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
config["mounts"].append({"destination": "/volume", "type": "bind", "source": sys.argv[2], "options": ["rbind", "rw"]})
json.dump(config, open(sys.argv[1], "w"))
PY
# sees: what the container reads now.
sees() { sleep 0.5; xargs <"$WORK/b/rootfs/seen"; }
runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
saw "the container reads" first "$(sees)"
status=0
sleeps "$id" || status=$?
saw "checkpoint: exit status" 0 "$status"
saw "archives of a tmpfs in the images with the host's file" 1 \
    "$(for image in "$WORK"/images/tmpfs-dev-*.tar.gz.img; do tar -tzf "$image"; done | grep -c '/news$')"
wakes "$id" || status=$?
saw "restore: exit status" 0 "$status"
echo second >"$WORK/volume/below/news"
saw "the host writes 'second'; the container reads" first "$(sees)"
