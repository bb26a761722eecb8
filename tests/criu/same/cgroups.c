/* The container's cgroup, and those below. */
#include "same.h"

/* The first of two files that is there: cgroup v2's, and the controller's of v1. */
static void say_value(const char *v2, const char *v1)
{
	char path[128];
	snprintf(path, sizeof path, "/sys/fs/cgroup/%s", v2);
	if (access(path, F_OK))
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s", v1);
	if (access(path, F_OK))
		snprintf(path, sizeof path, "/sys/fs/cgroup/unified/%s", v2);
	say_file(path);
}

static void show_place(void)
{
	say_file("/proc/self/cgroup");
}

static void show_processes(void)
{
	say_value("pids.max", "pids/pids.max");
}

static void show_memory(void)
{
	say_value("memory.max", "memory/memory.limit_in_bytes");
}

static void show_weight(void)
{
	say_value("cpu.weight", "cpu/cpu.shares");
}

static void show_quota(void)
{
	say_value("cpu.max", "cpu/cpu.cfs_quota_us");
}

/* Rules for devices are those of config.json. */
static void show_device(void)
{
	unlink("/forbidden");
	say_result(mknod("/forbidden", S_IFCHR | 0600, 1 << 8 | 7));
	int fd = open("/forbidden", O_RDWR | O_CLOEXEC);
	say_result(fd < 0 ? -1 : 0);
	if (fd >= 0)
		close(fd);
}

/* A cgroup below the container's, on v2, with this process. */
static void make_nested(void)
{
	must(mkdir("/sys/fs/cgroup/nested", 0755));
	write_file("/sys/fs/cgroup/nested/cgroup.procs", "0");
}

static void make_limited(void)
{
	must(mkdir("/sys/fs/cgroup/limited", 0755));
	write_file("/sys/fs/cgroup/limited/cgroup.max.descendants", "5");
	write_file("/sys/fs/cgroup/limited/cgroup.max.depth", "4");
	write_file("/sys/fs/cgroup/limited/cgroup.procs", "0");
}

static void show_limited(void)
{
	say_file("/sys/fs/cgroup/limited/cgroup.max.descendants");
	say_file("/sys/fs/cgroup/limited/cgroup.max.depth");
}

static void make_threaded(void)
{
	must(mkdir("/sys/fs/cgroup/domain", 0755));
	write_file("/sys/fs/cgroup/domain/cgroup.procs", "0");
	must(mkdir("/sys/fs/cgroup/domain/threads", 0755));
	write_file("/sys/fs/cgroup/domain/threads/cgroup.type", "threaded");
	write_file("/sys/fs/cgroup/domain/threads/cgroup.threads", "0");
}

static void show_threaded(void)
{
	show_place();
	say_file("/sys/fs/cgroup/domain/threads/cgroup.type");
}

static void make_empty(void)
{
	must(mkdir("/sys/fs/cgroup/empty", 0755));
}

static void show_empty(void)
{
	say_result(access("/sys/fs/cgroup/empty", F_OK));
}

const struct property cgroups[] = {
	{ "cgroup", NULL, show_place },
	{ "limit-of-processes", NULL, show_processes },
	{ "memory-limit", NULL, show_memory },
	{ "processor-weight", NULL, show_weight },
	{ "processor-quota", NULL, show_quota },
	{ "device-rules", NULL, show_device },
	{ "nested-cgroup", make_nested, show_place },
	{ "nested-cgroup-limits", make_limited, show_limited },
	{ "threaded-cgroup", make_threaded, show_threaded },
	{ "empty-cgroup", make_empty, show_empty },
	{ 0 },
};
