/*
 * Preloaded into CRIU, kills at one of its notifications. $KILL_AT is `WHO SIDE STEP FILE`: WHO is hiber or criu, SIDE is
 * `before` the caller hears of the notification or `after` its answer has come, STEP counts notifications from 1. FILE is
 * made just before.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char who[16], side[16], file[4096];
static int step, seen;

__attribute__((constructor)) static void begin(void)
{
	const char *at = getenv("KILL_AT");
	if (!at || strcmp(program_invocation_short_name, "criu") ||
	    sscanf(at, "%15s %15s %d %4095s", who, side, &step, file) != 4)
		step = -1;
}

static void at(const char *here)
{
	if (seen != step || strcmp(side, here))
		return;
	close(open(file, O_WRONLY | O_CREAT, 0644));
	kill(strcmp(who, "hiber") ? getpid() : getppid(), SIGKILL);
	step = -1;
}

/* A response begins with its type; NOTIFY is 6 (rpc.proto). */
static int is_notification(int fd, const unsigned char *bytes, size_t length)
{
	int type = 0;
	socklen_t size = sizeof type;
	return length > 2 && bytes[0] == 8 && bytes[1] == 6 && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) &&
	       type == SOCK_SEQPACKET;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	static ssize_t (*next)(int, const void *, size_t);
	if (!next)
		next = dlsym(RTLD_NEXT, "write");
	if (step > 0 && is_notification(fd, bytes, length)) {
		seen++;
		at("before");
	}
	return next(fd, bytes, length);
}

ssize_t recv(int fd, void *bytes, size_t length, int flags)
{
	static ssize_t (*next)(int, void *, size_t, int);
	if (!next)
		next = dlsym(RTLD_NEXT, "recv");
	ssize_t got = next(fd, bytes, length, flags);
	if (step > 0 && !(flags & MSG_PEEK))
		at("after");
	return got;
}

ssize_t __recv_chk(int fd, void *bytes, size_t length, size_t room, int flags)
{
	(void)room;
	return recv(fd, bytes, length, flags);
}
