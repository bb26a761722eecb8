#!/usr/bin/env bash
# Of memory that a userfaultfd has yet to bring, /proc/PID/mem says EIO at once; process_vm_readv(2) waits until it is there.
#
# Guess: both ways of reading another process's memory go through the same lookup of pages, and so both wait for the userfaultfd's
# owner, or both fail (the man pages say of neither that they wait).
# Seen: process_vm_readv(2) lets the fault wait and returns the page that is brought. /proc/PID/mem looks without waiting: read(2)
# fails with EIO, as for an address at which nothing is mapped, while the program itself would get its page.
# Where hiber's users meet it: nowhere; hiber reads what a restore has not brought yet by process_vm_readv(2)
# (crates/memory/src/remote.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'with Linux %s\n' "$(uname -r)"

compiled late <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
enum { SIZE = 4096 };
static char page[SIZE], *area;
int main(void)
{
	char answer;
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register missing = { .range = { (unsigned long)area, SIZE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &missing))
		return perror("userfaultfd"), 1;
	pid_t owner = getpid(), reader;
	int said[2];
	if (pipe(said) || (reader = fork()) < 0)
		return 1;
	if (reader == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/mem", owner);
		int mem = open(path, O_RDONLY);
		int failed = pread(mem, &answer, 1, (off_t)area) < 0 ? errno : 0;
		dprintf(said[1], "mem: %s, ", failed ? strerrorname_np(failed) : "read");
		struct iovec here = { &answer, 1 }, there = { area, 1 };
		alarm(20);
		ssize_t got = process_vm_readv(owner, &here, 1, &there, 1, 0);
		dprintf(said[1], "readv: %s", got == 1 && answer == 'x' ? "waited" : "failed");
		_exit(0);
	}
	struct uffd_msg message;
	if (read(faults, &message, sizeof message) != sizeof message)
		return 1;
	memset(page, 'x', SIZE);
	struct uffdio_copy copy = { .dst = (unsigned long)area, .src = (unsigned long)page, .len = SIZE };
	ioctl(faults, UFFDIO_COPY, &copy);
	waitpid(reader, NULL, 0);
	close(said[1]);
	for (char c; read(said[0], &c, 1) == 1;)
		putchar(c);
	putchar('\n');
}
C
saw "a missing page, asked for by another process" "mem: EIO, readv: waited" "$("$WORK/late")"
