/* Rarer areas of memory, processes, timers, watches and mounts. */
#include "same.h"
#include <linux/seccomp.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

static int fds[2];
static char *at;
static pid_t other;

#define PAGE 4096

static void map(size_t pages, int flags, int fd)
{
	at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	must(at == MAP_FAILED ? -1 : 0);
}

/* Of shared memory, the first page was given up, and the area is longer than the memory. */
static void make_cut(void)
{
	map(4, MAP_SHARED | MAP_ANONYMOUS, -1);
	strcpy(at + 2 * PAGE, "third");
	must(munmap(at, PAGE));
	at = mremap(at + PAGE, 3 * PAGE, 5 * PAGE, MREMAP_MAYMOVE);
	must(at == MAP_FAILED ? -1 : 0);
}

static void show_cut(void)
{
	struct { void *base; size_t length; } here = { (char[1]){ 0 }, 1 }, there = { at + 3 * PAGE, 1 };
	say("%s ", at + PAGE);
	say_result(syscall(SYS_process_vm_readv, getpid(), &here, 1, &there, 1, 0));
}

static void make_read_only(void)
{
	close(new_file("/read-only-file", "text"));
	fds[0] = must(open("/read-only-file", O_RDONLY));
	at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fds[0], 0);
	must(at == MAP_FAILED ? -1 : 0);
	close(fds[0]);
}

static void show_read_only(void)
{
	say("%.4s ", at);
	say_result(mprotect(at, PAGE, PROT_READ | PROT_WRITE));
}

static void make_reordered(void)
{
	fds[0] = must(memfd_create("reordered", 0));
	must(ftruncate(fds[0], 3 * PAGE));
	map(3, MAP_SHARED, fds[0]);
	for (int i = 0; i < 3; i++)
		at[i * PAGE] = 'a' + i;
	must(syscall(SYS_remap_file_pages, at, PAGE, 0, 2, 0));
}

static void show_reordered(void)
{
	say("%c%c%c", at[0], at[PAGE], at[2 * PAGE]);
}

static void make_private_memfd(void)
{
	fds[0] = must(memfd_create("private", 0));
	must(ftruncate(fds[0], 2 * PAGE));
	must(pwrite(fds[0], "file", 4, PAGE));
	map(2, MAP_PRIVATE, fds[0]);
	strcpy(at, "own");
	close(fds[0]);
}

static void show_private_memfd(void)
{
	say("%s %.4s", at, at + PAGE);
}

/* System V memory of which only the middle is left, and which may only be read. */
static void make_segment(void)
{
	int id = must(shmget(IPC_PRIVATE, 3 * PAGE, 0600));
	char *all = shmat(id, NULL, 0);
	strcpy(all + PAGE, "middle");
	at = shmat(id, NULL, SHM_RDONLY);
	must(shmdt(all));
	must(munmap(at, PAGE));
	must(munmap(at + 2 * PAGE, PAGE));
	at += PAGE;
}

static void show_segment(void)
{
	say("%s ", at);
	say_result(mprotect(at, PAGE, PROT_READ | PROT_WRITE));
}

static void make_huge(void)
{
	at = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	must(at == MAP_FAILED ? -1 : 0);
	strcpy(at, "huge");
}

static void say_area(void)
{
	char *text = file("/proc/self/smaps"), start[32], *area, *flags;
	snprintf(start, sizeof start, "%lx-", (long)at);
	area = strstr(text, start);
	flags = area ? strstr(area, "VmFlags:") : NULL;
	say("%.*s", flags ? (int)strcspn(flags, "\n") : 0, flags);
	free(text);
}

static void show_huge(void)
{
	say("%s ", at);
	say_area();
}

static void make_huge_memfd(void)
{
	fds[0] = must(memfd_create("huge", MFD_HUGETLB));
	must(ftruncate(fds[0], 2 << 20));
	at = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	must(at == MAP_FAILED ? -1 : 0);
	strcpy(at, "huge");
}

static void show_huge_memfd(void)
{
	struct stat is;
	must(fstat(fds[0], &is));
	say("%s %ld %ld ", at, (long)is.st_size, (long)is.st_blksize);
	say_area();
}

/* Processes. */

static void be_strict(void)
{
	must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	char byte;
	syscall(SYS_read, fds[0], &byte, 1);
	for (;;)
		;
}

static void make_strict(void)
{
	must(pipe(fds));
	other = child(be_strict);
	usleep(100000);
}

static void say_status(const char *line)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/status", other);
	say_lines(path, line, NULL);
}

static void show_strict(void)
{
	say_status("Seccomp:");
}

/* A group and a session whose leaders are gone. */
static void leave_session(void)
{
	must(setsid());
	pid_t pid = must(fork());
	if (pid)
		_exit(0);
	must(write(fds[1], &(pid_t){ getpid() }, sizeof pid));
	forever();
}

static void make_leaderless(void)
{
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(pipe(fds));
	pid_t leader = child(leave_session);
	must(read(fds[0], &other, sizeof other));
	must(waitpid(leader, NULL, 0));
}

static void show_leaderless(void)
{
	say("%d %d %d", getsid(other), getpgid(other), other);
}

static void leave_group(void)
{
	must(setpgid(0, 0));
	pid_t pid = must(fork());
	if (pid)
		_exit(0);
	must(write(fds[1], &(pid_t){ getpid() }, sizeof pid));
	forever();
}

static void make_groupless(void)
{
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(pipe(fds));
	pid_t leader = child(leave_group);
	must(read(fds[0], &other, sizeof other));
	must(waitpid(leader, NULL, 0));
}

static void say_death_signal(void)
{
	int number = 0;
	must(prctl(PR_GET_PDEATHSIG, &number));
	say("%d ", number);
}

static void set_death_signal(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGUSR2));
}

static void make_death_signal(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGUSR1));
	on_thread(set_death_signal);
}

static void show_death_signal(void)
{
	say_death_signal();
	on_thread(say_death_signal);
}

static void set_stack(void)
{
	static char place[16384];
	must(sigaltstack(&(stack_t){ .ss_sp = place, .ss_size = sizeof place }, NULL));
}

static void say_stack(void)
{
	stack_t is;
	must(sigaltstack(NULL, &is));
	say("%p %zu %d ", is.ss_sp, is.ss_size, is.ss_flags);
}

static void make_stacks(void)
{
	on_thread(set_stack);
}

static void show_stacks(void)
{
	say_stack();
	on_thread(say_stack);
}

static void make_flusher(void)
{
	must(prctl(57 /* PR_SET_IO_FLUSHER */, 1, 0, 0, 0));
}

static void show_flusher(void)
{
	say_result(prctl(58 /* PR_GET_IO_FLUSHER */, 0, 0, 0, 0));
}

static void make_core(void)
{
	must(prctl(62 /* PR_SCHED_CORE */, 1 /* CREATE */, 0, 0, 0));
}

static void show_core(void)
{
	unsigned long long cookie = 0;
	must(prctl(62, 0 /* GET */, 0, 0, &cookie));
	say("%s", cookie ? "apart" : "with others");
}

static void make_timer_numbers(void)
{
	must(prctl(77 /* PR_TIMER_CREATE_RESTORE_IDS */, 1, 0, 0, 0));
}

static void show_timer_numbers(void)
{
	say_result(prctl(77, 2 /* GET */, 0, 0, 0));
}

/* Timers. */

static timer_t timer;

static void make_timer(clockid_t clock, int notify)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = SIGUSR1 };
	struct itimerspec when = { { 0, 0 }, { 5000, 0 } };
	must(timer_create(clock, &event, &timer));
	must(timer_settime(timer, 0, &when, NULL));
}

static void show_timer(void)
{
	struct itimerspec when;
	must(timer_gettime(timer, &when));
	say("%s ", when.it_value.tv_sec > 4000 ? "set" : "not set");
	say_lines("/proc/self/timers", "notify", "ClockID", NULL);
}

static void make_silent(void)
{
	make_timer(CLOCK_MONOTONIC, SIGEV_NONE);
}

static void make_others(void)
{
	clockid_t clock;
	other = child(forever);
	errno = clock_getcpuclockid(other, &clock);
	must(errno ? -1 : 0);
	make_timer(clock, SIGEV_SIGNAL);
}

static void make_alarm(void)
{
	struct itimerspec when = { { 0, 0 }, { 5000, 0 } };
	fds[0] = must(timerfd_create(CLOCK_BOOTTIME_ALARM, 0));
	must(timerfd_settime(fds[0], 0, &when, NULL));
}

static void show_alarm(void)
{
	struct itimerspec when;
	must(timerfd_gettime(fds[0], &when));
	say("%s", when.it_value.tv_sec > 4000 ? "set" : "not set");
}

/* Files, locks and watches. */

static void make_replaced(void)
{
	fds[0] = new_file("/replaced", "old");
	must(unlink("/replaced"));
	close(new_file("/replaced", "new"));
}

static void show_replaced(void)
{
	char old[8] = "", *new = file("/replaced");
	must(pread(fds[0], old, sizeof old - 1, 0));
	say("%s %s", old, new);
	free(new);
}

/* A lock of one opening that two processes have. */
static void make_shared_lock(void)
{
	fds[0] = new_file("/locked-by-two", "text");
	must(flock(fds[0], LOCK_EX));
	other = child(forever);
}

static void show_shared_lock(void)
{
	int again = must(open("/locked-by-two", O_RDWR));
	say_result(flock(again, LOCK_EX | LOCK_NB));
	must(flock(fds[0], LOCK_UN));
	say_result(flock(again, LOCK_EX | LOCK_NB));
	close(again);
	must(flock(fds[0], LOCK_EX));
}

static void make_ranges(void)
{
	fds[0] = new_file("/locked-in-parts", "0123456789");
	struct flock first = { F_WRLCK, SEEK_SET, 1, 2, 0 }, second = { F_RDLCK, SEEK_SET, 5, 0, 0 };
	must(fcntl(fds[0], F_SETLK, &first));
	must(fcntl(fds[0], F_SETLK, &second));
}

static void show_ranges(void)
{
	int status;
	pid_t pid = must(fork());
	if (!pid) {
		int bits = 0;
		for (int i = 0; i < 8; i++) {
			struct flock probe = { F_WRLCK, SEEK_SET, i, 1, 0 };
			fcntl(fds[0], F_GETLK, &probe);
			bits |= (probe.l_type == F_UNLCK ? 0 : probe.l_type == F_RDLCK ? 1 : 2) != 0 ? 1 << i : 0;
		}
		_exit(bits);
	}
	must(waitpid(pid, &status, 0));
	say("%x", WEXITSTATUS(status));
}

static void say_marks(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[0]);
	char *text = file(path), *rest = text, *line;
	while ((line = strsep(&rest, "\n")))
		if (!strncmp(line, "fanotify", 8))
			say("%.*s ", (int)(strstr(line, "sdev") ? strcspn(line, "s") : strlen(line)), line);
	free(text);
}

static void make_named_events(void)
{
	must(mkdir("/marked-by-name", 0755));
	fds[0] = must(fanotify_init(FAN_CLASS_NOTIF | 0xc00 /* FAN_REPORT_DFID_NAME */, O_RDONLY));
	must(fanotify_mark(fds[0], FAN_MARK_ADD, 0x100 /* FAN_CREATE */ | FAN_ONDIR, AT_FDCWD, "/marked-by-name"));
}

static void make_permission(void)
{
	must(mkdir("/marked-for-permission", 0755));
	fds[0] = must(fanotify_init(FAN_CLASS_CONTENT | FAN_UNLIMITED_QUEUE, O_RDONLY));
	must(fanotify_mark(fds[0], FAN_MARK_ADD, FAN_OPEN_PERM | FAN_EVENT_ON_CHILD, AT_FDCWD, "/marked-for-permission"));
}

static void make_filesystem_mark(void)
{
	must(mkdir("/marked-filesystem", 0755));
	must(mount("marked", "/marked-filesystem", "tmpfs", 0, NULL));
	fds[0] = must(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY));
	must(fanotify_mark(fds[0], FAN_MARK_ADD | 0x100 /* FAN_MARK_FILESYSTEM */, FAN_OPEN, AT_FDCWD, "/marked-filesystem"));
}

static void show_filesystem_mark(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[0]);
	char *text = file(path);
	say("%s", strstr(text, "fanotify sdev") ? "a mark of a filesystem" : strstr(text, "fanotify mnt") ? "of a mount" : "none");
	free(text);
}

/* Mounts. */

static void make_network_name(void)
{
	close(new_file("/network-name", ""));
	must(mount("/proc/self/ns/net", "/network-name", NULL, MS_BIND, NULL));
}

static void show_network_name(void)
{
	struct stat own, is;
	must(stat("/proc/self/ns/net", &own));
	must(stat("/network-name", &is));
	say("%s", own.st_ino == is.st_ino ? "own" : "another");
}

static void make_covered(void)
{
	must(mkdir("/covered", 0755));
	must(mount("lower", "/covered", "tmpfs", 0, NULL));
	close(new_file("/covered/file", "lower"));
	must(mount("upper", "/covered", "tmpfs", 0, NULL));
	close(new_file("/covered/file", "upper"));
}

/* Whatever covers it is taken away for a moment. */
static void show_covered(void)
{
	say_file("/covered/file");
	must(umount2("/covered", 0));
	say_file("/covered/file");
	must(mount("upper", "/covered", "tmpfs", 0, NULL));
	close(new_file("/covered/file", "upper"));
}

static void make_bound(void)
{
	must(mkfifo("/bound-fifo", 0600));
	close(new_file("/bound-here", ""));
	must(mount("/bound-fifo", "/bound-here", NULL, MS_BIND, NULL));
}

static void show_bound(void)
{
	struct stat is;
	must(stat("/bound-here", &is));
	say("%o", is.st_mode);
}

static void make_removed(void)
{
	close(new_file("/removed-source", "text"));
	close(new_file("/removed-target", ""));
	must(mount("/removed-source", "/removed-target", NULL, MS_BIND, NULL));
	must(unlink("/removed-source"));
}

static void show_removed(void)
{
	say_file("/removed-target");
}

static void make_follower(void)
{
	must(mkdir("/leader", 0755));
	must(mkdir("/follower", 0755));
	must(mount("leader", "/leader", "tmpfs", 0, NULL));
	must(mount(NULL, "/leader", NULL, MS_SHARED, NULL));
	must(mkdir("/leader/sub", 0755));
	must(mount("/leader", "/follower", NULL, MS_BIND, NULL));
	must(mount(NULL, "/follower", NULL, MS_SLAVE, NULL));
}

static void show_follower(void)
{
	must(mount("sub", "/leader/sub", "tmpfs", 0, NULL));
	close(new_file("/leader/sub/file", "x"));
	say_result(access("/follower/sub/file", F_OK));
	must(umount2("/leader/sub", 0));
}

const struct property rarer[] = {
	{ "shared-memory-cut", make_cut, show_cut },
	{ "file-mapped-to-read", make_read_only, show_read_only },
	{ "pages-in-another-order", make_reordered, show_reordered },
	{ "private-memfd", make_private_memfd, show_private_memfd },
	{ "segment-cut-to-read", make_segment, show_segment },
	{ "huge-page", make_huge, show_huge },
	{ "huge-memfd", make_huge_memfd, show_huge_memfd },
	{ "strict-seccomp", make_strict, show_strict },
	{ "session-without-leader", make_leaderless, show_leaderless },
	{ "group-without-leader", make_groupless, show_leaderless },
	{ "thread-death-signals", make_death_signal, show_death_signal },
	{ "thread-signal-stacks", make_stacks, show_stacks },
	{ "io-flusher", make_flusher, show_flusher },
	{ "core-scheduling", make_core, show_core },
	{ "timer-numbers-to-choose", make_timer_numbers, show_timer_numbers },
	{ "timer-silent", make_silent, show_timer },
	{ "timer-of-another-process", make_others, show_timer },
	{ "timerfd-alarm", make_alarm, show_alarm },
	{ "replaced-file", make_replaced, show_replaced },
	{ "lock-of-two-processes", make_shared_lock, show_shared_lock },
	{ "locks-of-ranges", make_ranges, show_ranges },
	{ "fanotify-names", make_named_events, say_marks },
	{ "fanotify-permission", make_permission, say_marks },
	{ "fanotify-of-filesystem", make_filesystem_mark, show_filesystem_mark },
	{ "mount-network-name", make_network_name, show_network_name },
	{ "mount-covered", make_covered, show_covered },
	{ "mount-of-fifo", make_bound, show_bound },
	{ "mount-of-removed-file", make_removed, show_removed },
	{ "mount-follower", make_follower, show_follower },
	{ 0 },
};
