/* Descriptors and what they refer to. */
#include "same.h"
#include <sys/file.h>

static int fd;

static void make_flock(void)
{
	fd = new_file("/flocked", "");
	must(flock(fd, LOCK_EX));
}

/* Whether another opening of it can be locked. */
static void show_flock(void)
{
	int other = must(open("/flocked", O_RDONLY | O_CLOEXEC));
	say_result(flock(other, LOCK_EX | LOCK_NB));
	close(other);
}

static int ends[2];

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

const struct property files[] = {
	{ "flock", make_flock, show_flock },
	{ "packet-pipe", make_packet_pipe, show_packet_pipe },
	{ 0 },
};
