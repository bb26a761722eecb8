#!/usr/bin/env bash
# An eventfd that counts down by one at each read(2) gives its whole count to the first reader after a restore.
#
# Guess: an eventfd is a number and a few flags, and CRIU saves both: the image has a field `flags`, and the kernel tells in
# /proc/PID/fdinfo that it is a semaphore.
# Seen: the field holds the flags of the open file, in which EFD_SEMAPHORE is not; CRIU does not read that line of fdinfo. The
# eventfd comes back as a plain counter: one reader takes all, and the others wait for ever. Dump and restore say 0, and the log has
# no warning.
# Where hiber's users meet it: nowhere: hiber makes such eventfds itself (crates/runtime/src/checkpoint/kept/eventfds.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled tickets <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>
int main(void)
{
	close_range(3, ~0U, 0);
	int tickets = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
	fclose(fopen("ready", "w"));
	while (access("go", F_OK))
		usleep(20000);
	FILE *file = fopen("taken.new", "w");
	for (int reader = 0; reader < 4; reader++) {
		uint64_t taken = 0;
		ssize_t got = read(tickets, &taken, sizeof taken);
		fprintf(file, "%s%d", reader ? " " : "", got < 0 ? -1 : (int)taken);
	}
	fclose(file);
	rename("taken.new", "taken");
	for (;;)
		pause();
}
C
before_and_after tickets taken
cd "$WORK"
saw "four readers of three tickets" "1 1 1 -1" "$(cat before)"
saw "exit status of dump and restore" "0 0" "$(xargs <status)"
saw "warnings that name an eventfd" 0 "$(grep -i 'warn' images/*.log | grep -ci eventfd || true)"
saw "the four readers after a restore" "3 -1 -1 -1" "$(cat after)"
