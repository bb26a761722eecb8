/* Terminals of one's own, beyond their usual settings; memfds; owners of descriptors. */
#include "same.h"
#include <poll.h>
#include <asm/termbits.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/xattr.h>

static int fds[3];

static void pair(void)
{
	int unlock = 0, number;
	char path[32];
	fds[0] = must(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	must(ioctl(fds[0], TIOCSPTLCK, &unlock));
	must(ioctl(fds[0], TIOCGPTN, &number));
	snprintf(path, sizeof path, "/dev/pts/%d", number);
	fds[1] = must(open(path, O_RDWR | O_NOCTTY | O_NONBLOCK));
}

/* Speeds that have no name. */
static void make_speed(void)
{
	struct termios2 settings;
	pair();
	must(ioctl(fds[1], TCGETS2, &settings));
	settings.c_cflag = (settings.c_cflag & ~(CBAUD | CBAUD << IBSHIFT)) | BOTHER | BOTHER << IBSHIFT;
	settings.c_ospeed = 12345;
	settings.c_ispeed = 54321;
	must(ioctl(fds[1], TCSETS2, &settings));
}

static void show_speed(void)
{
	struct termios2 settings;
	must(ioctl(fds[1], TCGETS2, &settings));
	say("%u %u", settings.c_ospeed, settings.c_ispeed);
}

static void make_lock(void)
{
	int lock = 1;
	fds[0] = must(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	must(ioctl(fds[0], TIOCSPTLCK, &lock));
}

static void show_lock(void)
{
	int lock = -1;
	must(ioctl(fds[0], TIOCGPTLCK, &lock));
	say("%d", lock);
}

static void make_discipline(void)
{
	int null = 27; /* N_NULL */
	pair();
	must(ioctl(fds[1], TIOCSETD, &null));
}

static void show_discipline(void)
{
	int number = -1;
	must(ioctl(fds[1], TIOCGETD, &number));
	say("%d", number);
}

/* What was typed of a line that is not ended yet. */
static void make_line(void)
{
	pair();
	must(write(fds[0], "abc", 3));
}

static void show_line(void)
{
	char text[16];
	must(write(fds[0], "\n", 1));
	long length = must(read(fds[1], text, sizeof text));
	say("%.*s", (int)length - 1, text);
	must(write(fds[0], "abc", 3));
}

static void make_hung_up(void)
{
	pair();
	close(fds[0]);
}

static void show_hung_up(void)
{
	char byte;
	struct pollfd end = { fds[1], POLLIN, 0 };
	must(poll(&end, 1, 0));
	say("%x ", end.revents);
	say_result(read(fds[1], &byte, 1));
}

static void make_locked_settings(void)
{
	struct termios mask;
	pair();
	memset(&mask, 0, sizeof mask);
	mask.c_lflag = ECHO;
	must(ioctl(fds[1], TIOCSLCKTRMIOS, &mask));
}

static void show_locked_settings(void)
{
	struct termios mask;
	must(ioctl(fds[1], TIOCGLCKTRMIOS, &mask));
	say("%x", mask.c_lflag);
}

/* Another instance of devpts, and a terminal of it, whose number the container's own has not. */
static void open_instance(const char *directory, int number)
{
	int unlock = 0, others[32];
	char path[64];
	must(mkdir(directory, 0755));
	must(mount("devpts", directory, "devpts", 0, "newinstance,ptmxmode=0666"));
	snprintf(path, sizeof path, "%s/ptmx", directory);
	for (int i = 0; i < number; i++)
		others[i] = must(open(path, O_RDWR | O_NOCTTY));
	fds[0] = must(open(path, O_RDWR | O_NOCTTY));
	for (int i = 0; i < number; i++)
		close(others[i]);
	must(ioctl(fds[0], TIOCSPTLCK, &unlock));
	snprintf(path, sizeof path, "%s/%d", directory, number);
	fds[1] = must(open(path, O_RDWR | O_NOCTTY | O_NONBLOCK));
}

static void make_instance(void)
{
	open_instance("/instance", 31);
}

static void make_two_instances(void)
{
	pair();
	open_instance("/second", 0);
}

static void show_instance(void)
{
	char text[8] = "";
	must(write(fds[0], "x\n", 2));
	must(read(fds[1], text, sizeof text));
	say("%.1s", text);
}

/* memfds. */

static void make_unexecutable(void)
{
	fds[0] = must(memfd_create("unexecutable", 8 /* MFD_NOEXEC_SEAL */));
}

static void make_executable(void)
{
	fds[0] = must(memfd_create("executable", 0x10 /* MFD_EXEC */ | MFD_ALLOW_SEALING));
	must(fcntl(fds[0], F_ADD_SEALS, 0x20 /* F_SEAL_EXEC */));
}

static void show_seals(void)
{
	struct stat is;
	must(fstat(fds[0], &is));
	say("%o %x", is.st_mode, fcntl(fds[0], F_GET_SEALS));
}

/* What is mapped may be written still. */
static char *mapped;

static void make_future(void)
{
	fds[0] = must(memfd_create("future", MFD_ALLOW_SEALING));
	must(ftruncate(fds[0], 4096));
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	must(mapped == MAP_FAILED ? -1 : 0);
	must(fcntl(fds[0], F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */));
}

static void show_future(void)
{
	show_seals();
	++*mapped;
	say_result(write(fds[0], "x", 1));
}

static void make_mapped(void)
{
	fds[0] = must(memfd_create("mapped", MFD_ALLOW_SEALING));
	must(ftruncate(fds[0], 4096));
	must(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	must(mapped == MAP_FAILED ? -1 : 0);
	close(fds[0]);
}

static void show_mapped(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (long)mapped, (long)mapped + 4096);
	fds[0] = must(open(path, O_RDWR));
	show_seals();
	close(fds[0]);
}

static void make_attribute(void)
{
	fds[0] = must(memfd_create("attribute", 0));
	must(fsetxattr(fds[0], "user.kind", "dust", 4, 0));
}

static void show_attribute(void)
{
	char value[16] = "";
	say_result(fgetxattr(fds[0], "user.kind", value, sizeof value - 1));
	say("%s", value);
}

static void make_named(void)
{
	char name[250];
	memset(name, 'n', 249);
	memcpy(name, "a b\n/", 5);
	name[249] = 0;
	fds[0] = must(memfd_create(name, 0));
}

static void show_named(void)
{
	char path[64], target[300] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", fds[0]);
	long length = must(readlink(path, target, sizeof target - 1));
	say("%ld %d", length, !memcmp(target, "/memfd:a b\n/n", 13));
}

static void make_owned_memfd(void)
{
	fds[0] = must(memfd_create("owned", 0));
	must(fchown(fds[0], 12, 34));
	must(fchmod(fds[0], 0640));
}

static void show_owned_memfd(void)
{
	struct stat is;
	must(fstat(fds[0], &is));
	say("%d:%d %o", is.st_uid, is.st_gid, is.st_mode);
}

/* Who gets a signal of a descriptor, and which. */

static void own(int fd)
{
	must(fcntl(fd, F_SETOWN, getpid()));
	must(fcntl(fd, F_SETSIG, SIGUSR1));
	signal(SIGUSR1, SIG_IGN);
	must(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}

static void make_socket_owner(void)
{
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	own(fds[0]);
}

static void make_pipe_owner(void)
{
	must(pipe(fds));
	own(fds[0]);
}

static void make_udp_owner(void)
{
	fds[0] = must(socket(AF_INET, SOCK_DGRAM, 0));
	own(fds[0]);
}

static void make_terminal_owner(void)
{
	pair();
	own(fds[1]);
	fds[0] = fds[1];
}

static void show_owner(void)
{
	say("%s %d %o", fcntl(fds[0], F_GETOWN) == getpid() ? "own" : "another's", fcntl(fds[0], F_GETSIG), fcntl(fds[0], F_GETFL));
}

const struct property terminals[] = {
	{ "terminal-speeds", make_speed, show_speed },
	{ "terminal-locked", make_lock, show_lock },
	{ "terminal-discipline", make_discipline, show_discipline },
	{ "terminal-line-begun", make_line, show_line },
	{ "terminal-hung-up", make_hung_up, show_hung_up },
	{ "terminal-settings-locked", make_locked_settings, show_locked_settings },
	{ "terminal-of-another-instance", make_instance, show_instance },
	{ "terminals-of-one-number", make_two_instances, show_instance },
	{ "memfd-not-executable", make_unexecutable, show_seals },
	{ "memfd-executable", make_executable, show_seals },
	{ "memfd-sealed-against-writing", make_future, show_future },
	{ "memfd-sealed-and-closed", make_mapped, show_mapped },
	{ "memfd-attribute", make_attribute, show_attribute },
	{ "memfd-name", make_named, show_named },
	{ "memfd-owner-and-mode", make_owned_memfd, show_owned_memfd },
	{ "socket-owner", make_socket_owner, show_owner },
	{ "pipe-owner", make_pipe_owner, show_owner },
	{ "udp-owner", make_udp_owner, show_owner },
	{ "terminal-owner", make_terminal_owner, show_owner },
	{ 0 },
};
