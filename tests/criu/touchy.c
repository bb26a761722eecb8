/* Changes its memory in every way while it is checked: each page has a value that follows from its number, and a page that was
 * discarded has zeros. Memory moves, goes, comes anew, is protected and is forked; children check what they have and change it,
 * too. /dev/shm/rounds has how often that went well, /dev/shm/wrong what was found otherwise. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 256, SLICES = 48, THREADS = 2 };

struct slice {
	char *at;
	/* Not mapped by one call: as long as memory is tracked or comes, mremap(2) of what is new and what is old at once fails, after
	 * it has moved a part on Linux 6.17 and later (docs/limits.md). */
	int parts;
	/* 0: discarded */
	uint64_t value[PAGES];
};

struct worker {
	struct slice slices[SLICES];
	uint64_t next, seed;
};

static struct worker workers[THREADS];
static int rounds;

static void wrong(const char *what, ...)
{
	char text[300];
	va_list list;
	va_start(list, what);
	int n = vsnprintf(text, sizeof text - 1, what, list);
	va_end(list);
	text[n++] = '\n';
	int fd = open("/dev/shm/wrong", O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (write(fd, text, n) != n)
		abort();
	/* What was written would go with it. */
	for (;;)
		pause();
}

static uint64_t draw(struct worker *w, uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed % below;
}

static void fill(struct worker *w, struct slice *s, int page)
{
	uint64_t *to = (uint64_t *)(s->at + page * PAGE);
	s->value[page] = ++w->next;
	for (int i = 0; i < PAGE / 8; i++)
		to[i] = s->value[page] * 0x9e3779b97f4a7c15 + i;
}

static void check(struct slice *s, int page, const char *when)
{
	uint64_t *is = (uint64_t *)(s->at + page * PAGE), value = s->value[page];
	for (int i = 0; i < PAGE / 8; i++) {
		uint64_t expected = value ? value * 0x9e3779b97f4a7c15 + i : 0;
		if (is[i] != expected)
			wrong("%s: %p word %d is %lx, expected %lx (value %lu)", when, (void *)is, i, is[i], expected, value);
	}
}

static void check_all(struct worker *w, const char *when)
{
	for (int i = 0; i < SLICES; i++)
		for (int page = 0; page < PAGES; page++)
			check(&w->slices[i], page, when);
}

static char *map(void)
{
	char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		wrong("mmap: %s", strerror(errno));
	return at;
}

static void change(struct worker *w, int child)
{
	struct slice *s = &w->slices[draw(w, SLICES)];
	int page = draw(w, PAGES), count = 1 + draw(w, PAGES - page);
	char *at = s->at + page * PAGE;
	check(s, page, "before");
	switch (draw(w, child ? 6 : 7)) {
	case 0: /* write */
		for (int i = 0; i < count; i++)
			fill(w, s, page + i);
		break;
	case 1: /* discard */
		if (madvise(at, count * PAGE, MADV_DONTNEED))
			wrong("madvise: %s", strerror(errno));
		memset(&s->value[page], 0, count * 8);
		break;
	case 2: { /* move all, where something else was */
		if (s->parts)
			break;
		s->at = mremap(s->at, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, map());
		if (s->at == MAP_FAILED)
			wrong("mremap: %s", strerror(errno));
		break;
	}
	case 3: /* gone, and anew at the same place; in one step, for the other thread also takes what is free */
		s->parts = draw(w, 4) == 0;
		if (!s->parts) {
			page = 0;
			count = PAGES;
			at = s->at;
		}
		if (mmap(at, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
			wrong("mmap at %p: %s", at, strerror(errno));
		memset(&s->value[page], 0, count * 8);
		break;
	case 4: /* areas of other rights, which are areas of their own */
		if (mprotect(at, count * PAGE, PROT_READ))
			wrong("mprotect: %s", strerror(errno));
		check(s, page + count - 1, "read only");
		if (mprotect(at, count * PAGE, PROT_READ | PROT_WRITE))
			wrong("mprotect back: %s", strerror(errno));
		break;
	case 5: { /* by the kernel: a system call reads what may be missing, and one writes there */
		int ends[2];
		if (pipe(ends) || write(ends[1], at, PAGE) != PAGE || read(ends[0], at, PAGE) != PAGE)
			wrong("through a pipe: %s", strerror(errno));
		close(ends[0]);
		close(ends[1]);
		break;
	}
	case 6: { /* a child, which changes what it has */
		pid_t pid = fork();
		if (pid == 0) {
			for (int i = 0; i < 20; i++)
				change(w, 1);
			if (draw(w, 4) == 0)
				check_all(w, "in a child");
			_exit(0);
		}
		int status;
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			wrong("a child: pid %d status %x %s", pid, status, strerror(errno));
		break;
	}
	}
	check(s, page, "after");
}

static void *work(void *argument)
{
	struct worker *w = argument;
	for (;;) {
		for (int i = 0; i < 100; i++)
			change(w, 0);
		check_all(w, "all");
		__atomic_add_fetch(&rounds, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

int main(void)
{
	for (int t = 0; t < THREADS; t++) {
		struct worker *w = &workers[t];
		w->seed = 88172645463325252 + t;
		w->next = (uint64_t)t << 40;
		for (int i = 0; i < SLICES; i++) {
			w->slices[i].at = map();
			for (int page = 0; page < PAGES; page++)
				fill(w, &w->slices[i], page);
		}
	}
	for (int t = 0; t < THREADS; t++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, work, &workers[t]))
			wrong("pthread_create");
	}
	for (;;) {
		usleep(20000);
		int fd = open("/dev/shm/.rounds", O_WRONLY | O_CREAT | O_TRUNC, 0644);
		dprintf(fd, "%d\n", __atomic_load_n(&rounds, __ATOMIC_SEQ_CST));
		close(fd);
		rename("/dev/shm/.rounds", "/dev/shm/rounds");
	}
}
