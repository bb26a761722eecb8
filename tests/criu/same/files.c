/* Descriptors and what they refer to. */
#include "same.h"
#include <dirent.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/kcmp.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/signalfd.h>

static int fd, other, ends[2];
static pid_t the_child;

/* The lines of fdinfo that begin with one of two words. */
static void say_info(int of, const char *word, const char *second)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", of);
	say_lines(path, word, second, NULL);
}

static void say_link(int of)
{
	char path[64], text[256] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", of);
	must(readlink(path, text, sizeof text - 1));
	say("%s ", text);
}

/* All that can be read now from a descriptor, and is put back by writing it to another one. */
static void say_queue(int from, int to)
{
	char bytes[65536];
	struct pollfd waits = { from, POLLIN, 0 };
	ssize_t size = 0;
	if (poll(&waits, 1, 0) > 0)
		size = must(read(from, bytes, sizeof bytes));
	say("%zd: %.*s ", size, size > 40 ? 40 : (int)size, bytes);
	if (size > 0)
		must(write(to, bytes, size));
}

/* Flags and offsets */

static void make_flags(void)
{
	fd = must(open("/flags", O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_SYNC | O_NOATIME | O_CLOEXEC, 0640));
	must(write(fd, "0123456789", 10));
	must(lseek(fd, 4, SEEK_SET));
	other = must(open("/flags", O_RDONLY));
	must(lseek(other, 1000000, SEEK_SET));
}

static void show_flags(void)
{
	say("%d %#x %#x %ld ", fd, fcntl(fd, F_GETFD), fcntl(fd, F_GETFL), lseek(fd, 0, SEEK_CUR));
	say("%d %#x %#x %ld", other, fcntl(other, F_GETFD), fcntl(other, F_GETFL), lseek(other, 0, SEEK_CUR));
}

static void make_number(void)
{
	fd = must(open("/dev/null", O_WRONLY | O_CLOEXEC));
	other = must(fcntl(fd, F_DUPFD, 777));
	close(fd);
	fd = other;
}

static void show_number(void)
{
	say("%d ", fd);
	say_link(fd);
}

static void make_shared_offset(void)
{
	fd = new_file("/shared-offset", "0123456789");
	other = must(dup(fd));
	ends[0] = must(open("/shared-offset", O_RDWR));
	the_child = child(forever);
}

/* Which of them are one opening: the two of this process, one opened again, and a child's. */
static void show_shared_offset(void)
{
	must(lseek(fd, 3, SEEK_SET));
	say("%ld %ld ", lseek(other, 0, SEEK_CUR), lseek(ends[0], 0, SEEK_CUR));
	say_result(syscall(SYS_kcmp, getpid(), the_child, KCMP_FILE, fd, fd));
}

static void make_owner(void)
{
	struct f_owner_ex owner = { F_OWNER_TID, getpid() };
	must(pipe2(ends, O_NONBLOCK));
	must(fcntl(ends[0], F_SETOWN_EX, &owner));
	must(fcntl(ends[0], F_SETSIG, SIGRTMIN + 1));
	must(fcntl(ends[0], F_SETFL, O_NONBLOCK | O_ASYNC));
	signal(SIGRTMIN + 1, SIG_IGN);
}

static void show_owner(void)
{
	struct f_owner_ex owner = { 0 };
	must(fcntl(ends[0], F_GETOWN_EX, &owner));
	say("%d %d signal %d ", owner.type, owner.pid == getpid(), (int)must(fcntl(ends[0], F_GETSIG)));
}

static void show_asynchronous(void)
{
	say("%s", must(fcntl(ends[0], F_GETFL)) & O_ASYNC ? "on" : "off");
}

/* Kinds of files */

static void make_path(void)
{
	close(new_file("/path-only", ""));
	fd = must(open("/path-only", O_PATH));
}

static void make_path_of_directory(void)
{
	fd = must(open("/proc", O_PATH | O_DIRECTORY));
}

static void show_path(void)
{
	say("%#x ", fcntl(fd, F_GETFL));
	say_link(fd);
}

static void make_nameless(void)
{
	fd = must(open("/tmp", O_TMPFILE | O_RDWR, 0600));
	must(write(fd, "nameless", 8));
}

static void show_content(void)
{
	char bytes[64] = "";
	struct stat is;
	must(pread(fd, bytes, sizeof bytes - 1, 0));
	must(fstat(fd, &is));
	say("%s mode %o links %ld at %ld", bytes, is.st_mode, is.st_nlink, lseek(fd, 0, SEEK_CUR));
}

static void make_removed(void)
{
	fd = new_file("/removed-and-open", "removed");
	must(fchmod(fd, 0604));
	must(unlink("/removed-and-open"));
}

static void make_removed_with_link(void)
{
	fd = new_file("/removed-first", "linked");
	must(link("/removed-first", "/removed-second"));
	must(unlink("/removed-first"));
}

static void make_sparse(void)
{
	fd = new_file("/sparse", "");
	must(ftruncate(fd, 800000));
	must(pwrite(fd, "x", 1, 500000));
	must(unlink("/sparse"));
}

static void show_sparse(void)
{
	struct stat is;
	must(fstat(fd, &is));
	say("size %ld, %s", is.st_size, is.st_blocks < 1000 ? "with holes" : "full");
}

static void make_directory(void)
{
	char buffer[512];
	must(mkdir("/listed", 0755));
	for (int i = 0; i < 60; i++) {
		snprintf(buffer, sizeof buffer, "/listed/some-file-%d", i);
		close(new_file(buffer, ""));
	}
	fd = must(open("/listed", O_RDONLY | O_DIRECTORY));
	must(syscall(SYS_getdents64, fd, buffer, sizeof buffer));
}

static void show_directory(void)
{
	char buffer[65536];
	off_t at = must(lseek(fd, 0, SEEK_CUR));
	int count = 0;
	long size;
	while ((size = must(syscall(SYS_getdents64, fd, buffer, sizeof buffer))) > 0)
		for (long i = 0; i < size; i += ((struct dirent64 *)(buffer + i))->d_reclen)
			count++;
	must(lseek(fd, at, SEEK_SET));
	say("%d left", count);
}

static void make_removed_directory(void)
{
	must(mkdir("/removed-directory", 0750));
	fd = must(open("/removed-directory", O_RDONLY | O_DIRECTORY));
	must(rmdir("/removed-directory"));
}

static void show_removed_directory(void)
{
	struct stat is;
	must(fstat(fd, &is));
	say("%o links %ld", is.st_mode, is.st_nlink);
}

static void make_proc_file(void)
{
	char bytes[20];
	fd = must(open("/proc/self/status", O_RDONLY));
	must(read(fd, bytes, sizeof bytes));
}

static void show_proc_file(void)
{
	char bytes[64] = "";
	say("%ld ", lseek(fd, 0, SEEK_CUR));
	must(pread(fd, bytes, 10, 0));
	say("%s", bytes);
}

static void make_namespace_file(void)
{
	fd = must(open("/proc/self/ns/net", O_RDONLY));
}

static void show_namespace_file(void)
{
	struct stat one, two;
	must(fstat(fd, &one));
	must(stat("/proc/self/ns/net", &two));
	say("%s", one.st_ino == two.st_ino ? "its own" : "another");
}

/* Pipes */

static void make_pipe(void)
{
	must(pipe2(ends, O_NONBLOCK));
	must(fcntl(ends[1], F_SETPIPE_SZ, 131072));
	must(write(ends[1], "in the pipe", 11));
}

static void show_pipe(void)
{
	say("%ld %#x ", must(fcntl(ends[0], F_GETPIPE_SZ)), fcntl(ends[0], F_GETFL));
	say_queue(ends[0], ends[1]);
}

static void make_full_pipe(void)
{
	char bytes[4096];
	must(pipe2(ends, O_NONBLOCK));
	memset(bytes, 'f', sizeof bytes);
	while (write(ends[1], bytes, sizeof bytes) > 0)
		;
}

static void show_full_pipe(void)
{
	int count;
	must(ioctl(ends[0], FIONREAD, &count));
	say("%d, one more: ", count);
	say_result(write(ends[1], "x", 1));
}

static void make_half_pipe(void)
{
	must(pipe(ends));
	must(write(ends[1], "last words", 10));
	close(ends[1]);
}

static void show_half_pipe(void)
{
	struct pollfd waits = { ends[0], POLLIN, 0 };
	int count = 0;
	must(poll(&waits, 1, 0));
	must(ioctl(ends[0], FIONREAD, &count));
	say("%d bytes, events %#x", count, waits.revents);
}

static void make_fifo(void)
{
	must(mkfifo("/fifo", 0600));
	fd = must(open("/fifo", O_RDWR | O_NONBLOCK));
	must(write(fd, "in the fifo", 11));
}

static void show_fifo(void)
{
	say_link(fd);
	say_queue(fd, fd);
}

static void make_packet_pipe(void)
{
	must(pipe2(ends, O_DIRECT));
	must(write(ends[1], "one", 3));
	must(write(ends[1], "two", 3));
}

static void show_packet_pipe(void)
{
	say("%#x", (int)must(fcntl(ends[1], F_GETFL)));
}

/* Descriptors that tell of something */

static void make_event(void)
{
	fd = must(eventfd(41, EFD_NONBLOCK | EFD_CLOEXEC));
}

/* A child has it, too, and does nothing with it. */
static void make_semaphore(void)
{
	fd = must(eventfd(41, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
	the_child = child(forever);
}

static void make_large_event(void)
{
	fd = must(eventfd(0, EFD_CLOEXEC));
	must(write(fd, &(long){ 0x123456789abcdef }, sizeof(long)));
}

static void show_event(void)
{
	long value = 0;
	say("%#x ", fcntl(fd, F_GETFL));
	say_info(fd, "eventfd-count:", "eventfd-semaphore:");
	must(read(fd, &value, sizeof value));
	say(" takes %ld", value);
	must(write(fd, &value, sizeof value));
}

static void show_semaphore(void)
{
	show_event();
	say(" the child's: %d", (int)syscall(SYS_kcmp, getpid(), the_child, KCMP_FILE, fd, fd));
}

static void make_poll(void)
{
	must(pipe2(ends, O_NONBLOCK));
	fd = must(epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &(struct epoll_event){ EPOLLIN | EPOLLET, { .u64 = 0x1122334455667788 } }));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, ends[1], &(struct epoll_event){ EPOLLERR, { .u64 = 7 } }));
}

/* Events and data; not the numbers of inodes, which pipes get anew, and not in the order of the kernel's addresses */
static void show_poll(void)
{
	char path[64], *text;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	text = file(path);
	for (int i = 0; i < 2; i++) {
		char head[32], *line;
		snprintf(head, sizeof head, "tfd: %8d ", ends[i]);
		line = strstr(text, head);
		if (line)
			say("%.*s ", (int)(strstr(line, "pos:") - line), line);
	}
	free(text);
}

static void make_once(void)
{
	struct epoll_event event = { EPOLLIN | EPOLLONESHOT, { .u64 = 5 } };
	must(pipe2(ends, O_NONBLOCK));
	fd = must(epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &event));
	must(write(ends[1], "x", 1));
	must(epoll_wait(fd, &event, 1, 0));
}

/* It has told of it once, and does so no more. */
static void show_once(void)
{
	struct epoll_event event;
	say_result(epoll_wait(fd, &event, 1, 0));
}

/* One that is ready, told of by its edge already */
static void make_edge(void)
{
	struct epoll_event event = { EPOLLIN | EPOLLET, { .u64 = 5 } };
	must(pipe2(ends, O_NONBLOCK));
	fd = must(epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &event));
	must(write(ends[1], "x", 1));
	must(epoll_wait(fd, &event, 1, 0));
}

/* Whether it tells once more; that would be the first time since the restore. */
static int told;
static void show_edge(void)
{
	struct epoll_event event;
	told += epoll_wait(fd, &event, 1, 0);
	say("%d", told);
}

/* Another descriptor of what is polled, which was closed: the poll goes on telling of it. */
static void make_closed(void)
{
	must(pipe2(ends, O_NONBLOCK));
	other = must(dup(ends[0]));
	fd = must(epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &(struct epoll_event){ EPOLLIN, { .u64 = 9 } }));
	close(ends[0]);
	must(write(ends[1], "x", 1));
}

static void show_closed(void)
{
	struct epoll_event event = { 0 };
	say_result(epoll_wait(fd, &event, 1, 0));
	say("%lu", event.data.u64);
}

static void make_nested_poll(void)
{
	must(pipe2(ends, O_NONBLOCK));
	other = must(epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(other, EPOLL_CTL_ADD, ends[0], &(struct epoll_event){ EPOLLIN, { .u64 = 1 } }));
	fd = must(epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, other, &(struct epoll_event){ EPOLLIN, { .u64 = 2 } }));
	must(write(ends[1], "x", 1));
}

static void show_nested_poll(void)
{
	struct epoll_event event = { 0 };
	say_result(epoll_wait(fd, &event, 1, 0));
	say("%lu", event.data.u64);
}

static void make_busy_poll(void)
{
	/* struct epoll_params: time, budget, preferred */
	struct { unsigned usecs; unsigned short budget; unsigned char prefer, pad; } params = { 50, 8, 1, 0 };
	fd = must(epoll_create1(EPOLL_CLOEXEC));
	must(ioctl(fd, 0x40088a01 /* EPIOCSPARAMS */, &params));
}

static void show_busy_poll(void)
{
	struct { unsigned usecs; unsigned short budget; unsigned char prefer, pad; } params = { 0 };
	must(ioctl(fd, 0x80088a02 /* EPIOCGPARAMS */, &params));
	say("%u %u %u", params.usecs, params.budget, params.prefer);
}

static void make_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 2);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	fd = must(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
}

static void show_signals(void)
{
	struct signalfd_siginfo info = { 0 };
	say_info(fd, "sigmask:", "flags:");
	must(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 99 }));
	must(read(fd, &info, sizeof info));
	say("got %u %d", info.ssi_signo, info.ssi_int);
}

static void make_watch(void)
{
	must(mkdir("/watched", 0755));
	fd = must(inotify_init1(IN_NONBLOCK));
	must(inotify_add_watch(fd, "/watched", IN_CREATE));
	must(inotify_rm_watch(fd, 1));
	must(inotify_add_watch(fd, "/watched", IN_CREATE | IN_DELETE));
}

/* The watch's number, and what it tells of. */
static void show_watch(void)
{
	char bytes[4096];
	while (read(fd, bytes, sizeof bytes) > 0)
		;
	close(new_file("/watched/new", ""));
	must(unlink("/watched/new"));
	for (;;) {
		struct inotify_event *event = (void *)bytes;
		ssize_t size = read(fd, bytes, sizeof bytes);
		if (size <= 0)
			break;
		for (char *at = bytes; at < bytes + size; at += sizeof *event + event->len) {
			event = (void *)at;
			say("%d %#x %s ", event->wd, event->mask, event->name);
		}
	}
}

static void make_unread_watch(void)
{
	must(mkdir("/watched-unread", 0755));
	fd = must(inotify_init1(IN_NONBLOCK));
	must(inotify_add_watch(fd, "/watched-unread", IN_CREATE));
	close(new_file("/watched-unread/new", ""));
}

static void show_unread(void)
{
	int count = 0;
	must(ioctl(fd, FIONREAD, &count));
	say("%s", count ? "some" : "none");
}

static void make_removed_watch(void)
{
	close(new_file("/watched-removed", ""));
	fd = must(inotify_init1(IN_NONBLOCK));
	must(inotify_add_watch(fd, "/watched-removed", IN_ATTRIB));
	other = must(open("/watched-removed", O_RDWR));
	must(unlink("/watched-removed"));
}

static void show_removed_watch(void)
{
	char bytes[4096];
	while (read(fd, bytes, sizeof bytes) > 0)
		;
	must(fchmod(other, 0600));
	say("%s", read(fd, bytes, sizeof bytes) > 0 ? "told" : "not told");
	must(fchmod(other, 0644));
	while (read(fd, bytes, sizeof bytes) > 0)
		;
}

static void make_mark(void)
{
	must(mkdir("/marked", 0755));
	fd = must(fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_NOTIF, O_RDONLY));
	must(fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD, "/marked"));
}

static void show_mark(void)
{
	char bytes[4096];
	struct fanotify_event_metadata *event = (void *)bytes;
	while (read(fd, bytes, sizeof bytes) > 0)
		close(event->fd);
	close(new_file("/marked/new", ""));
	say("%s", read(fd, bytes, sizeof bytes) > 0 ? "told" : "not told");
	if (event->fd >= 0)
		close(event->fd);
}

static void make_mount_mark(void)
{
	fd = must(fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_NOTIF, O_RDONLY));
	must(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN_EXEC, AT_FDCWD, "/dev/shm"));
}

/* Without the mount's number, which is another one in each mount namespace */
static void show_mount_mark(void)
{
	char path[64], *text, *mark;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	text = file(path);
	mark = strstr(text, "fanotify mnt_id:");
	say("%s", mark ? strstr(mark, "mflags:") : "none");
	free(text);
}

static void make_notify(void)
{
	must(mkdir("/noted", 0755));
	fd = must(open("/noted", O_RDONLY | O_DIRECTORY));
	signal(SIGRTMIN, SIG_DFL);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	must(fcntl(fd, F_SETSIG, SIGRTMIN));
	must(fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
}

static void show_notify(void)
{
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	close(new_file("/noted/new", ""));
	say("%s", sigtimedwait(&set, &info, &(struct timespec){ 0, 0 }) > 0 ? "told" : "not told");
	must(unlink("/noted/new"));
}

static void make_process(void)
{
	the_child = child(forever);
	fd = must(syscall(SYS_pidfd_open, the_child, 0));
}

static void show_process(void)
{
	say_info(fd, "NSpid:", "NSpid:");
	say_result(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	say("%d", the_child);
}

static void make_ended_process(void)
{
	the_child = child(forever);
	fd = must(syscall(SYS_pidfd_open, the_child, 0));
	must(kill(the_child, SIGKILL));
	must(waitpid(the_child, NULL, 0));
}

static void show_ended_process(void)
{
	struct pollfd waits = { fd, POLLIN, 0 };
	must(poll(&waits, 1, 0));
	say("events %#x ", waits.revents & POLLIN);
	say_result(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
}

/* Memory as a file */

static void make_memfd(void)
{
	fd = must(memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC));
	must(write(fd, "sealed content", 14));
	must(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE));
}

static void show_memfd(void)
{
	struct stat is;
	char bytes[32] = "";
	must(fstat(fd, &is));
	must(pread(fd, bytes, sizeof bytes - 1, 0));
	say_link(fd);
	say("seals %#x size %ld mode %o at %ld: %s", (int)must(fcntl(fd, F_GET_SEALS)), is.st_size, is.st_mode, lseek(fd, 0, SEEK_CUR), bytes);
}

static void make_unsealed_memfd(void)
{
	fd = must(memfd_create("unsealed", 0));
	must(write(fd, "content", 7));
}

/* Locks */

static void make_flock(void)
{
	fd = new_file("/flocked", "");
	must(flock(fd, LOCK_EX));
}

/* Whether another opening of it can be locked. */
static void show_flock(void)
{
	int again = must(open("/flocked", O_RDONLY | O_CLOEXEC));
	say_result(flock(again, LOCK_EX | LOCK_NB));
	close(again);
}

static void make_posix_lock(void)
{
	fd = new_file("/locked", "0123456789");
	must(fcntl(fd, F_SETLK, &(struct flock){ .l_type = F_WRLCK, .l_start = 2, .l_len = 3 }));
	must(fcntl(fd, F_SETLK, &(struct flock){ .l_type = F_RDLCK, .l_start = 7 }));
}

static void say_locks(const char *path)
{
	/* an opening of its own does not see the locks of the same process, but one's open file locks do */
	int again = must(open(path, O_RDWR | O_CLOEXEC));
	for (int i = 0; i < 12; i += 2) {
		struct flock is = { .l_type = F_WRLCK, .l_start = i, .l_len = 1 };
		must(fcntl(again, F_OFD_GETLK, &is));
		say("%d %ld %ld, ", is.l_type, is.l_type == F_UNLCK ? 0 : is.l_start, is.l_type == F_UNLCK ? 0 : is.l_len);
	}
	close(again);
}

static pid_t locker;
static int *words;

/* POSIX locks go when the process closes any opening of the file: another one looks. */
static void look(void)
{
	for (;;) {
		while (!words[0])
			usleep(1000);
		for (int i = 0; i < 12; i += 2) {
			struct flock is = { .l_type = F_WRLCK, .l_start = i, .l_len = 1 };
			fcntl(fd, F_GETLK, &is);
			words[1 + i] = is.l_type;
			words[2 + i] = is.l_type == F_UNLCK ? 0 : is.l_start;
		}
		words[0] = 0;
	}
}

static void make_seen_lock(void)
{
	make_posix_lock();
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	locker = child(look);
}

static void show_seen_lock(void)
{
	words[0] = 1;
	while (words[0])
		usleep(1000);
	for (int i = 1; i < 13; i++)
		say("%d ", words[i]);
}

static void make_open_lock(void)
{
	fd = new_file("/open-locked", "0123456789");
	must(fcntl(fd, F_OFD_SETLK, &(struct flock){ .l_type = F_WRLCK, .l_start = 2, .l_len = 3 }));
}

static void show_open_lock(void)
{
	say_locks("/open-locked");
}

static void make_lease(void)
{
	close(new_file("/leased", ""));
	fd = must(open("/leased", O_RDONLY));
	must(fcntl(fd, F_SETLEASE, F_RDLCK));
}

static void show_lease(void)
{
	say("%ld", must(fcntl(fd, F_GETLEASE)));
}

/* Terminals */

#include <termios.h>

static int master, slave;

static void make_terminal(void)
{
	struct termios how;
	master = must(posix_openpt(O_RDWR | O_NOCTTY));
	must(grantpt(master) | unlockpt(master));
	slave = must(open(ptsname(master), O_RDWR | O_NOCTTY));
	must(tcgetattr(slave, &how));
	cfmakeraw(&how);
	how.c_cc[VMIN] = 3;
	how.c_cc[VEOF] = 5;
	must(tcsetattr(slave, TCSANOW, &how));
	must(ioctl(slave, TIOCSWINSZ, &(struct winsize){ 33, 101, 5, 6 }));
}

static void show_terminal(void)
{
	struct termios how;
	struct winsize size;
	must(tcgetattr(slave, &how));
	must(ioctl(slave, TIOCGWINSZ, &size));
	say("%#x %#x %#x %#x %d %d ", how.c_iflag, how.c_oflag, how.c_cflag, how.c_lflag, how.c_cc[VMIN], how.c_cc[VEOF]);
	say("%d %d %d %d ", size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel);
	say_link(slave);
}

static void make_terminal_data(void)
{
	make_terminal();
	must(write(master, "to the program", 14));
	must(write(slave, "from the program", 16));
}

static void show_terminal_data(void)
{
	int to = 0, from = 0;
	must(ioctl(slave, FIONREAD, &to));
	must(ioctl(master, FIONREAD, &from));
	say("%d %d", to, from);
}

static void make_packet_mode(void)
{
	make_terminal();
	must(ioctl(master, TIOCPKT, &(int){ 1 }));
}

static void show_packet_mode(void)
{
	int is = 0;
	must(ioctl(master, TIOCGPKT, &is));
	say("%d", is);
}

static void make_exclusive(void)
{
	make_terminal();
	must(ioctl(slave, TIOCEXCL));
}

static void show_exclusive(void)
{
	int is = 0;
	must(ioctl(slave, TIOCGEXCL, &is));
	say("%d", is);
}

static void make_controlling(void)
{
	must(setsid());
	signal(SIGTTOU, SIG_IGN);
	make_terminal();
	must(ioctl(slave, TIOCSCTTY, 0));
	the_child = child(forever);
	must(setpgid(the_child, the_child));
	must(tcsetpgrp(slave, the_child));
}

static void show_controlling(void)
{
	say("session %s, foreground %s", tcgetsid(slave) == getpid() ? "its own" : "another", tcgetpgrp(slave) == the_child ? "the child's" : "another");
}

/* What else */

static void make_aio(void)
{
	aio_context_t *context = (void *)&words;
	must(syscall(SYS_io_setup, 8, context));
}

static void show_aio(void)
{
	say_result(syscall(SYS_io_getevents, words, 0, 1, NULL, NULL));
}

static void make_io_uring(void)
{
	char params[120] = { 0 };
	must(syscall(SYS_io_uring_setup, 4, params));
}

static void make_userfaultfd(void)
{
	must(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
}

static void make_perf_event(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK };
	attr.exclude_kernel = 1;
	must(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0));
}

static void make_bpf_map(void)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
	fd = must(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr));
	memset(&attr, 0, sizeof attr);
	attr.map_fd = fd;
	attr.key = (unsigned long)&(int){ 0 };
	attr.value = (unsigned long)&(int){ 4711 };
	must(syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof attr));
}

static void show_bpf_map(void)
{
	int value = 0;
	union bpf_attr attr = { .map_fd = fd };
	attr.key = (unsigned long)&(int){ 0 };
	attr.value = (unsigned long)&value;
	must(syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, sizeof attr));
	say("%d", value);
}

static void make_mount_file(void)
{
	must(syscall(SYS_fsopen, "tmpfs", 1));
}

static void make_detached_tree(void)
{
	must(syscall(SYS_open_tree, AT_FDCWD, "/dev/shm", 1 /* OPEN_TREE_CLONE */));
}

static void say_nothing(void)
{
}

const struct property files[] = {
	{ "descriptor-flags", make_flags, show_flags },
	{ "descriptor-number", make_number, show_number },
	{ "shared-offset", make_shared_offset, show_shared_offset },
	{ "descriptor-owner", make_owner, show_owner },
	{ "asynchronous", make_owner, show_asynchronous },
	{ "path-descriptor", make_path, show_path },
	{ "path-of-directory", make_path_of_directory, show_path },
	{ "nameless-file", make_nameless, show_content },
	{ "removed-file", make_removed, show_content },
	{ "removed-file-with-link", make_removed_with_link, show_content },
	{ "removed-sparse-file", make_sparse, show_sparse },
	{ "directory-position", make_directory, show_directory },
	{ "removed-directory", make_removed_directory, show_removed_directory },
	{ "proc-file", make_proc_file, show_proc_file },
	{ "namespace-file", make_namespace_file, show_namespace_file },
	{ "pipe", make_pipe, show_pipe },
	{ "full-pipe", make_full_pipe, show_full_pipe },
	{ "pipe-without-writer", make_half_pipe, show_half_pipe },
	{ "fifo", make_fifo, show_fifo },
	{ "packet-pipe", make_packet_pipe, show_packet_pipe },
	{ "eventfd", make_event, show_event },
	{ "eventfd-semaphore", make_semaphore, show_semaphore },
	{ "eventfd-of-a-large-count", make_large_event, show_event },
	{ "epoll", make_poll, show_poll },
	{ "epoll-oneshot", make_once, show_once },
	{ "epoll-edge", make_edge, show_edge },
	{ "epoll-of-closed", make_closed, show_closed },
	{ "epoll-nested", make_nested_poll, show_nested_poll },
	{ "epoll-busy-poll", make_busy_poll, show_busy_poll },
	{ "signalfd", make_signals, show_signals },
	{ "inotify", make_watch, show_watch },
	{ "inotify-unread", make_unread_watch, show_unread },
	{ "inotify-of-removed", make_removed_watch, show_removed_watch },
	{ "fanotify", make_mark, show_mark },
	{ "fanotify-of-mount", make_mount_mark, show_mount_mark },
	{ "dnotify", make_notify, show_notify },
	{ "pidfd", make_process, show_process },
	{ "pidfd-of-ended", make_ended_process, show_ended_process },
	{ "memfd-sealed", make_memfd, show_memfd },
	{ "memfd", make_unsealed_memfd, show_memfd },
	{ "flock", make_flock, show_flock },
	{ "posix-lock", make_seen_lock, show_seen_lock },
	{ "open-file-lock", make_open_lock, show_open_lock },
	{ "lease", make_lease, show_lease },
	{ "terminal-settings", make_terminal, show_terminal },
	{ "terminal-data", make_terminal_data, show_terminal_data },
	{ "terminal-packet-mode", make_packet_mode, show_packet_mode },
	{ "terminal-exclusive", make_exclusive, show_exclusive },
	{ "controlling-terminal", make_controlling, show_controlling },
	{ "aio-context", make_aio, show_aio },
	{ "io-uring", make_io_uring, say_nothing },
	{ "userfaultfd", make_userfaultfd, say_nothing },
	{ "perf-event", make_perf_event, say_nothing },
	{ "bpf-map", make_bpf_map, show_bpf_map },
	{ "unmounted-filesystem", make_mount_file, say_nothing },
	{ "detached-mount", make_detached_tree, say_nothing },
	{ 0 },
};
