/* System calls that wait while a process is saved: whether they go on to wait. Each is made by a child, again and again. */
#include "same.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

/* The ends of the child's call: how often, and the result and the error of the last one. */
static volatile struct ends {
	int count, error, futex;
	long result;
} *ends;
static int fds[2];
static pid_t waiter;

static void waits(long (*call)(void))
{
	ends = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(ends == MAP_FAILED ? -1 : 0);
	waiter = must(fork());
	if (waiter) {
		/* until it waits */
		usleep(200000);
		return;
	}
	for (;;) {
		ends->result = call();
		ends->error = errno;
		ends->count++;
		usleep(100000);
	}
}

static void show(void)
{
	/* what ends at once has ended by then */
	usleep(100000);
	if (!ends->count) {
		say("waits");
		return;
	}
	say("ended: ");
	errno = ends->error;
	say_result(ends->result);
}

#define WAITS(name, call)                  \
	static long call_##name(void)      \
	{                                  \
		return call;               \
	}                                  \
	static void make_##name(void)      \
	{                                  \
		waits(call_##name);        \
	}

#define HOUR 3600
static struct timespec hour = { HOUR, 0 };
static struct timeval hour_us = { HOUR, 0 };

static long until(void)
{
	struct timespec end;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += HOUR;
	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
}

static long epoll(void)
{
	return epoll_wait(epoll_create1(0), &(struct epoll_event){ 0 }, 1, -1);
}

static long futex(struct timespec *timeout)
{
	return syscall(SYS_futex, &ends->futex, FUTEX_WAIT, 0, timeout, NULL, 0);
}

static long receive(struct timeval timeout)
{
	char byte;
	socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
	setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	return recv(fds[0], &byte, 1, 0);
}

static long accepting(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	bind(fd, (void *)&name, sizeof name.sun_family);
	listen(fd, 1);
	return accept(fd, NULL, NULL);
}

static long piped(void)
{
	char byte;
	pipe(fds);
	return read(fds[0], &byte, 1);
}

/* More than fits: a part is in the pipe already. */
static long write_all(void)
{
	static char many[1 << 17];
	pipe(fds);
	return write(fds[1], many, sizeof many);
}

static long wait_for_child(void)
{
	pid_t pid = fork();
	if (!pid)
		forever();
	return waitpid(pid, NULL, 0);
}

static long signal_wait(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return sigtimedwait(&set, NULL, &hour);
}

static long suspended(void)
{
	sigset_t set;
	sigemptyset(&set);
	return sigsuspend(&set);
}

static long message(void)
{
	struct {
		long type;
		char text[8];
	} buffer;
	return msgrcv(msgget(IPC_PRIVATE, 0600), &buffer, sizeof buffer.text, 0, 0);
}

static long locked(int how)
{
	int fd = open("/locked", O_RDWR | O_CREAT, 0600), other = open("/locked", O_RDWR);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	if (how == F_SETLKW) {
		fcntl(fd, F_OFD_SETLK, &lock);
		return fcntl(other, F_OFD_SETLKW, &lock);
	}
	flock(fd, LOCK_EX);
	return flock(other, LOCK_EX);
}

WAITS(sleep, nanosleep(&hour, NULL))
WAITS(until, until())
WAITS(poll, poll(NULL, 0, HOUR * 1000))
WAITS(poll_forever, poll(NULL, 0, -1))
WAITS(select, select(0, NULL, NULL, NULL, &hour_us))
WAITS(select_forever, select(0, NULL, NULL, NULL, NULL))
WAITS(epoll, epoll())
WAITS(futex, futex(NULL))
WAITS(futex_timeout, futex(&hour))
WAITS(receive, receive((struct timeval){ 0, 0 }))
WAITS(receive_timeout, receive(hour_us))
WAITS(accept, accepting())
WAITS(pipe, piped())
WAITS(write, write_all())
WAITS(child, wait_for_child())
WAITS(signal, signal_wait())
WAITS(suspend, suspended())
WAITS(message, message())
WAITS(flock, locked(0))

/* A call with a mask of its own: the process's comes back with the end of the call. */
static long masked(void)
{
	static int blocked;
	sigset_t mask, own;
	sigemptyset(&own);
	sigaddset(&own, SIGUSR1);
	sigprocmask(SIG_SETMASK, &own, NULL);
	sigfillset(&mask);
	sigdelset(&mask, SIGUSR2);
	signal(SIGUSR2, SIG_DFL);
	ppoll(NULL, 0, NULL, &mask);
	sigprocmask(SIG_SETMASK, NULL, &own);
	blocked = 0;
	for (int i = 1; i < 32; i++)
		blocked += sigismember(&own, i) == 1;
	return blocked;
}

WAITS(masked, masked())

static void show_masked(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/status", waiter);
	usleep(100000);
	if (!ends->count)
		say("waits ");
	else
		say("blocks %ld ", ends->result);
	say_lines(path, "SigBlk", NULL);
}

/* A lock of priority inheritance that the second thread waits for. */
static pthread_mutex_t mutex;
static pthread_t owner;
static volatile int order;

static void *owns(void *unused)
{
	pthread_mutex_lock(&mutex);
	order = 1;
	while (order != 2)
		usleep(10000);
	pthread_mutex_unlock(&mutex);
	return unused;
}

static void *wants(void *unused)
{
	pthread_mutex_lock(&mutex);
	order = 3;
	pthread_mutex_unlock(&mutex);
	return unused;
}

static void make_inheritance(void)
{
	pthread_t second;
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&mutex, &attributes);
	errno = pthread_create(&owner, NULL, owns, NULL);
	must(errno ? -1 : 0);
	while (order != 1)
		usleep(1000);
	errno = pthread_create(&second, NULL, wants, NULL);
	must(errno ? -1 : 0);
	usleep(100000);
}

/* The first word of such a lock is its owner's number, with a bit for those who wait. */
static void show_inheritance(void)
{
	say("%x, ", *(unsigned *)&mutex & 0x80000000);
	say(order == 3 ? "both have had it" : "one has it");
}

const struct property calls[] = {
	{ "sleep", make_sleep, show },
	{ "sleep-until", make_until, show },
	{ "poll-with-timeout", make_poll, show },
	{ "poll-without-timeout", make_poll_forever, show },
	{ "select-with-timeout", make_select, show },
	{ "select-without-timeout", make_select_forever, show },
	{ "epoll-wait", make_epoll, show },
	{ "futex-without-timeout", make_futex, show },
	{ "futex-with-timeout", make_futex_timeout, show },
	{ "receiving", make_receive, show },
	{ "receiving-with-timeout", make_receive_timeout, show },
	{ "accepting", make_accept, show },
	{ "reading-of-a-pipe", make_pipe, show },
	{ "writing-more-than-fits", make_write, show },
	{ "waiting-for-a-child", make_child, show },
	{ "waiting-for-a-signal", make_signal, show },
	{ "suspended", make_suspend, show },
	{ "waiting-for-a-message", make_message, show },
	{ "waiting-for-a-lock", make_flock, show },
	{ "poll-with-a-mask", make_masked, show_masked },
	{ "lock-that-lends-priority", make_inheritance, show_inheritance },
	{ 0 },
};
