#!/usr/bin/env bash
# In a cgroup namespace CRIU takes children to be in other cgroups than their parent, and a restore moves each of them to where it is.
#
# Guess: a child in its parent's cgroups has its parent's set of cgroups in the images, in a cgroup namespace as without one, and is
# born where it belongs: the log says `inherited from parent`.
# Seen: only the first process's set says how much of its paths is outside of the namespace. That makes the child's set another one, with
# the same paths, and the restore writes the child's number into cgroup.procs of every hierarchy, for which the kernel stops all
# forks and waits for its readers. Without the namespace the child inherits.
# Where hiber's users met it: in every restore of a container with a cgroup namespace, which podman and Docker make on cgroup v2. hiber
# shows CRIU an image in which there is nothing to move (crates/criu/src/own_cgroups.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled family <<'C'
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>
int main(void)
{
	close_range(3, ~0U, 0);
	setsid();
	if (fork())
		fclose(fopen("ready", "w"));
	for (;;)
		pause();
}
C
point=$(findmnt --noheadings --first-only --output TARGET --types cgroup2) || die "needs cgroup v2"
own=$point/findings-$$
mkdir "$own"
cleanup() { rmdir "$own"; }

# moved PROGRAM...: how many of a process and its child, begun by this program in a cgroup, are moved by their restore.
moved() {
    rm -rf "$WORK/images" "$WORK/ready"
    mkdir "$WORK/images"
    cat >"$WORK/inside" <<'SH'
set -eu
ip link set lo up
own=$1
shift
sh -c 'echo 0 >"$1"; shift; exec "$@"' sh "$own/cgroup.procs" "$@" ./family \
    </dev/null >/dev/null 2>&1 &
pid=$!
for i in $(seq 50); do [ -e ready ] || sleep 0.1; done
criu dump --tree "$pid" --images-dir images --log-file dump.log -v4 >/dev/null 2>&1
criu restore --images-dir images --log-file restore.log -v4 --restore-detached >/dev/null 2>&1
kill -KILL "$pid"
SH
    (cd "$WORK" && unshare --net --mount-proc --pid --fork --kill-child sh ./inside "$own" "$@") >&2
    grep -c 'cg: Move into' "$WORK/images/restore.log" || true
}
saw 'moves of the two without a cgroup namespace' 1 "$(moved env)"
saw 'moves of the two in one' 2 "$(moved unshare --cgroup)"
