#!/usr/bin/env bash
# A tmpfs that is mounted `sync` comes back without devices.
#
# Guess: CRIU restores a mount's options, and one that it does not know is refused or left out.
# Seen: the options of the file system come back as flags, but `sync` as MS_SYNC, which is msync(2)'s and has the value of
# mount(2)'s MS_NODEV: the restored mount has `nodev` and no `sync`. Checkpoint and restore say 0, without a warning.
# Where hiber's users meet it: nowhere; hiber mends the images (crates/criu/src/amend.rs, settle_synchronous_mounts).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled sleeper <<'C'
#include <unistd.h>
int main(void) { for (;;) pause(); }
C
id=findings-sync-$$
bundle "$WORK/b" sleeper
python3 - "$WORK/b/config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
config["mounts"].append({"destination": "/synchronous", "type": "tmpfs", "source": "tmpfs", "options": ["sync"]})
json.dump(config, open(sys.argv[1], "w"))
PY
cleanup() { runc delete --force "$id" 2>/dev/null; }
# The mount's options, and those of its file system without its mode.
options() {
    local pid
    pid=$(runc state "$id" | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])')
    awk '$5 == "/synchronous" { sub(/,mode=.*/, "", $NF); print $6 " " $NF }' "/proc/$pid/mountinfo"
}

runc run --detach --bundle "$WORK/b" "$id" </dev/null >/dev/null 2>&1
saw "before" "rw,relatime rw,sync" "$(options)"
status=0
sleeps "$id" || status=$?
saw "checkpoint: exit status, bytes said" "0, 0" "$status, $(stat -c %s "$WORK/said")"
wakes "$id"
saw "after" "rw,nodev,relatime rw" "$(options)"
