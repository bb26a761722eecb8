/* Numbers and times that the kernel gives to what it makes. */
#include "same.h"
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>

static int fd, fds[2];

static void say_number(int of)
{
	struct stat is;
	must(fstat(of, &is));
	say("%lu ", (unsigned long)is.st_ino);
}

/* Files that are not made in the order in which a restore makes them. */
static void make_tmpfs_file(void)
{
	must(mkdir("/numbered", 0755));
	must(mount("numbered", "/numbered", "tmpfs", 0, NULL));
	for (int i = 0; i < 5; i++)
		close(new_file("/numbered/other", "text"));
	close(new_file("/numbered/file", "text"));
	must(unlink("/numbered/other"));
}

static void show_tmpfs_file(void)
{
	struct stat is;
	must(stat("/numbered/file", &is));
	say("%lu", (unsigned long)is.st_ino);
}

static void show_mount_number(void)
{
	struct statx is;
	must(statx(AT_FDCWD, "/proc", 0, 0x4000 /* STATX_MNT_ID_UNIQUE */, &is));
	say("%llu", (unsigned long long)is.stx_mnt_id);
}

static void make_change(void)
{
	must(mkdir("/changed", 0755));
	must(mount("changed", "/changed", "tmpfs", 0, NULL));
	close(new_file("/changed/file", "text"));
}

static void show_change(void)
{
	struct stat is;
	must(stat("/changed/file", &is));
	say("%ld.%09ld", is.st_ctim.tv_sec, is.st_ctim.tv_nsec);
}

static void make_pipe(void)
{
	must(pipe(fds));
}

static void show_pipe(void)
{
	say_number(fds[0]);
}

static void make_socket(void)
{
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static void show_socket(void)
{
	say_number(fds[0]);
}

static void show_cookie(void)
{
	unsigned long long cookie;
	socklen_t length = sizeof cookie;
	must(getsockopt(fds[0], SOL_SOCKET, 57 /* SO_COOKIE */, &cookie, &length));
	say("%llu", cookie);
}

static void make_memfd(void)
{
	fd = must(memfd_create("numbered", 0));
	must(write(fd, "text", 4));
	struct timespec times[2] = { { 11, 5 }, { 12, 7 } };
	must(futimens(fd, times));
}

static void show_memfd(void)
{
	say_number(fd);
}

static void show_memfd_times(void)
{
	struct stat is;
	must(fstat(fd, &is));
	say("%ld.%ld", is.st_mtim.tv_sec, is.st_mtim.tv_nsec);
}

static void make_children(void)
{
	pid_t pid = must(fork());
	if (!pid) {
		struct rusage used;
		do
			getrusage(RUSAGE_SELF, &used);
		while (used.ru_utime.tv_usec + used.ru_stime.tv_usec < 20000);
		_exit(0);
	}
	must(waitpid(pid, NULL, 0));
}

static void show_children(void)
{
	struct rusage used;
	must(getrusage(RUSAGE_CHILDREN, &used));
	say("%s", used.ru_utime.tv_usec + used.ru_stime.tv_usec ? "some" : "none");
}

/* Memory that was used once. */
static void make_peak(void)
{
	size_t size = 32 << 20;
	char *much = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(much == MAP_FAILED ? -1 : 0);
	memset(much, 1, size);
	must(munmap(much, size));
}

static void show_peak(void)
{
	struct rusage used;
	must(getrusage(RUSAGE_SELF, &used));
	say("%s", used.ru_maxrss > 30 << 10 ? "much" : "little");
}

const struct property numbers[] = {
	{ "tmpfs-file-number", make_tmpfs_file, show_tmpfs_file },
	{ "mount-number", NULL, show_mount_number },
	{ "tmpfs-change-time", make_change, show_change },
	{ "pipe-number", make_pipe, show_pipe },
	{ "socket-number", make_socket, show_socket },
	{ "socket-cookie", make_socket, show_cookie },
	{ "memfd-number", make_memfd, show_memfd },
	{ "memfd-times", make_memfd, show_memfd_times },
	{ "childrens-processor-time", make_children, show_children },
	{ "most-memory-used", make_peak, show_peak },
	{ 0 },
};
