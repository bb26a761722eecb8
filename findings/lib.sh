# shellcheck shell=bash
# What the scripts in findings/ share. Source it after `set -euo pipefail`.
#
# A script asks for pinned packages (`need`), runs them in a temporary folder, and says what it saw (`saw`), which must be
# what it expects. Nothing of hiber runs.

. "$(dirname "${BASH_SOURCE[0]}")/../hack/lib.sh"
need_root "it checkpoints or contains other processes"
WORK=$(mktemp -d)
PIDS=()
# leave: ends what the script has started, by pid, and removes its folder.
leave() {
    local status=$? pid
    for pid in "${PIDS[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    if declare -F cleanup >/dev/null; then cleanup || true; fi
    rm -rf "$WORK"
    exit "$status"
}
trap leave EXIT

# need SUITE PROGRAM PACKAGE=VERSION...: has Debian's packages of exactly these versions in a private prefix and puts
# its programs first in PATH.
need() {
    local suite=$1 program=$2 prefix
    shift 2
    prefix=$CACHE/findings/$program
    "$HACK/debian-prefix" "$prefix" "$suite" "$@"
    PATH=$prefix/usr/sbin:$prefix/usr/bin:$PATH
    printf 'with %s, Linux %s\n' "$*" "$(uname -r)"
}

# saw WHAT EXPECTED ACTUAL: one observation.
saw() {
    printf '%s: %s\n' "$1" "$3"
    [[ $3 == "$2" ]] || die "this has changed: $1 was '$2'"
}

# compiled NAME: builds the C program on standard input, static.
compiled() { cc -static -O1 -o "$WORK/$1" -x c -; }

# runc ARGUMENT...: runc with its state in $WORK.
runc() { command runc --root "$WORK/state" "$@"; }

# sleeps ID, wakes ID: has runc checkpoint a container into $WORK/images, and restore it from there with the bundle $WORK/b. Logs are in
# $WORK/logs, words of the checkpoint in $WORK/said.
sleeps() { runc checkpoint --image-path "$WORK/images" --work-path "$WORK/logs" "$1" >"$WORK/said" 2>&1; }
wakes() {
    runc restore --detach --image-path "$WORK/images" --work-path "$WORK/logs" --bundle "$WORK/b" "$1" </dev/null >/dev/null 2>&1
}

# before_and_after PROGRAM RESULT: runs a program of $WORK, which makes the file `ready` and writes the file RESULT when there is a file
# `go`; then runs it again, with a dump and a restore between the two. Leaves RESULT in $WORK as `before` and `after`, and
# the exit statuses of dump and restore in `status`.
before_and_after() {
    mkdir "$WORK/images"
    cat >"$WORK/inside" <<'SH'
set -eu
ip link set lo up
once() { for i in $(seq 100); do [ ! -e "$1" ] || return 0; sleep 0.1; done; exit 1; }
setsid "./$1" </dev/null >/dev/null 2>&1 &
once ready; touch go; once "$2"; mv "$2" before; kill -KILL $!; wait $! || true
rm ready go
setsid "./$1" </dev/null >/dev/null 2>&1 &
pid=$!
once ready
criu dump --tree "$pid" --images-dir images --log-file dump.log -v4 >/dev/null 2>&1
echo "$?" >status
touch go
criu restore --images-dir images --log-file restore.log -v4 --restore-detached >/dev/null 2>&1
echo "$?" >>status
once "$2"; mv "$2" after
kill -KILL "$pid"
SH
    (cd "$WORK" && unshare --net --mount-proc --pid --fork --kill-child sh ./inside "$1" "$2")
}

# bundle DIR PROGRAM ARGUMENT...: runc's usual container of a static program of $WORK, with a root that can be written.
bundle() {
    local dir=$1 program=$2
    shift 2
    mkdir -p "$dir/rootfs"
    cp "$WORK/$program" "$dir/rootfs/$program"
    (cd "$dir" && runc spec)
    python3 - "$dir/config.json" "/$program" "$@" <<'PY'
import json, sys
path, *args = sys.argv[1:]
config = json.load(open(path))
config["process"].update(terminal=False, args=args)
config["root"]["readonly"] = False
config["linux"].setdefault("cgroupsPath", "/findings-%d" % __import__("os").getppid())
json.dump(config, open(path, "w"))
PY
}
