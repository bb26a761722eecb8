#!/usr/bin/env bash
# A mount of cgroup2, which is mounted already and keeps all its options, waits until every processor has passed a grace period of RCU.
#
# Guess: one more mount of a file system that is there costs what a bind mount costs, some 50 microseconds.
# Seen: 7 to 10 ms, unless somebody has moved a process between cgroups, or mounted cgroup2, in the last hundredth of a second. Each
# mount says whether moves are to be favoured (`favordynmods`), if only by saying nothing; the kernel then takes the lock that stops all
# forks and exits for writing, whether anything changes or not, and the first writer after a while waits for the readers' grace
# period. In a cgroup namespace of its own a mount changes no options, and does not wait.
# Where hiber's users met it: CRIU mounts each hierarchy anew at a restore, in which every restore stood still for 10 of its 35 ms. hiber binds
# the hierarchies that are there instead (crates/runtime/src/checkpoint/cgroup_yard.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'with Linux %s\n' "$(uname -r)"

seen=$(unshare --mount --propagation private python3 - "$WORK" <<'PY'
import ctypes, os, statistics, sys, time

libc = ctypes.CDLL(None, use_errno=True)
BIND, DETACH = 4096, 2


def mount(source, target, kind, flags=0):
    begun = time.perf_counter()
    if libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None):
        raise OSError(ctypes.get_errno(), "mount")
    return time.perf_counter() - begun


first, second = (os.path.join(sys.argv[1], name) for name in ("first", "second"))
for place in (first, second):
    os.mkdir(place)
late, at_once, bound = [], [], []
for _ in range(20):
    time.sleep(0.1)
    late.append(mount("none", first, "cgroup2"))
    libc.umount2(first.encode(), DETACH)
    at_once.append(mount("none", first, "cgroup2"))
    time.sleep(0.1)
    bound.append(mount(first, second, None, BIND))
    libc.umount2(second.encode(), DETACH)
    libc.umount2(first.encode(), DETACH)
late, at_once, bound = (statistics.median(times) for times in (late, at_once, bound))
print(late > 10 * bound, at_once < 2 * bound)
print(f"{late * 1000:.1f} ms after a pause, {at_once * 1000:.2f} ms at once, {bound * 1000:.2f} ms for a bind mount", file=sys.stderr)
PY
)
saw 'a mount of cgroup2 after a pause takes ten times as long as a bind mount, and one right after another does not' 'True True' "$seen"
