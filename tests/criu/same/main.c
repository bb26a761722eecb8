/*
 * same NAME...: has the properties that are named, and shows them whenever it is asked.
 *
 * It writes /ready when all are made. Then each number N in /ask, other than the one before, is answered by a file
 * /answer-N with a line `NAME=VALUE` for each property, or `NAME!WORDS` for one that failed.
 *
 * same --list: prints `AREA NAME` for all properties.
 *
 * Statically linked, so that it runs in any root filesystem.
 */
#include <sys/socket.h>
#include "same.h"
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>

static const struct {
	const char *name;
	const struct property *properties;
} areas[] = {
	{ "tasks", tasks },
	{ "signals", signals },
	{ "memory", memory },
	{ "processor", processor },
	{ "files", files },
	{ "sockets", sockets },
	{ "queues", queues },
	{ "timers", timers },
	{ "ipc", ipc },
	{ "networks", networks },
	{ "mounts", mounts },
	{ "cgroups", cgroups },
	{ "namespaces", namespaces },
	{ "threads", threads },
	{ "protocols", protocols },
	{ "descriptors", descriptors },
	{ "calls", calls },
	{ "numbers", numbers },
	{ "terminals", terminals },
	{ "registrations", registrations },
	{ "rarer", rarer },
};

/* What a property's process shares with the first one. */
struct slot {
	/* The round that it has answered, from 1 for its being made. */
	atomic_int answered;
	atomic_int failed;
	char value[8000];
};
static struct {
	/* The round that is asked for. */
	atomic_int round;
	struct slot slots[];
} *shared;
static struct slot *own;

void say(const char *format, ...)
{
	size_t used = strlen(own->value);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(own->value + used, sizeof own->value - used, format, arguments);
	va_end(arguments);
}

void fail(const char *words)
{
	int error = errno;
	own->value[0] = 0;
	say("%s: %s", words, strerror(error));
	own->failed = 1;
	_exit(1);
}

long must_be(long result, const char *words)
{
	if (result == -1)
		fail(words);
	return result;
}

void say_result(long result)
{
	if (result == -1)
		say("%s ", strerrorname_np(errno));
	else
		say("%ld ", result);
}

void say_option(int fd, int level, int number, size_t size)
{
	unsigned char value[256] = { 0 };
	socklen_t length = size;
	must(getsockopt(fd, level, number, value, &length));
	for (size_t i = 0; i < length; i++)
		say("%02x", value[i]);
	say(" ");
}

char *file(const char *path)
{
	size_t size = 1 << 16, used = 0;
	char *text = malloc(size);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;
	must_be(fd, path);
	while ((got = must_be(read(fd, text + used, size - used - 1), path)) > 0)
		if ((used += got) == size - 1)
			text = realloc(text, size *= 2);
	text[used] = 0;
	close(fd);
	return text;
}

void say_file(const char *path)
{
	char *text = file(path);
	say("%s", text);
	free(text);
}

void say_lines(const char *path, ...)
{
	char *text = file(path), *rest = text, *line;
	while ((line = strsep(&rest, "\n"))) {
		va_list words;
		const char *word;
		va_start(words, path);
		while ((word = va_arg(words, const char *)))
			if (!strncmp(line, word, strlen(word)))
				say("%s\n", line);
		va_end(words);
	}
	free(text);
}

int new_file(const char *path, const char *text)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	must_be(fd, path);
	must_be(write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1, path);
	return fd;
}

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	must_be(fd, path);
	must_be(write(fd, text, strlen(text)), path);
	close(fd);
}

_Noreturn void forever(void)
{
	for (;;)
		pause();
}

pid_t child(void (*body)(void))
{
	pid_t pid = must(fork());
	if (pid)
		return pid;
	body();
	forever();
}

static void sleep_until_changed(atomic_int *word, int value)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void change(atomic_int *word, int value)
{
	*word = value;
	syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/* The second thread, and what it is to do. */
static atomic_int turn;
static void (*task)(void);

static void *second_thread(void *unused)
{
	for (;;) {
		while (turn != 1)
			sleep_until_changed(&turn, 0);
		task();
		change(&turn, 0);
	}
	return unused;
}

void on_thread(void (*what)(void))
{
	static pthread_t thread;
	if (!thread && (errno = pthread_create(&thread, NULL, second_thread, NULL)))
		fail("pthread_create");
	task = what;
	change(&turn, 1);
	while (turn)
		sleep_until_changed(&turn, 1);
}

/* What a property's process does. */
static _Noreturn void live(const struct property *property)
{
	int round = 1;
	if (property->make)
		property->make();
	own->value[0] = 0;
	own->answered = round;
	for (;;) {
		while (shared->round == round)
			sleep_until_changed(&shared->round, round);
		round = shared->round;
		own->value[0] = 0;
		property->show();
		own->answered = round;
	}
}

static const struct property *find(const char *name)
{
	for (size_t i = 0; i < COUNT(areas); i++)
		for (const struct property *p = areas[i].properties; p->name; p++)
			if (!strcmp(p->name, name))
				return p;
	fprintf(stderr, "same: there is no property '%s'\n", name);
	exit(2);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
}

/* Waits until all have answered, for at most 8 seconds in all; writes what they say to a file. */
static void collect(int round, char **names, int count, const char *path)
{
	FILE *out = fopen("/answer.new", "we");
	int patience = 800;
	for (int i = 0; i < count; i++) {
		struct slot *slot = shared->slots + i;
		while (slot->answered != round && !slot->failed && patience-- > 0)
			nap();
		if (slot->failed)
			fprintf(out, "%s!", names[i]);
		else if (slot->answered != round)
			fprintf(out, "%s!no answer: ", names[i]);
		else
			fprintf(out, "%s=", names[i]);
		for (const char *c = slot->value; *c; c++)
			if (*c != '\n' || c[1])
				fputc(*c == '\n' ? ' ' : *c, out);
		fputc('\n', out);
	}
	fclose(out);
	rename("/answer.new", path);
}

static int asked(void)
{
	char text[16] = "";
	int fd = open("/ask", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof text - 1) < 0)
		text[0] = 0;
	close(fd);
	return atoi(text);
}

int main(int argc, char **argv)
{
	char **names = argv + 1;
	int count = argc - 1, number = 0;
	if (count == 1 && !strcmp(names[0], "--list")) {
		for (size_t i = 0; i < COUNT(areas); i++)
			for (const struct property *p = areas[i].properties; p->name; p++)
				printf("%s %s\n", areas[i].name, p->name);
		return 0;
	}
	shared = mmap(NULL, sizeof *shared + count * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	shared->round = 1;
	for (int i = 0; i < count; i++) {
		const struct property *property = find(names[i]);
		own = shared->slots + i;
		/* all files are made with the modes that are asked for */
		umask(0);
		if (fork() == 0)
			live(property);
	}
	collect(1, names, count, "/ready");
	for (;;) {
		int now = asked();
		if (now && now != number) {
			char path[32];
			snprintf(path, sizeof path, "/answer-%d", number = now);
			change(&shared->round, shared->round + 1);
			collect(shared->round, names, count, path);
		}
		nap();
	}
}
