/* What a process or a thread is to the kernel: credentials, scheduling, names, limits. */
#include "same.h"

static void make_umask(void)
{
	umask(027);
}

static void show_umask(void)
{
	mode_t mask = umask(0);
	umask(mask);
	say("%03o", mask);
}

static void set_affinity(void)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	must(sched_setaffinity(0, sizeof set, &set));
}

static void show_affinity(void)
{
	say_lines("/proc/thread-self/status", "Cpus_allowed_list:", NULL);
}

static void make_thread_affinity(void)
{
	on_thread(set_affinity);
}

static void show_thread_affinity(void)
{
	show_affinity();
	on_thread(show_affinity);
}

static void make_io_priority(void)
{
	must(syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, 2 << 13 /* best effort */ | 7));
}

static void show_io_priority(void)
{
	say("%#lx", must(syscall(SYS_ioprio_get, 1, 0)));
}

static void make_mdwe(void)
{
	must(prctl(65 /* PR_SET_MDWE */, 1 /* PR_MDWE_REFUSE_EXEC_GAIN */, 0, 0, 0));
}

static void show_mdwe(void)
{
	say("%d", prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0));
}

static void show_limits(void)
{
	say_file("/proc/self/limits");
}

const struct property tasks[] = {
	{ "umask", make_umask, show_umask },
	{ "affinity", set_affinity, show_affinity },
	{ "thread-affinity", make_thread_affinity, show_thread_affinity },
	{ "io-priority", make_io_priority, show_io_priority },
	{ "memory-deny-write-execute", make_mdwe, show_mdwe },
	{ "limits-of-config", NULL, show_limits },
	{ 0 },
};
