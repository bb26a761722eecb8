#!/usr/bin/env bash
# Memory of the kind MAP_DROPPABLE (Linux 6.11) comes back from a restore as such an area, and empty; memory that is only wiped on fork
# (MADV_WIPEONFORK), which such an area is, too, comes back with its content.
#
# Guess: CRIU keeps the content of both, since it keeps their flags: a copy of a process then draws the kernel's random numbers of the
# vDSO, whose state lies in droppable memory, a second time.
# Seen: no page of a droppable area is in the images, and no word of that in the log. Dump and restore say 0. So programs that draw from the
# vDSO (Go 1.24 and later, glibc 2.41 and later) do not repeat themselves, and what a program keeps in such memory by itself is gone.
# Where hiber's users meet it: docs/clones.md; hiber wipes memory of the second kind in clones.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled keeper <<'C'
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
	close_range(3, ~0U, 0);
	unsigned char *droppable = mmap(NULL, 65536, PROT_READ | PROT_WRITE, 0x08 /* MAP_DROPPABLE */ | MAP_ANONYMOUS, -1, 0);
	unsigned char *wiped = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (droppable == MAP_FAILED || wiped == MAP_FAILED)
		return 1;
	memset(droppable, 1, 65536);
	memset(wiped, 2, 65536);
	madvise(wiped, 65536, MADV_WIPEONFORK);
	fclose(fopen("ready", "w"));
	while (access("go", F_OK))
		usleep(20000);
	FILE *file = fopen("kept.new", "w");
	fprintf(file, "%d %d", droppable[40000], wiped[40000]);
	fclose(file);
	rename("kept.new", "kept");
	for (;;)
		pause();
}
C
before_and_after keeper kept
saw "droppable memory and that which is wiped on fork, before" "1 2" "$(cat "$WORK/before")"
saw "exit statuses of dump and restore" "0 0" "$(xargs <"$WORK/status")"
saw "droppable memory and that which is wiped on fork, after" "0 2" "$(cat "$WORK/after")"
