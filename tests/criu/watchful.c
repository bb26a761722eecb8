/*
 * watchful: turns switches that only a thread can turn for itself, forbids itself to turn them again, and looks all the time, with
 * two threads, whether they are as they were. Asked by the file /look it writes to /seen how often one was not.
 *
 * Statically linked, so that it runs in any root filesystem.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile long wrong;
static int deny, policy;

static void must(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static int get_policy(void)
{
	int mode = -1;
	return syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0) < 0 ? -1 : mode;
}

static void look(void)
{
	if (personality(0xffffffff) != 0x20000)
		wrong++;
	if (prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0) != deny)
		wrong++;
}

static void *other(void *nothing)
{
	for (;;)
		look();
	return nothing;
}

int main(void)
{
	unsigned long node = 1;
	must(personality(0x20000), "personality");
	/* older kernels have no such thing, and refuse it */
	prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0);
	deny = prctl(66, 0, 0, 0, 0);
	syscall(SYS_set_mempolicy, 3 /* MPOL_INTERLEAVE */, &node, 64);
	policy = get_policy();
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_set_mempolicy, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 65, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
	pthread_t thread;
	must(-pthread_create(&thread, NULL, other, NULL), "pthread_create");
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program), "seccomp");
	for (;;) {
		for (int i = 0; i < 1000; i++) {
			look();
			if (get_policy() != policy)
				wrong++;
		}
		if (unlink("/look") < 0)
			continue;
		int fd = open("/seen.new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
		dprintf(fd, "%ld", wrong);
		close(fd);
		rename("/seen.new", "/seen");
	}
}
