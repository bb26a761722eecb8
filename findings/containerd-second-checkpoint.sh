#!/usr/bin/env bash
# The second checkpoint image that containerd makes of a container has no checkpoint in it.
#
# Guess: `ctr containers checkpoint` works as often as one likes; each image can be restored.
# Seen: while the first image exists, the second has neither CRIU's images nor the configuration, and ctr says 0. The
# configuration is in the content store already; containerd answers "already exists", and ctr passes over that error, which ends
# the step that adds the checkpoint to the image. Only a restore fails, with "media type not found".
# Where hiber's users meet it: docs/containerd.md, "Checkpoints"; Docker's "already exists" at `docker start --checkpoint` comes
# from the same content store.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need bookworm containerd-1.6.20 containerd=1.6.20~ds1-1+deb12u3
need sid runc-1.3.6 runc=1.3.6+ds1-1
need forky criu-4.2.1 criu=4.2.1-1

compiled sleeper <<'C'
#include <unistd.h>
int main(void) { for (;;) pause(); }
C
cat >"$WORK/config.toml" <<END
version = 2
root = "$WORK/root"
state = "$WORK/run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$WORK/sock"
END
containerd --config "$WORK/config.toml" >"$WORK/log" 2>&1 &
server=$!
ctr() { command ctr --address "$WORK/sock" "$@" 2>>"$WORK/said"; }
id=findings-$$
cleanup() {
    ctr tasks rm --force "$id"
    ctr containers rm "$id"
    kill "$server"
    wait "$server"
} >/dev/null 2>&1
until ctr version >/dev/null; do sleep 0.1; done

# an image of one program, in docker's format
mkdir "$WORK/image"
tar -C "$WORK" -cf "$WORK/image/layer.tar" sleeper
digest=$(sha256sum "$WORK/image/layer.tar" | cut -d ' ' -f 1)
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/sleeper"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$digest" >"$WORK/image/config.json"
printf '[{"Config":"config.json","RepoTags":["localhost/sleeper:1"],"Layers":["layer.tar"]}]' >"$WORK/image/manifest.json"
tar -C "$WORK/image" -cf "$WORK/image.tar" manifest.json config.json layer.tar
ctr images import --snapshotter native "$WORK/image.tar" >/dev/null

# has IMAGE: how many of its parts are checkpoints of CRIU.
has() {
    local index
    index=$(ctr images ls | awk -v name="$1" '$1 == name { print $3 }')
    ctr content get "$index" | grep -o checkpoint.criu.tar | wc -l
}
ctr run --detach --snapshotter native --cgroup "/$id" --runtime io.containerd.runc.v2 localhost/sleeper:1 "$id"
for image in first second; do
    status=0
    ctr containers checkpoint --image --task "$id" "$image" || status=$?
    saw "exit status of the $image checkpoint" 0 "$status"
done
saw "checkpoints in the first image" 1 "$(has first)"
saw "checkpoints in the second image" 0 "$(has second)"
