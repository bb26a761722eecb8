/* Namespaces and what they say. */
#include "same.h"
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <time.h>

static pid_t the_child;
static int *words;

/* Which namespaces are those of the container's first process. */
static void show_kinds(void)
{
	static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts" };
	for (size_t i = 0; i < COUNT(kinds); i++) {
		char path[64];
		struct stat own, first;
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		int is = stat(path, &own);
		snprintf(path, sizeof path, "/proc/1/ns/%s", kinds[i]);
		if (is || stat(path, &first))
			continue;
		say("%s %s ", kinds[i], own.st_ino == first.st_ino ? "shared" : "apart");
	}
}

static void make_names(void)
{
	must(sethostname("renamed", 7));
	must(setdomainname("its.domain", 10));
}

static void show_names(void)
{
	struct utsname is;
	must(uname(&is));
	say("%s %s", is.nodename, is.domainname);
}

static void show_users(void)
{
	say_file("/proc/self/uid_map");
	say_file("/proc/self/gid_map");
	say_file("/proc/self/setgroups");
}

/* Sysctls that each pid namespace has for itself. */
static void make_noexec(void)
{
	write_file("/proc/sys/vm/memfd_noexec", "1");
}

static void show_noexec(void)
{
	say_file("/proc/sys/vm/memfd_noexec");
}

static void make_highest(void)
{
	write_file("/proc/sys/kernel/pid_max", "5000");
}

static void show_highest(void)
{
	say_file("/proc/sys/kernel/pid_max");
}

static void show_offsets(void)
{
	say_file("/proc/self/timens_offsets");
}

static void show_boot_time(void)
{
	struct timespec up;
	must(clock_gettime(CLOCK_BOOTTIME, &up));
	/* a million seconds are set, to which those of the machine come */
	say("%s", up.tv_sec > 1000000 && up.tv_sec < 1500000 ? "as set" : "another");
}

/* A mount namespace of the process's own, with a mount that nobody else has. */
static void make_mount_namespace(void)
{
	must(mkdir("/own-mounts", 0755));
	must(unshare(CLONE_NEWNS));
	must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	must(mount("own", "/own-mounts", "tmpfs", MS_NOSUID, "size=1m,mode=750"));
	close(new_file("/own-mounts/file", "in a tmpfs of one's own"));
}

static void show_mount_namespace(void)
{
	struct stat own, first;
	must(stat("/proc/self/ns/mnt", &own));
	must(stat("/proc/1/ns/mnt", &first));
	say("%s ", own.st_ino == first.st_ino ? "shared" : "apart");
	say_file("/own-mounts/file");
	say_result(access("/proc/1/root/own-mounts/file", F_OK));
}

static void make_network_namespace(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	must(unshare(CLONE_NEWNET));
	int fd = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
	write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "99");
}

static void show_network_namespace(void)
{
	struct stat own, first;
	struct ifreq request = { .ifr_name = "lo" };
	must(stat("/proc/self/ns/net", &own));
	must(stat("/proc/1/ns/net", &first));
	int fd = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(ioctl(fd, SIOCGIFFLAGS, &request));
	close(fd);
	say("%s %s ", own.st_ino == first.st_ino ? "shared" : "apart", request.ifr_flags & IFF_UP ? "up" : "down");
	say_file("/proc/sys/net/ipv4/ip_unprivileged_port_start");
}

/* A child in a namespace of its own. */
static void in_new(int flag)
{
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	the_child = must(syscall(SYS_clone, flag | SIGCHLD, 0, 0, 0, 0));
	if (the_child == 0)
		forever();
}

#define NEW(name, flag) static void name(void) { in_new(flag); }
NEW(make_process_namespace, CLONE_NEWPID)
NEW(make_name_namespace, CLONE_NEWUTS)
NEW(make_ipc_namespace, CLONE_NEWIPC)
NEW(make_user_namespace, CLONE_NEWUSER)
NEW(make_cgroup_namespace, CLONE_NEWCGROUP)

static void make_time_namespace(void)
{
	must(unshare(CLONE_NEWTIME));
	the_child = child(forever);
}

static void show_child(void)
{
	say_result(kill(the_child, 0));
}

const struct property namespaces[] = {
	{ "shared-namespaces", NULL, show_kinds },
	{ "host-and-domain-names", make_names, show_names },
	{ "user-maps", NULL, show_users },
	{ "time-offsets", NULL, show_offsets },
	{ "time-since-boot", NULL, show_boot_time },
	{ "nested-mount-namespace", make_mount_namespace, show_mount_namespace },
	{ "nested-network-namespace", make_network_namespace, show_network_namespace },
	{ "pid-namespace-memfd-noexec", make_noexec, show_noexec },
	{ "pid-namespace-highest-number", make_highest, show_highest },
	{ "nested-pid-namespace", make_process_namespace, show_child },
	{ "nested-uts-namespace", make_name_namespace, show_child },
	{ "nested-ipc-namespace", make_ipc_namespace, show_child },
	{ "nested-user-namespace", make_user_namespace, show_child },
	{ "nested-time-namespace", make_time_namespace, show_child },
	{ "nested-cgroup-namespace", make_cgroup_namespace, show_child },
	{ 0 },
};
