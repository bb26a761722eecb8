/* torture THREADS PAGES: threads, and children that they fork, which do to their memory all that can be done to memory, and
 * know at each moment what every page must hold. One wrong byte is told in /fail, and ends all. What was done is counted in
 * the first word of /done. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))

/* An area and what is in it: a version for each page, 0 for zeros. */
struct area {
	uint64_t *at;
	uint64_t key;
	uint32_t *version;
	size_t pages;
};

struct worker {
	uint64_t random;
	struct area own, shared;
	int depth;
};

static volatile uint64_t *done;
/* Held where a hole is left for a moment that another thread's mapping could take. */
static pthread_mutex_t holes = PTHREAD_MUTEX_INITIALIZER;
static size_t pages;

static void fail(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
	char text[200];
	int length = snprintf(text, sizeof text, "%s: %#lx %#lx %#lx, errno %d\n", what, a, b, c, errno);
	int fd = open("/fail", O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (write(fd, text, length) < 0)
		abort();
	_exit(1);
}

static uint64_t next(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static uint64_t word(const struct area *a, size_t page, size_t n)
{
	uint64_t version = a->version[page];
	return version ? (a->key ^ page << 32 ^ n << 20 ^ version) * 0x9e3779b97f4a7c15ull : 0;
}

static void put(struct area *a, size_t page)
{
	uint64_t *at = a->at + page * WORDS;
	a->version[page]++;
	for (size_t n = 0; n < WORDS; n++)
		at[n] = word(a, page, n);
}

static void check(const struct area *a, size_t page, const char *what)
{
	const uint64_t *at = a->at + page * WORDS;
	for (size_t n = 0; n < WORDS; n++)
		if (at[n] != word(a, page, n))
			fail(what, (uint64_t)(at + n), at[n], word(a, page, n));
}

static void check_all(const struct area *a, const char *what)
{
	for (size_t page = 0; page < a->pages; page++)
		check(a, page, what);
}

static void *map(void *at, size_t count, int flags)
{
	void *got = mmap(at, count * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	if (got == MAP_FAILED)
		fail("mmap", (uint64_t)at, count, 0);
	return got;
}

static struct area area(uint64_t key, size_t count, int flags)
{
	struct area a = { map(NULL, count, flags), key, calloc(count, sizeof(uint32_t)), count };
	return a;
}

static void zero(struct area *a, size_t from, size_t count)
{
	memset(a->version + from, 0, count * sizeof *a->version);
}

/* Moves pages somewhere else and back, one by one, for they may be of several mappings. What is left behind keeps others out. */
static void move(struct area *a, size_t from, size_t count)
{
	pthread_mutex_lock(&holes);
	uint64_t *away = map(NULL, count, MAP_PRIVATE);
	pthread_mutex_unlock(&holes);
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	for (size_t n = 0; n < count; n++) {
		void *here = a->at + (from + n) * WORDS, *there = away + n * WORDS;
		if (mremap(here, PAGE, PAGE, flags | MREMAP_DONTUNMAP, there) != there)
			fail("mremap", (uint64_t)here, (uint64_t)there, 0);
		usleep(50);
		if (mremap(there, PAGE, PAGE, flags, here) != here)
			fail("mremap back", (uint64_t)there, (uint64_t)here, 0);
		check(a, from + n, "moved");
	}
}

/* The kernel may take these pages or leave them; each is then what it was, or zeros. */
static void free_lazily(struct area *a, size_t from, size_t count)
{
	if (madvise(a->at + from * WORDS, count * PAGE, MADV_FREE))
		fail("MADV_FREE", from, count, 0);
	usleep(50);
	for (size_t page = from; page < from + count; page++) {
		volatile uint64_t *at = a->at + page * WORDS;
		/* Written first, so that it cannot go any more. */
		uint64_t first = at[0];
		at[0] = first;
		if (first != word(a, page, 0) || at[0] != first) {
			for (size_t n = 0; n < WORDS; n++)
				if (at[n] != 0)
					fail("MADV_FREE left", (uint64_t)(at + n), at[n], 0);
			a->version[page] = 0;
		}
		put(a, page);
	}
}

static void work(struct worker *w, uint64_t times);

/* A child has all that its parent has, works on it, and ends well. */
static void child(struct worker *w)
{
	pthread_mutex_lock(&holes);
	pid_t pid = fork();
	pthread_mutex_unlock(&holes);
	if (pid < 0)
		fail("fork", 0, 0, 0);
	if (pid == 0) {
		struct worker mine = *w;
		/* What is shared stays the parent's. */
		mine.shared.pages = 0;
		mine.depth++;
		mine.random ^= getpid();
		check_all(&mine.own, "child's");
		work(&mine, 200);
		_exit(0);
	}
	check_all(&w->own, "after fork");
	int status;
	while (waitpid(pid, &status, 0) != pid)
		if (errno != EINTR)
			fail("waitpid", pid, 0, 0);
	if (status)
		fail("a child ended", status, 0, 0);
}

static void step(struct worker *w)
{
	struct area *a = &w->own;
	size_t from = next(w) % a->pages, count = 1 + next(w) % 16;
	if (count > a->pages - from)
		count = a->pages - from;
	void *at = a->at + from * WORDS;
	uint64_t kind = next(w) % 1000;
	if (kind < 700) {
		for (size_t page = from; page < from + count; page++)
			put(a, page);
	} else if (kind < 800) {
		if (w->shared.pages)
			put(&w->shared, next(w) % w->shared.pages);
	} else if (kind < 850) {
		if (madvise(at, count * PAGE, MADV_DONTNEED))
			fail("MADV_DONTNEED", from, count, 0);
		zero(a, from, count);
	} else if (kind < 900) {
		free_lazily(a, from, count);
	} else if (kind < 930) {
		pthread_mutex_lock(&holes);
		if (munmap(at, count * PAGE))
			fail("munmap", from, count, 0);
		usleep(50);
		map(at, count, MAP_PRIVATE | MAP_FIXED);
		pthread_mutex_unlock(&holes);
		zero(a, from, count);
	} else if (kind < 960) {
		if (mprotect(at, count * PAGE, PROT_READ))
			fail("mprotect", from, count, 0);
		check(a, from, "read only");
		if (mprotect(at, count * PAGE, PROT_READ | PROT_WRITE))
			fail("mprotect", from, count, 0);
	} else if (kind < 980) {
		move(a, from, count);
	} else if (kind < 990) {
		/* Without CONFIG_KSM it does nothing. */
		madvise(at, count * PAGE, MADV_MERGEABLE);
	} else if (kind < 994 && w->depth < 2) {
		child(w);
	} else {
		check_all(a, "own");
		if (w->shared.pages)
			check_all(&w->shared, "shared");
	}
	check(a, next(w) % a->pages, "a page");
}

static void work(struct worker *w, uint64_t times)
{
	for (uint64_t n = 0; n < times; n++) {
		step(w);
		__atomic_add_fetch(done, 1, __ATOMIC_RELAXED);
		if (n % 32 == 0)
			usleep(1000);
	}
	check_all(&w->own, "in the end");
}

static void *run(void *number)
{
	uint64_t key = (uint64_t)number * 0x1000193;
	struct worker w = { .random = key + 88172645463325252ull };
	w.own = area(key, pages, MAP_PRIVATE);
	w.shared = area(~key, 64, MAP_SHARED);
	for (size_t page = 0; page < pages; page++)
		put(&w.own, page);
	work(&w, UINT64_MAX);
	return NULL;
}

int main(int count, char **arguments)
{
	int threads = count > 1 ? atoi(arguments[1]) : 4;
	pages = count > 2 ? atoi(arguments[2]) : 2000;
	int fd = open("/done", O_RDWR | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || ftruncate(fd, PAGE))
		return 1;
	done = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	for (long n = 1; n < threads; n++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, run, (void *)n))
			return 1;
	}
	run((void *)(long)threads);
	return 0;
}
