/* Descriptors of rarer kinds, and what is rarely asked of others. */
#include "same.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

static int fds[4];

static void make_exclusive(void)
{
	struct epoll_event event = { EPOLLIN | EPOLLEXCLUSIVE, { .u64 = 5 } };
	fds[0] = must(epoll_create1(0));
	fds[1] = must(eventfd(0, 0));
	must(epoll_ctl(fds[0], EPOLL_CTL_ADD, fds[1], &event));
}

static void show_exclusive(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[0]);
	char *text = file(path);
	char *events = strstr(text, "events:");
	say("%.18s", events ? events : "none");
	free(text);
}

/* The number that the next watch gets: numbers are not used twice. */
static void make_numbers(void)
{
	fds[0] = must(inotify_init1(IN_NONBLOCK));
	must(inotify_add_watch(fds[0], "/dev", IN_CREATE));
	for (int i = 0; i < 3; i++)
		must(inotify_rm_watch(fds[0], must(inotify_add_watch(fds[0], "/proc", IN_CREATE))));
	char events[4096];
	must(read(fds[0], events, sizeof events));
}

static void show_numbers(void)
{
	char events[4096];
	int watch = must(inotify_add_watch(fds[0], "/proc", IN_CREATE));
	say("%s", watch > 4 ? "a new one" : "one that was used");
	must(inotify_rm_watch(fds[0], watch));
	must(read(fds[0], events, sizeof events));
}

/* A watch that ends with its first event, and one that leaves removed files out. */
static void make_once(void)
{
	must(mkdir("/watched-once", 0755));
	fds[0] = must(inotify_init1(IN_NONBLOCK));
	must(inotify_add_watch(fds[0], "/watched-once", IN_CREATE | IN_ONESHOT | IN_EXCL_UNLINK));
}

static void show_once(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[0]);
	char *text = file(path), *mask = strstr(text, " mask:");
	say("%.14s", mask ? mask : "none");
	free(text);
}

static void make_symbolic(void)
{
	must(symlink("/dev/null", "/symbolic"));
	fds[0] = must(open("/symbolic", O_PATH | O_NOFOLLOW));
}

static void show_symbolic(void)
{
	char target[64] = "";
	struct stat is;
	must(fstat(fds[0], &is));
	say("%o ", is.st_mode & S_IFMT);
	say_result(readlinkat(fds[0], "", target, sizeof target - 1));
	say("%s", target);
}

static void make_removed_fifo(void)
{
	must(mkfifo("/removed-fifo", 0640));
	fds[0] = must(open("/removed-fifo", O_RDWR));
	must(unlink("/removed-fifo"));
	must(write(fds[0], "text", 4));
}

static void show_removed_fifo(void)
{
	struct stat is;
	int bytes = 0;
	must(fstat(fds[0], &is));
	ioctl(fds[0], FIONREAD, &bytes);
	say("%o %ld %d", is.st_mode, (long)is.st_nlink, bytes);
}

/* A file of O_TMPFILE can get a name, or not with O_EXCL. */
static void make_nameless(void)
{
	fds[0] = must(open("/", O_TMPFILE | O_RDWR, 0600));
	fds[1] = must(open("/", O_TMPFILE | O_RDWR | O_EXCL, 0600));
}

static void say_named(int fd)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	say_result(linkat(AT_FDCWD, path, AT_FDCWD, "/named-at-last", AT_SYMLINK_FOLLOW));
	unlink("/named-at-last");
}

static void show_nameless(void)
{
	say_named(fds[0]);
}

static void show_excluded(void)
{
	say_named(fds[1]);
}

static void make_output(void)
{
	fds[0] = must(posix_openpt(O_RDWR | O_NOCTTY));
	must(grantpt(fds[0]));
	must(unlockpt(fds[0]));
	fds[1] = must(open(ptsname(fds[0]), O_RDWR | O_NOCTTY | O_NONBLOCK));
	must(tcflow(fds[1], TCOOFF));
}

static void show_output(void)
{
	say_result(write(fds[1], "x", 1));
}

static void make_open_flags(void)
{
	close(new_file("/open-flags", "text"));
	fds[0] = must(open("/open-flags", O_RDWR | O_DSYNC | O_NOATIME | O_APPEND | O_NONBLOCK));
	fds[1] = must(open("/open-flags", O_WRONLY | O_SYNC));
}

static void show_open_flags(void)
{
	say("%o %o", fcntl(fds[0], F_GETFL), fcntl(fds[1], F_GETFL));
}

static volatile int word = 4711;

static void make_own_memory(void)
{
	fds[0] = must(open("/proc/self/mem", O_RDONLY));
}

static void show_own_memory(void)
{
	int is = 0;
	say_result(pread(fds[0], &is, sizeof is, (off_t)&word));
	say("%d", is);
}

static void make_secret(void)
{
	fds[0] = must(syscall(SYS_memfd_secret, 0));
	must(ftruncate(fds[0], 4096));
	char *secret = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	must(secret == MAP_FAILED ? -1 : 0);
	*secret = 's';
}

static void make_ruleset(void)
{
	unsigned long long make_fifo = 1 << 10;
	fds[0] = must(syscall(444 /* landlock_create_ruleset */, &make_fifo, sizeof make_fifo, 0));
}

static void show_there(void)
{
	say_result(fcntl(fds[0], F_GETFD));
}

static const char *const kinds[] = { "cgroup", "ipc", "mnt", "pid", "user", "uts", "time_for_children" };
static int namespaces_of[COUNT(kinds)];

static void make_namespace_files(void)
{
	for (size_t i = 0; i < COUNT(kinds); i++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		namespaces_of[i] = must(open(path, O_RDONLY));
	}
}

static void show_namespace_files(void)
{
	for (size_t i = 0; i < COUNT(kinds); i++) {
		char path[64];
		struct stat is, own;
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		must(fstat(namespaces_of[i], &is));
		must(stat(path, &own));
		say("%s %s ", kinds[i], is.st_ino == own.st_ino ? "own" : "another");
	}
}

static void make_pidfds(void)
{
	pid_t pid = child(forever);
	fds[0] = must(syscall(SYS_pidfd_open, pid, O_NONBLOCK /* PIDFD_NONBLOCK */));
}

static void show_pidfds(void)
{
	say("%o", fcntl(fds[0], F_GETFL));
}

static pid_t thread;

static void say_thread(void)
{
	thread = syscall(SYS_gettid);
}

static void make_thread_pidfd(void)
{
	on_thread(say_thread);
	fds[0] = must(syscall(SYS_pidfd_open, thread, O_EXCL /* PIDFD_THREAD */));
}

static void show_thread_pidfd(void)
{
	say("%o ", fcntl(fds[0], F_GETFL));
	say_result(syscall(SYS_pidfd_send_signal, fds[0], 0, NULL, 0));
}

/* A descriptor of a character device that does more than null. */
static void make_devices(void)
{
	static const char *const names[] = { "/dev/full", "/dev/urandom", "/dev/zero", "/dev/tty" };
	for (int i = 0; i < 3; i++)
		fds[i] = must(open(names[i], O_RDWR));
}

static void show_devices(void)
{
	for (int i = 0; i < 3; i++)
		say_result(write(fds[i], "x", 1));
}

/* A connection that was refused, of which the program has not heard. */
static void make_tcp_error(void)
{
	struct sockaddr_in nobody = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9) };
	fds[0] = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	if (connect(fds[0], (void *)&nobody, sizeof nobody) && errno != EINPROGRESS)
		fail("connect");
	must(poll(&(struct pollfd){ fds[0], 0, 0 }, 1, 2000));
}

static void show_tcp_error(void)
{
	struct pollfd error = { fds[0], 0, 0 };
	must(poll(&error, 1, 0));
	say("%s", error.revents & POLLERR ? "error" : "none");
}

/* A wish to be told of pressure (Documentation/accounting/psi.rst): poll(2) tells of an error where there is none. */
static void make_pressure(void)
{
	static const char trigger[] = "some 1900000 2000000";
	fds[0] = must(open("/proc/pressure/memory", O_RDWR | O_NONBLOCK));
	must(write(fds[0], trigger, sizeof trigger));
}

static void show_pressure(void)
{
	struct pollfd told = { fds[0], POLLPRI, 0 };
	must(poll(&told, 1, 0));
	say("%s", told.revents & POLLERR ? "error" : "none");
}

const struct property descriptors[] = {
	{ "epoll-exclusive", make_exclusive, show_exclusive },
	{ "inotify-next-number", make_numbers, show_numbers },
	{ "inotify-once", make_once, show_once },
	{ "path-of-symbolic-link", make_symbolic, show_symbolic },
	{ "removed-fifo", make_removed_fifo, show_removed_fifo },
	{ "nameless-file-named", make_nameless, show_nameless },
	{ "nameless-file-never-named", make_nameless, show_excluded },
	{ "terminal-output-stopped", make_output, show_output },
	{ "open-flags", make_open_flags, show_open_flags },
	{ "own-memory-file", make_own_memory, show_own_memory },
	{ "secret-memory", make_secret, show_there },
	{ "landlock-ruleset", make_ruleset, show_there },
	{ "namespace-files", make_namespace_files, show_namespace_files },
	{ "pidfd-nonblocking", make_pidfds, show_pidfds },
	{ "pidfd-of-thread", make_thread_pidfd, show_thread_pidfd },
	{ "tcp-error-untold", make_tcp_error, show_tcp_error },
	{ "pressure-trigger", make_pressure, show_pressure },
	{ "character-devices", make_devices, show_devices },
	{ 0 },
};
