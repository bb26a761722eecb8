#!/usr/bin/env bash
# read(2) of a userfaultfd tells of a thread that waits before it tells of a fork that began long before.
#
# Guess: messages come in the order in which things happened, as from inotify or a netlink socket. So a page that is brought for the first
# message is in the memory that a fork of the second one copies, or the other way round.
# Seen: the kernel keeps two queues, and empties that of waiting threads first. One read with room for both returns UFFD_EVENT_PAGEFAULT,
# then UFFD_EVENT_FORK, though the thread touched its page when the fork had already copied the memory and waited for its reader. Who
# serves the first message and then notes that the child lacks what its parent lacks has a child that lacks that page for ever.
# Where hiber's users would have met it: a program that forks while `restore --background` brings its memory saw zeros in the child, once
# in some hundred forks under load. The page daemon takes note of all events of a read before it brings anything
# (crates/memory/src/page_daemon/space.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'with Linux %s\n' "$(uname -r)"

compiled order <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
enum { SIZE = 4096 };
static char page[SIZE], *area;
static void *forks(void *nothing)
{
	/* that of glibc would hold locks meanwhile */
	pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (child == 0)
		syscall(SYS_exit, 0);
	waitpid(child, NULL, 0);
	return nothing;
}
static void *touches(void *nothing)
{
	return *(volatile char *)area == 'x' ? area : nothing;
}
int main(void)
{
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK };
	area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register missing = { .range = { (unsigned long)area, SIZE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &missing))
		return perror("userfaultfd"), 1;
	pthread_t first, second;
	struct pollfd ready = { .fd = faults, .events = POLLIN };
	pthread_create(&first, NULL, forks, NULL);
	/* the fork has copied the memory, and waits until it has been told */
	if (poll(&ready, 1, 10000) != 1)
		return fputs("no fork was told\n", stderr), 1;
	pthread_create(&second, NULL, touches, NULL);
	sleep(1);
	struct uffd_msg messages[4];
	ssize_t got = read(faults, messages, sizeof messages);
	for (ssize_t i = 0; i * (ssize_t)sizeof *messages < got; i++)
		printf("%s%s", i ? ", " : "", messages[i].event == UFFD_EVENT_FORK ? "fork" : "fault");
	putchar('\n');
	memset(page, 'x', SIZE);
	struct uffdio_copy copy = { .dst = (unsigned long)area, .src = (unsigned long)page, .len = SIZE };
	for (int tries = 0; ioctl(faults, UFFDIO_COPY, &copy) && tries < 1000; tries++)
		usleep(1000), copy.copy = 0;
	pthread_join(second, NULL);
	pthread_join(first, NULL);
	return 0;
}
C
saw "a fork that waits, then a page that is touched, in one read" "fault, fork" "$("$WORK/order")"
