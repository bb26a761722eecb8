#!/usr/bin/env bash
# CRIU's image of an address space has areas that overlap each other, if the program has guard regions.
#
# Guess: the areas of mm-*.img are those of /proc/PID/maps: in order, each address in one of them. A guard region (madvise(2) with
# MADV_GUARD_INSTALL, Linux 6.13) is no area of its own there.
# Seen: CRIU writes an entry for a guard region beside that of its area, with a status bit of its own (1 << 16). A reader that walks
# the entries meets these addresses twice.
# Where hiber's users meet it: they do not: hiber leaves these entries out (crates/criu/src/inspect/memory.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled guarded <<'C'
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
	char *area = mmap(NULL, 3 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (madvise(area, 1 << 12, 102 /* MADV_GUARD_INSTALL */))
		return 1;
	area[1 << 12] = 1;
	FILE *where = fopen("where.new", "w");
	fprintf(where, "%lx", (unsigned long)area);
	fclose(where);
	rename("where.new", "where");
	pause();
}
C
mkdir "$WORK/images"
(cd "$WORK" && exec setsid ./guarded </dev/null >/dev/null 2>&1) &
PIDS+=($!)
for _ in $(seq 50); do [[ -e $WORK/where ]] || sleep 0.1; done
[[ -e $WORK/where ]] || die "this kernel has no MADV_GUARD_INSTALL (Linux 6.13)"
pid=$(pgrep -P $$ -x guarded || echo "${PIDS[0]}")
saw "areas at that address in /proc/PID/maps" 1 "$(grep -c "^0*$(cat "$WORK/where")-" "/proc/$pid/maps")"
criu dump --tree "$pid" --images-dir "$WORK/images" --log-file dump.log -v4 >/dev/null 2>&1 || die "the dump fails"

cat >"$WORK/areas.py" <<'P'
import sys

def fields(data):
    at = 0
    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
    while at < len(data):
        key = number()
        if key & 7 == 2:
            length = number()
            yield key >> 3, data[at:at + length]
            at += length
        else:
            yield key >> 3, number()

# mm_entry: the 14th member is vma_entry, of which 1 is start, 2 is end, 7 is status
data = open(sys.argv[1], "rb").read()[12:]
areas = [dict(fields(value)) for key, value in fields(data) if key == 14]
for area in areas:
    if area[1] == int(sys.argv[2], 16):
        print(area[2] - area[1] >> 12, "pages, guard" if area[7] & 1 << 16 else "pages")
P
saw "areas at that address in CRIU's image" "1 pages, guard; 3 pages" \
    "$(python3 "$WORK/areas.py" "$WORK/images/mm-$pid.img" "$(cat "$WORK/where")" | sort | paste -sd ';' | sed 's/;/; /g')"
