/*
 * odd KIND...: a process with something that checkpoints stumble over. For each KIND it makes one such thing, then it
 * makes the file /ready and waits. A failure is written to /failed, with the errno: 38 (ENOSYS) and the like mean that
 * the kernel has no such thing.
 *
 * Statically linked, so that it runs in any root filesystem.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *doing = "start";
/* An inotify descriptor, of which each event is written down. */
static int watch = -1;

static void failed(void)
{
	int error = errno;
	int fd = open("/failed.new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
	dprintf(fd, "%s: %d\n", doing, error);
	rename("/failed.new", "/failed");
	_exit(1);
}

static long must(long result)
{
	if (result < 0)
		failed();
	return result;
}

static void forever(void)
{
	for (;;)
		pause();
}

static void *thread(void *unused)
{
	(void)unused;
	forever();
	return NULL;
}

/* A unix socket of `type` that is connected to the one at /outside. */
static void outside(int type)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "/outside/socket" };
	int fd = must(socket(AF_UNIX, type, 0));
	must(connect(fd, (void *)&name, sizeof name));
}

/* A file of `size` bytes without a name; with `keep` it has another one. */
static int removed(const char *path, long size, const char *keep)
{
	int fd = must(open(path, O_RDWR | O_CREAT, 0644));
	char block[65536];
	memset(block, 'x', sizeof block);
	for (long done = 0; done < size; done += sizeof block)
		must(write(fd, block, sizeof block));
	if (keep)
		must(link(path, keep));
	must(unlink(path));
	return fd;
}

/* TCP at an address of this machine's: a listener, and a connection that nobody accepts, or that somebody does. */
static void tcp(int accepted, const char *address)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(address) };
	socklen_t length = sizeof name;
	int listener = must(socket(AF_INET, SOCK_STREAM, 0));
	must(bind(listener, (void *)&name, sizeof name));
	must(listen(listener, 4));
	must(getsockname(listener, (void *)&name, &length));
	int client = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(client, (void *)&name, sizeof name));
	if (accepted)
		must(accept(listener, NULL, NULL));
	else /* its own end is not what is to be complained about */
		close(client);
}

static void perf(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK };
	attr.exclude_kernel = 1;
	must(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0));
}

static int bpf(void)
{
	union bpf_attr attr;
	struct bpf_insn program[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K }, { .code = BPF_JMP | BPF_EXIT } };
	memset(&attr, 0, sizeof attr);
	attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	attr.insns = (unsigned long)program;
	attr.insn_cnt = 2;
	attr.license = (unsigned long)"GPL";
	return must(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
}

static void io_uring(void)
{
	char params[120] = { 0 }; /* struct io_uring_params */
	must(syscall(SYS_io_uring_setup, 4, params));
}

static void child(long flags)
{
	/* a child in namespaces of its own */
	long pid = must(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
	if (pid == 0)
		forever();
}

static void traced(void)
{
	long pid = must(fork());
	if (pid == 0)
		forever();
	must(ptrace(PTRACE_SEIZE, pid, 0, 0));
}

static void stopped(void)
{
	long pid = must(fork());
	if (pid == 0)
		forever();
	must(kill(pid, SIGSTOP));
	must(waitpid(pid, NULL, WUNTRACED));
}

static void zombie_with_threads(void)
{
	long pid = must(fork());
	if (pid == 0) {
		pthread_t unused;
		if (pthread_create(&unused, NULL, thread, NULL))
			_exit(1);
		syscall(SYS_exit, 0); /* this thread alone */
	}
	usleep(100000);
}

static void netlink_unread(void)
{
	struct sockaddr_nl { unsigned short family, pad; unsigned pid, groups; } name = { AF_NETLINK, 0, 0, 0 };
	struct { unsigned len; unsigned short type, flags; unsigned seq, pid; unsigned char family, pad[3]; } ask = {
		20, 18 /* RTM_GETLINK */, 1 | 0x300 /* NLM_F_REQUEST | NLM_F_DUMP */, 1, 0, 0, { 0 } };
	int fd = must(socket(AF_NETLINK, SOCK_RAW, 0));
	must(bind(fd, (void *)&name, sizeof name));
	must(send(fd, &ask, sizeof ask, 0));
	usleep(50000);
}

static void lock(int posix)
{
	int fd = must(open("/locked", O_RDWR | O_CREAT, 0644));
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	must(posix ? fcntl(fd, F_SETLK, &range) : flock(fd, LOCK_EX));
}

/* A file of /proc that belonged to a process which has ended, and its directory. */
static void ended_proc(void)
{
	char name[64];
	long pid = must(fork());
	if (pid == 0)
		forever();
	snprintf(name, sizeof name, "/proc/%ld/status", pid);
	must(open(name, O_RDONLY));
	snprintf(name, sizeof name, "/proc/%ld", pid);
	must(open(name, O_RDONLY | O_DIRECTORY));
	must(kill(pid, SIGKILL));
	must(waitpid(pid, NULL, 0));
}

/* A terminal made here, and a child of its session that has it open by the name that every process has for its own. */
static void dev_tty(void)
{
	int master = must(posix_openpt(O_RDWR | O_NOCTTY));
	must(grantpt(master));
	must(unlockpt(master));
	if (must(fork()) == 0) {
		must(setsid());
		must(open(ptsname(master), O_RDWR));
		must(open("/dev/tty", O_RDWR));
		close(must(open("/has-tty", O_WRONLY | O_CREAT, 0644)));
		forever();
	}
	while (access("/has-tty", F_OK))
		usleep(10000);
}

/* in a domain that forbids to read directories (linux/landlock.h) */
static void landlock(void)
{
	unsigned long long read_dir = 1 << 3;
	int ruleset = must(syscall(444 /* landlock_create_ruleset */, &read_dir, sizeof read_dir, 0));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(446 /* landlock_restrict_self */, ruleset, 0));
	close(ruleset);
}

static void secret(void)
{
	int fd = must(syscall(447 /* memfd_secret */, 0));
	must(ftruncate(fd, 4096));
	must((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

static void undo(void)
{
	struct sembuf up = { 0, 1, SEM_UNDO };
	must(semop(must(semget(77, 1, 0600 | IPC_CREAT)), &up, 1));
}

static void threads(void)
{
	pthread_t unused;
	if (pthread_create(&unused, NULL, thread, NULL))
		exit(1);
}

/* mq_open(3) without its library */
/* In a group that CRIU has no room for. */
static void netlink_groups(void)
{
	int fd = must(socket(AF_NETLINK, SOCK_RAW, 0));
	must(bind(fd, (void *)&(struct sockaddr){ AF_NETLINK, { 0 } }, 12));
	must(setsockopt(fd, 270 /* SOL_NETLINK */, 1 /* NETLINK_ADD_MEMBERSHIP */, &(int){ 36 }, sizeof(int)));
}

static void udp_corked(void)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = inet_addr("127.0.0.1") };
	int fd = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(setsockopt(fd, IPPROTO_UDP, 1 /* UDP_CORK */, &(int){ 1 }, sizeof(int)));
	must(sendto(fd, "word", 4, 0, (void *)&name, sizeof name));
}

static void socket_filter(void)
{
	int program = bpf(), fd = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(setsockopt(fd, SOL_SOCKET, 50 /* SO_ATTACH_BPF */, &program, sizeof program));
	must(close(program));
}

static void unix_ancillary(void)
{
	int fds[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	must(setsockopt(fds[1], SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	must(write(fds[0], "word", 4));
}

static void unix_credentials(void)
{
	must(seteuid(1000));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){ 0 }));
	must(seteuid(0));
}

static void unix_in_flight(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0odd" };
	int listener = must(socket(AF_UNIX, SOCK_STREAM, 0)), fd = must(socket(AF_UNIX, SOCK_STREAM, 0));
	must(bind(listener, (void *)&name, sizeof name));
	must(listen(listener, 1));
	must(connect(fd, (void *)&name, sizeof name));
	must(write(fd, "word", 4));
}

static long message_queue(void)
{
	struct { long flags, maximum, size, now, reserved[4]; } attr = { 0, 4, 64, 0, { 0 } };
	return must(syscall(SYS_mq_open, "odd", O_RDWR | O_CREAT, 0600, &attr));
}

static void make(const char *kind)
{
	const char *rest = strchr(kind, '=');
	rest = rest ? rest + 1 : "";
	doing = kind;
#define KIND(name) (!strcmp(kind, name))
	if (KIND("tcp"))
		tcp(1, "127.0.0.1");
	else if (!strncmp(kind, "tcp=", 4))
		tcp(1, rest);
	else if (KIND("tcp-in-flight"))
		tcp(0, "127.0.0.1");
	else if (KIND("unix-stream"))
		outside(SOCK_STREAM);
	else if (KIND("unix-datagram"))
		outside(SOCK_DGRAM);
	else if (!strncmp(kind, "deleted=", 8))
		removed("/tmp/deleted", atol(rest), NULL);
	else if (!strncmp(kind, "deleted-mapped=", 15))
		must((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, removed("/tmp/mapped", atol(rest), NULL), 0));
	else if (KIND("removed-with-link"))
		removed("/tmp/first", 65536, "/tmp/second");
	else if (KIND("flock"))
		lock(0);
	else if (KIND("posix-lock"))
		lock(1);
	else if (KIND("io_uring"))
		io_uring();
	else if (KIND("userfaultfd"))
		must(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
	else if (KIND("perf"))
		perf();
	else if (KIND("bpf"))
		bpf();
	else if (KIND("vsock"))
		must(socket(AF_VSOCK, SOCK_STREAM, 0));
	else if (KIND("alg"))
		must(socket(38 /* AF_ALG */, SOCK_SEQPACKET, 0));
	else if (KIND("mptcp"))
		must(socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */));
	else if (KIND("sctp"))
		must(socket(AF_INET, SOCK_STREAM, 132));
	else if (KIND("packet"))
		must(socket(AF_PACKET, SOCK_RAW, htons(3)));
	else if (KIND("netlink-unread"))
		netlink_unread();
	else if (KIND("pid-namespace"))
		child(CLONE_NEWPID);
	else if (KIND("uts-namespace"))
		child(CLONE_NEWUTS);
	else if (KIND("ipc-namespace"))
		child(CLONE_NEWIPC);
	else if (KIND("user-namespace"))
		child(CLONE_NEWUSER);
	else if (KIND("packet-pipe"))
		must(pipe2((int[2]){ 0 }, O_DIRECT));
	else if (KIND("netlink-groups"))
		netlink_groups();
	else if (KIND("udp-corked"))
		udp_corked();
	else if (KIND("socket-filter"))
		socket_filter();
	else if (KIND("unix-ancillary"))
		unix_ancillary();
	else if (KIND("unix-credentials"))
		unix_credentials();
	else if (KIND("unix-in-flight"))
		unix_in_flight();
	else if (KIND("message-queue"))
		message_queue();
	else if (KIND("message-queue-closed"))
		must(close(message_queue()));
	else if (KIND("secret"))
		secret();
	else if (KIND("landlock"))
		landlock();
	else if (KIND("undo"))
		undo();
	else if (KIND("threads"))
		threads();
	else if (KIND("dev-tty"))
		dev_tty();
	else if (KIND("ended-proc"))
		ended_proc();
	else if (!strncmp(kind, "watch=", 6))
		watch = must(inotify_init1(O_NONBLOCK)), must(inotify_add_watch(watch, rest, IN_CREATE | IN_DELETE_SELF));
	else if (!strncmp(kind, "chroot=", 7)) {
		must(chroot(rest));
		must(chdir("/"));
	} else if (KIND("sysv"))
		must((long)shmat(must(shmget(IPC_PRIVATE, 4096, 0600)), NULL, 0));
	else if (KIND("traced"))
		traced();
	else if (KIND("stopped"))
		stopped();
	else if (KIND("zombie-with-threads"))
		zombie_with_threads();
	else if (!strncmp(kind, "open=", 5))
		must(open(rest, O_RDWR));
	else if (!strncmp(kind, "read=", 5))
		must(open(rest, O_RDONLY));
	else if (!strncmp(kind, "device=", 7)) {
		must(mknod("/dev/odd", S_IFCHR | 0600, makedev(10, atoi(rest))));
		must(open("/dev/odd", O_RDWR));
	}
	else if (!strncmp(kind, "user=", 5))
		must(setresuid(atoi(rest), atoi(rest), atoi(rest)));
	else if (!strncmp(kind, "memory=", 7)) {
		char *memory = (void *)must((long)mmap(NULL, atol(rest), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		for (long i = 0; i < atol(rest); i += 8)
			*(long *)(memory + i) = i * 0x9e3779b97f4a7c15;
	} else {
		errno = EINVAL;
		failed();
	}
}

/* `odd swrk FD` plays a CRIU 3.15: each question is answered with that version (criu_resp of rpc.proto). */
static void old_criu(int socket)
{
	static const char answer[] = { 0x08, 10, 0x10, 1, 0x52, 4, 0x08, 3, 0x10, 15 };
	char question[4096];
	while (recv(socket, question, sizeof question, 0) > 0)
		send(socket, answer, sizeof answer, 0);
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "swrk"))
		old_criu(atoi(argv[2]));
	for (int i = 1; i < argc; i++)
		make(argv[i]);
	doing = "ready";
	close(must(open("/ready", O_WRONLY | O_CREAT, 0644)));
	while (watch >= 0) {
		char events[4096];
		if (read(watch, events, sizeof events) > 0)
			close(must(open("/seen", O_WRONLY | O_CREAT, 0644)));
		usleep(50000);
	}
	forever();
}
