#!/usr/bin/env bash
# A PAGEMAP_SCAN that fails with EPERM has reset the written state of pages, and has not told which.
#
# Guess: with PM_SCAN_CHECK_WPASYNC the call looks first whether all of the range is tracked (EPERM otherwise), then reports and protects;
# a call that fails has changed nothing, so that the next one over a smaller range tells all that was written.
# Seen: the kernel walks area by area, and protects as it goes. At the first area that is not tracked it gives up with EPERM; pages of
# the areas before are protected already, count as unwritten from then on, and were never reported: a copier that takes the
# error for "nothing has happened" leaves those pages out of its copy.
# Where hiber's users meet it: nowhere: after such an error hiber takes the areas for unknown and copies them anew
# (crates/memory/src/track/mod.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'with Linux %s\n' "$(uname -r)"

compiled scan <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define WP_ASYNC (1 << 15)
#define WP_UNPOPULATED (1 << 13)
enum { PAGE = 4096, COUNT = 4, SIZE = COUNT * PAGE, RW = PROT_READ | PROT_WRITE };
enum { IS_WRITTEN = 1 << 1, WP_MATCHING = 1, CHECK_WPASYNC = 2 };
struct region { uint64_t start, end, categories; };
struct scan { uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned; };
static int pagemap;
/* How many pages are told as written, or the error. */
static int written(char *from, char *to, int flags)
{
	struct region regions[16];
	struct scan scan = { .size = sizeof scan, .flags = flags, .start = (uint64_t)from, .end = (uint64_t)to,
		.vec = (uint64_t)regions, .vec_len = 16, .mask = IS_WRITTEN, .returned = IS_WRITTEN };
	int count = ioctl(pagemap, _IOWR('f', 16, struct scan), &scan), pages = 0;
	if (count < 0)
		return -errno;
	for (int i = 0; i < count; i++)
		pages += (regions[i].end - regions[i].start) / PAGE;
	return pages;
}
int main(void)
{
	char *first = mmap(NULL, 2 * SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *second = first + SIZE;
	pagemap = open("/proc/self/pagemap", O_RDONLY);
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = WP_ASYNC | WP_UNPOPULATED };
	struct uffdio_register tracked = { .range = { (unsigned long)first, SIZE }, .mode = UFFDIO_REGISTER_MODE_WP };
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &tracked))
		return perror("userfaultfd"), 1;
	memset(first, 1, 2 * SIZE);
	printf("before: %d, ", written(first, second, 0));
	int failed = written(first, second + SIZE, WP_MATCHING | CHECK_WPASYNC);
	printf("of both: %s, ", failed < 0 ? strerrorname_np(-failed) : "told");
	printf("after: %d\n", written(first, second, 0));
}
C
saw "pages told as written of 4 that were" "before: 4, of both: EPERM, after: 0" "$("$WORK/scan")"
