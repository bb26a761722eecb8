/* What a thread has apart from its process, and what processes share. */
#include "same.h"
#include <limits.h>
#include <sys/socket.h>

/* What is done by the second thread alone. */
static int number;

static void leave_directory(void)
{
	must(unshare(CLONE_FS));
	must(chdir("/proc"));
}

static void say_directory(void)
{
	char path[PATH_MAX];
	must(getcwd(path, sizeof path) ? 0 : -1);
	say("%s ", path);
}

static void make_directory(void)
{
	must(chdir("/dev"));
	on_thread(leave_directory);
}

static void show_directory(void)
{
	say_directory();
	on_thread(say_directory);
}

static void leave_descriptors(void)
{
	must(unshare(CLONE_FILES));
	number = must(open("/dev/null", O_RDONLY));
}

static void say_descriptor(void)
{
	say_result(fcntl(number, F_GETFD));
}

static void make_descriptors(void)
{
	on_thread(leave_descriptors);
}

static void show_descriptors(void)
{
	say_descriptor();
	on_thread(say_descriptor);
}

static void leave_network(void)
{
	must(unshare(CLONE_NEWNET));
}

static void leave_names(void)
{
	must(unshare(CLONE_NEWUTS));
}

static void say_is_apart(const char *kind)
{
	char path[64];
	struct stat own, first;
	snprintf(path, sizeof path, "/proc/thread-self/ns/%s", kind);
	must(stat(path, &own));
	snprintf(path, sizeof path, "/proc/1/ns/%s", kind);
	must(stat(path, &first));
	say("%s ", own.st_ino == first.st_ino ? "shared" : "apart");
}

static void say_network(void)
{
	say_is_apart("net");
}

static void say_names(void)
{
	say_is_apart("uts");
}

static void make_network(void)
{
	on_thread(leave_network);
}

static void show_network(void)
{
	say_network();
	on_thread(say_network);
}

static void make_names(void)
{
	on_thread(leave_names);
}

static void show_names(void)
{
	say_names();
	on_thread(say_names);
}

static void become_others(void)
{
	/* without the C library, which would do so in all threads */
	must(syscall(SYS_setresgid, 21, 22, 23));
	must(syscall(SYS_setresuid, 31, 32, 33));
}

static void say_users(void)
{
	uid_t u[3];
	gid_t g[3];
	must(getresuid(u, u + 1, u + 2));
	must(getresgid(g, g + 1, g + 2));
	say("%d %d %d %d %d %d ", u[0], u[1], u[2], g[0], g[1], g[2]);
}

static void make_users(void)
{
	on_thread(become_others);
}

static void show_users(void)
{
	say_users();
	on_thread(say_users);
}

/* A child that shares something with this process, made by clone(2) without a stack of its own, as by vfork(2). */
static volatile struct { int go, done; } *turns;

static pid_t sharing(int flags, void (*each)(void))
{
	turns = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(turns == MAP_FAILED ? -1 : 0);
	pid_t pid = must(syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL));
	if (pid)
		return pid;
	for (;;) {
		while (turns->done == turns->go)
			usleep(1000);
		each();
		turns->done = turns->go;
	}
}

static void next_turn(void)
{
	turns->go++;
	while (turns->done != turns->go)
		usleep(1000);
}

static void go_there(void)
{
	static int at;
	must(chdir(at++ % 2 ? "/dev" : "/proc"));
}

static void make_shared_directory(void)
{
	must(chdir("/dev"));
	sharing(CLONE_FS, go_there);
}

static void show_shared_directory(void)
{
	for (int i = 0; i < 2; i++) {
		next_turn();
		say_directory();
	}
}

static void open_or_close(void)
{
	static int at;
	if (at++ % 2)
		close(700);
	else
		must(dup2(0, 700));
}

static void make_shared_descriptors(void)
{
	int null = must(open("/dev/null", O_RDONLY));
	must(dup2(null, 0));
	sharing(CLONE_FILES, open_or_close);
}

static void show_shared_descriptors(void)
{
	for (int i = 0; i < 2; i++) {
		next_turn();
		say_result(fcntl(700, F_GETFD));
	}
}

static int shares_memory(void *unused)
{
	(void)unused;
	forever();
}

static void make_shared_memory(void)
{
	static char stack[1 << 16];
	must(clone(shares_memory, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL));
}

static void show_shared_memory(void)
{
	say("there");
}

/* A child that was stopped by another signal than SIGSTOP, of which its parent has not heard yet. */
static pid_t stopped;

static void in_own_group(void)
{
	/* else nobody could wake it, and SIGTSTP would not stop it */
	must(setpgid(0, 0));
	kill(getpid(), SIGTSTP);
}

static void make_stop(void)
{
	siginfo_t info;
	stopped = child(in_own_group);
	must(waitid(P_PID, stopped, &info, WSTOPPED | WNOWAIT));
}

static void show_stop(void)
{
	siginfo_t info = { 0 };
	must(waitid(P_PID, stopped, &info, WSTOPPED | WNOWAIT | WNOHANG));
	say("code %d status %d", info.si_code, info.si_status);
}

/* One of whose stop its parent has heard. */
static void make_stop_told(void)
{
	siginfo_t info;
	stopped = child(forever);
	must(kill(stopped, SIGSTOP));
	must(waitid(P_PID, stopped, &info, WSTOPPED));
}

/* One that was continued, of which its parent has not heard. */
static void make_continued(void)
{
	siginfo_t info;
	make_stop_told();
	must(kill(stopped, SIGCONT));
	must(waitid(P_PID, stopped, &info, WCONTINUED | WNOWAIT));
}

static void show_continued(void)
{
	siginfo_t info = { 0 };
	must(waitid(P_PID, stopped, &info, WCONTINUED | WNOWAIT | WNOHANG));
	say("code %d status %d", info.si_code, info.si_status);
}

static void make_odd_name(void)
{
	must(prctl(PR_SET_NAME, "a) R 1 (\nb"));
}

static void show_odd_name(void)
{
	char name[16];
	must(prctl(PR_GET_NAME, name));
	for (const char *c = name; *c; c++)
		say("%02x", *c);
}

/* Huge pages are disabled but where they are advised (Linux 6.18). */
static void make_except_advised(void)
{
	must(prctl(PR_SET_THP_DISABLE, 1, 2 /* PR_THP_DISABLE_EXCEPT_ADVISED */, 0, 0));
}

static void show_except_advised(void)
{
	say_result(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
}

/* The buckets of a process's futexes (Linux 6.16). */
static void make_futexes(void)
{
	must(prctl(78 /* PR_FUTEX_HASH */, 1 /* SET_SLOTS */, 32, 0, 0));
}

static void show_futexes(void)
{
	say_result(prctl(78, 2 /* GET_SLOTS */, 0, 0, 0));
}

/* A key of the process's own keyring. */
static void make_key(void)
{
	must(syscall(SYS_add_key, "user", "same", "secret", 6, -2 /* KEY_SPEC_PROCESS_KEYRING */));
}

static void show_key(void)
{
	say_result(syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, -2, "user", "same", 0) > 0 ? 1 : -1);
}

const struct property threads[] = {
	{ "thread-working-directory", make_directory, show_directory },
	{ "thread-descriptors", make_descriptors, show_descriptors },
	{ "thread-network-namespace", make_network, show_network },
	{ "thread-uts-namespace", make_names, show_names },
	{ "thread-users-and-groups", make_users, show_users },
	{ "shared-working-directory", make_shared_directory, show_shared_directory },
	{ "shared-descriptors", make_shared_descriptors, show_shared_descriptors },
	{ "memory-of-two-processes", make_shared_memory, show_shared_memory },
	{ "stop-untold", make_stop, show_stop },
	{ "stop-told", make_stop_told, show_stop },
	{ "continuation-untold", make_continued, show_continued },
	{ "odd-name", make_odd_name, show_odd_name },
	{ "huge-pages-but-where-advised", make_except_advised, show_except_advised },
	{ "futex-buckets", make_futexes, show_futexes },
	{ "process-keyring", make_key, show_key },
	{ 0 },
};
