#!/usr/bin/env bash
# An mremap(2) that fails has moved a part: memory that a userfaultfd tracks stops it midway.
#
# Guess: mremap(2) of several areas either moves all of them or fails and leaves everything where it was, as it did while it refused
# several areas altogether (until Linux 6.16).
# Seen: since Linux 6.17 it moves several areas at once, one after the other, and looks at each only when it is its turn. One that is
# registered with a userfaultfd, here only so that the kernel notes what is written (WP_ASYNC), may not be moved together with
# others: the call fails with EFAULT, and the areas before that one are at the new place. A program that takes the error
# for "nothing has happened" and unmaps the new place loses them.
# Where hiber's users meet it: docs/checkpoint.md, "Frozen for less long": a program that moves old and new memory at once
# while memory is copied ahead.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'with Linux %s\n' "$(uname -r)"

compiled move <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
enum { SIZE = 1 << 20, RW = PROT_READ | PROT_WRITE };
static int is_there(char *at) { return msync(at, SIZE, MS_ASYNC) == 0; }
int main(void)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *from = mmap(NULL, 2 * SIZE, RW, flags, -1, 0), *to = mmap(NULL, 2 * SIZE, RW, flags, -1, 0);
	memset(from, 1, 2 * SIZE);
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };
	struct uffdio_register second = { .range = { (unsigned long)from + SIZE, SIZE }, .mode = UFFDIO_REGISTER_MODE_WP };
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &second))
		return perror("userfaultfd"), 1;
	void *moved = mremap(from, 2 * SIZE, 2 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	printf("%s: ", moved == MAP_FAILED ? strerror(errno) : "moved");
	printf("first %s, second %s\n", is_there(from) ? "stayed" : *to == 1 ? "moved" : "lost", is_there(from + SIZE) ? "stayed" : "moved");
}
C
saw "two areas, the second one tracked" "Bad address: first moved, second stayed" "$("$WORK/move")"
