#!/usr/bin/env bash
# The status of a thread that has switched speculative store bypass off until its next execve(2) says that the thread is vulnerable.
#
# Guess: Speculation_Store_Bypass in /proc/PID/status says `thread mitigated` for every thread whose speculation is off; that execve(2)
# ends the restraint is told by prctl(2) alone, if at all.
# Seen: after PR_SPEC_DISABLE it is `thread mitigated`, and after PR_SPEC_DISABLE_NOEXEC `vulnerable`, the word for machines on which
# nothing helps, while PR_GET_SPECULATION_CTRL says that speculation is off (0x11). The word has no `thread` in front, as none of the
# words for threads is meant.
# Where hiber's users meet it: a checkpoint reads the restraints of all threads from outside. On a machine with the controls that word means
# this one restraint (crates/runtime/src/checkpoint/kept/speculation.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'with Linux %s\n' "$(uname -r)"
grep -q '^Speculation_Store_Bypass:.thread ' /proc/self/status ||
    die "needs a processor whose speculative store bypass each thread can switch off"

compiled restrained <<'C'
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
int main(void)
{
	static const unsigned long how[] = { PR_SPEC_DISABLE, PR_SPEC_DISABLE_NOEXEC };
	static const char name[] = "Speculation_Store_Bypass:\t";
	char line[256];
	for (int i = 0; i < 2; i++) {
		if (prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, how[i], 0, 0))
			return perror("prctl"), 1;
		printf("%#x", prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0));
		FILE *status = fopen("/proc/self/status", "r");
		while (fgets(line, sizeof line, status))
			if (!strncmp(line, name, sizeof name - 1))
				printf(" %s", line + sizeof name - 1);
		fclose(status);
	}
}
C
seen=$("$WORK/restrained")
saw 'off for good' '0x5 thread mitigated' "$(sed -n 1p <<<"$seen")"
saw 'off until execve(2)' '0x11 vulnerable' "$(sed -n 2p <<<"$seen")"
