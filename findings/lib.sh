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
