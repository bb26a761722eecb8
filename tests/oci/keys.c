/* keys see: whether the session keyring has the key. keys add PROGRAM...: runs it with that key in the session keyring; keys
 * with PROGRAM...: in one of its own. keys without PROGRAM...: runs it, and whatever it starts, with keyctl(2) denied. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fail(const char *call)
{
	perror(call);
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "see")) {
		long ring = KEY_SPEC_SESSION_KEYRING;
		puts(syscall(SYS_keyctl, KEYCTL_SEARCH, ring, "user", "hiber-test", 0) < 0 ? "hidden" : "seen");
		return 0;
	}
	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "with") || !strcmp(argv[1], "add")) {
		if (argv[1][0] == 'w' && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
			return fail("keyctl");
		if (syscall(SYS_add_key, "user", "hiber-test", "x", 1, KEY_SPEC_SESSION_KEYRING) < 0)
			return fail("add_key");
	} else {
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_keyctl, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
			return fail("prctl");
	}
	execvp(argv[2], argv + 2);
	return fail(argv[2]);
}
