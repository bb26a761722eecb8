/* Memory and the areas that hold it. */
#include "same.h"
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/uio.h>

#define MiB (1UL << 20)

static char *area;
static size_t length;
static pid_t the_child;

/* A new area, filled with what depends on the place. */
static char *map(size_t size, int protection, int flags, int fd)
{
	char *new = mmap(NULL, size, protection | PROT_READ, flags, fd, 0);
	must(new == MAP_FAILED ? -1 : 0);
	length = size;
	return new;
}

static char *anonymous(size_t size)
{
	return map(size, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void fill(char *at, size_t size)
{
	for (size_t i = 0; i < size; i += sizeof(long))
		*(long *)(at + i) = (long)(i * 0x9e3779b97f4a7c15);
}

static void say_content(const char *at, size_t size)
{
	unsigned long sum = 5381;
	for (size_t i = 0; i < size; i++)
		sum = sum * 33 + (unsigned char)at[i];
	say("%lx ", sum);
}

/* The line of /proc/self/maps that begins at the area, without device and inode number. */
static void say_map(const char *at)
{
	char *text = file("/proc/self/maps"), *rest = text, *line;
	while ((line = strsep(&rest, "\n"))) {
		unsigned long from, to, offset;
		char protection[8], name[256] = "";
		if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %255[^\n]", &from, &to, protection, &offset, name) >= 4 && from == (unsigned long)at)
			say("%lu %s %lx %s ", to - from, protection, offset, name);
	}
	free(text);
}

/* What /proc/self/smaps says of the area, of the fields that begin with `word`. */
static void say_smaps(const char *at, const char *word)
{
	char *text = file("/proc/self/smaps"), *rest = text, *line, head[20];
	int inside = 0;
	snprintf(head, sizeof head, "%08lx-", (unsigned long)at);
	while ((line = strsep(&rest, "\n"))) {
		if (strchr("0123456789abcdef", line[0]) && line[0])
			inside = !strncmp(line, head, strlen(head));
		if (inside && !strncmp(line, word, strlen(word)))
			say("%s ", line);
	}
	free(text);
}

/* Content and kinds of areas */

static void make_private(void)
{
	area = anonymous(MiB);
	fill(area, MiB / 2);
}

static void show_area(void)
{
	say_map(area);
	say_content(area, length);
}

static void make_protections(void)
{
	area = anonymous(5 * 4096);
	must(mprotect(area, 4096, PROT_NONE));
	must(mprotect(area + 4096, 4096, PROT_READ));
	must(mprotect(area + 2 * 4096, 4096, PROT_READ | PROT_EXEC));
	must(mprotect(area + 3 * 4096, 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
}

static void show_protections(void)
{
	for (int i = 0; i < 5; i++)
		say_map(area + i * 4096);
}

static void make_private_file(void)
{
	int fd = new_file("/mapped-private", "");
	must(ftruncate(fd, 65536));
	area = map(65536, PROT_WRITE, MAP_PRIVATE, fd);
	close(fd);
	strcpy(area + 4096, "changed here alone");
}

static void show_private_file(void)
{
	show_area();
	say_content(file("/mapped-private"), 1);
}

static void make_shared_file(void)
{
	int fd = new_file("/mapped-shared", "before");
	must(ftruncate(fd, 65536));
	area = map(65536, PROT_WRITE, MAP_SHARED, fd);
	close(fd);
	strcpy(area, "after");
}

static void show_shared_file(void)
{
	show_area();
	/* what is written to it is in the file */
	area[4096]++;
	int fd = must(open("/mapped-shared", O_RDONLY | O_CLOEXEC));
	char byte = 0;
	must(pread(fd, &byte, 1, 4096));
	say("%d", byte == area[4096]);
	area[4096] = 0;
	close(fd);
}

static void make_removed_file(void)
{
	int fd = new_file("/removed", "");
	must(ftruncate(fd, 65536));
	area = map(65536, PROT_WRITE, MAP_SHARED, fd);
	close(fd);
	must(unlink("/removed"));
	fill(area, 65536);
}

static void make_memfd(void)
{
	int fd = must(memfd_create("same", MFD_CLOEXEC));
	must(ftruncate(fd, MiB));
	area = map(MiB, PROT_WRITE, MAP_SHARED, fd);
	close(fd);
	fill(area, MiB / 4);
}

static void make_zero_device(void)
{
	int fd = must(open("/dev/zero", O_RDWR | O_CLOEXEC));
	area = map(65536, PROT_WRITE, MAP_PRIVATE, fd);
	close(fd);
	fill(area, 65536);
}

/* Two processes, one of which answers with one more in the second word whatever the first one writes to the first. */
static void answer(void)
{
	volatile int *words = (int *)area;
	for (;;) {
		words[1] = words[0] + 1;
		usleep(1000);
	}
}

static void make_shared_anonymous(void)
{
	area = map(MiB, PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	fill(area + 4096, MiB / 2);
	child(answer);
}

static void show_shared_anonymous(void)
{
	volatile int *words = (int *)area;
	say_content(area + 4096, MiB - 4096);
	words[0]++;
	for (int i = 0; i < 2000 && words[1] != words[0] + 1; i++)
		usleep(1000);
	say("%s", words[1] == words[0] + 1 ? "shared" : "apart");
}

static void make_copy_on_write(void)
{
	area = anonymous(MiB);
	fill(area, MiB);
	the_child = child(forever);
}

static void say_shared(const char *at)
{
	char *text = file("/proc/self/smaps"), *rest = text, *line, head[20];
	int inside = 0;
	snprintf(head, sizeof head, "%08lx-", (unsigned long)at);
	while ((line = strsep(&rest, "\n"))) {
		if (strchr("0123456789abcdef", line[0]) && line[0])
			inside = !strncmp(line, head, strlen(head));
		if (inside && !strncmp(line, "Shared_Dirty:", 13))
			say("%s", atol(line + 13) > 512 ? "one copy" : "two copies");
	}
	free(text);
}

static void show_copy_on_write(void)
{
	say_shared(area);
}

static void make_untouched(void)
{
	area = anonymous(64 * MiB);
}

static void show_untouched(void)
{
	say_smaps(area, "Rss:");
}

static void make_break(void)
{
	area = sbrk(MiB);
	must(area == (void *)-1 ? -1 : 0);
	fill(area, MiB);
}

static void show_break(void)
{
	say("%p ", sbrk(0));
	say_content(area, MiB);
}

static void make_grows_down(void)
{
	area = map(65536, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
	fill(area, 65536);
}

static void show_flags(void)
{
	say_map(area);
	say_smaps(area, "VmFlags:");
}

static void make_no_reserve(void)
{
	area = map(MiB, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

static void make_droppable(void)
{
	area = map(MiB, PROT_WRITE, 0x08 /* MAP_DROPPABLE */ | MAP_ANONYMOUS, -1);
}

static void advise(int advice)
{
	area = anonymous(4 * MiB);
	must(madvise(area, length, advice));
}

#define ADVICE(name, advice) static void name(void) { advise(advice); }
ADVICE(make_huge_page, MADV_HUGEPAGE)
ADVICE(make_no_huge_page, MADV_NOHUGEPAGE)
ADVICE(make_dont_fork, MADV_DONTFORK)
ADVICE(make_wipe_on_fork, MADV_WIPEONFORK)
ADVICE(make_dont_dump, MADV_DONTDUMP)
ADVICE(make_mergeable, MADV_MERGEABLE)
ADVICE(make_sequential, MADV_SEQUENTIAL)
ADVICE(make_random, MADV_RANDOM)

static void make_guard(void)
{
	area = anonymous(4 * 4096);
	fill(area, length);
	must(madvise(area + 4096, 4096, 102 /* MADV_GUARD_INSTALL */));
}

/* Each page: whether it can be read. */
static void show_guard(void)
{
	for (int i = 0; i < 4; i++) {
		char byte;
		struct iovec here = { &byte, 1 }, there = { area + i * 4096, 1 };
		say_result(process_vm_readv(getpid(), &here, 1, &there, 1, 0));
	}
}

static void make_seal(void)
{
	area = anonymous(4096);
	must(syscall(462 /* mseal */, area, 4096, 0));
}

static void show_seal(void)
{
	say_result(mprotect(area, 4096, PROT_READ | PROT_WRITE));
}

/* Locks */

static void make_lock(void)
{
	area = anonymous(65536);
	must(mlock(area, 32768));
}

static void show_lock(void)
{
	say_smaps(area, "VmFlags:");
	say_smaps(area, "Locked:");
	say_lines("/proc/self/status", "VmLck:", NULL);
}

static void make_lock_on_fault(void)
{
	area = anonymous(MiB);
	must(mlock2(area, MiB, MLOCK_ONFAULT));
	area[0] = 1;
}

static void make_lock_now(void)
{
	area = anonymous(65536);
	must(mlockall(MCL_CURRENT));
}

static void make_lock_future_on_fault(void)
{
	must(mlockall(MCL_FUTURE | MCL_ONFAULT));
}

static void make_lock_future(void)
{
	must(mlockall(MCL_FUTURE));
}

static void show_lock_future(void)
{
	/* apart from its neighbours, with which it would be one area */
	char *new = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	new[0] = 1;
	say_smaps(new, "Locked:");
	say_smaps(new, "VmFlags:");
	munmap(new, 65536);
}

/* Names, policies, and switches of the whole memory */

static void make_area_name(void)
{
	area = anonymous(65536);
	must(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area, 65536, "named area"));
}

static void show_area_name(void)
{
	say_map(area);
}

static void make_memory_policy(void)
{
	unsigned long nodes = 1;
	must(syscall(SYS_set_mempolicy, 1 /* MPOL_PREFERRED */, &nodes, 64));
}

static void show_memory_policy(void)
{
	int mode = -1;
	unsigned long nodes = 0;
	must(syscall(SYS_get_mempolicy, &mode, &nodes, 64, NULL, 0));
	say("%d %lx", mode, nodes);
}

static void make_area_policy(void)
{
	unsigned long nodes = 1;
	area = anonymous(65536);
	must(syscall(SYS_mbind, area, 65536, 2 /* MPOL_BIND */, &nodes, 64, 0));
}

static void make_shared_area_policy(void)
{
	unsigned long nodes = 1;
	area = map(65536, PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	must(syscall(SYS_mbind, area + 32768, 32768, 3 /* MPOL_INTERLEAVE */ | 1 << 15 /* MPOL_F_STATIC_NODES */, &nodes, 64, 0));
	area += 32768;
	child(forever);
}

static void show_area_policy(void)
{
	int mode = -1;
	unsigned long nodes = 0;
	must(syscall(SYS_get_mempolicy, &mode, &nodes, 64, area, 2 /* MPOL_F_ADDR */));
	say("%d %lx", mode, nodes);
}

static void make_no_huge_pages(void)
{
	must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
}

static void show_no_huge_pages(void)
{
	say("%ld", must(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)));
}

static void make_merging(void)
{
	must(prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0));
}

static void show_merging(void)
{
	say("%ld", must(prctl(68 /* PR_GET_MEMORY_MERGE */, 0, 0, 0, 0)));
}

static void make_key(void)
{
	int key = must(pkey_alloc(0, PKEY_DISABLE_WRITE));
	area = anonymous(4096);
	must(pkey_mprotect(area, 4096, PROT_READ | PROT_WRITE, key));
	length = key;
}

static void show_key(void)
{
	say_smaps(area, "ProtectionKey:");
	say("rights %d ", pkey_get(length));
}

static void make_higher_key(void)
{
	int lower = must(pkey_alloc(0, 0));
	make_key();
	must(pkey_free(lower));
}

static void show_key_taken(void)
{
	int key = pkey_alloc(0, 0);
	say("%s", key == (int)length ? "free" : "taken");
	if (key >= 0)
		pkey_free(key);
}

/* The one below the one that is taken. */
static void show_key_free(void)
{
	int key = pkey_alloc(0, 0);
	say("%d %d ", key, (int)length);
	if (key >= 0)
		pkey_free(key);
	say_smaps(area, "ProtectionKey:");
}

static void show_vdso(void)
{
	say("%#lx ", getauxval(AT_SYSINFO_EHDR));
	say_map((char *)getauxval(AT_SYSINFO_EHDR));
}

/* Where program, heap, stack, arguments and environment begin and end. */
static void show_layout(void)
{
	char *text = file("/proc/self/stat"), *field = strrchr(text, ')') + 2;
	for (int i = 3; i <= 51; i++, field = strchr(field, ' ') + 1)
		if ((i >= 26 && i <= 28) || i >= 45)
			say("%lu ", strtoul(field, NULL, 10));
	free(text);
}

const struct property memory[] = {
	{ "private-memory", make_private, show_area },
	{ "protections", make_protections, show_protections },
	{ "private-file", make_private_file, show_private_file },
	{ "shared-file", make_shared_file, show_shared_file },
	{ "removed-file-mapped", make_removed_file, show_area },
	{ "memfd-mapped", make_memfd, show_area },
	{ "zero-device-mapped", make_zero_device, show_area },
	{ "shared-memory", make_shared_anonymous, show_shared_anonymous },
	{ "copy-on-write", make_copy_on_write, show_copy_on_write },
	{ "untouched-memory", make_untouched, show_untouched },
	{ "program-break", make_break, show_break },
	{ "grows-down", make_grows_down, show_flags },
	{ "no-reserve", make_no_reserve, show_flags },
	{ "droppable", make_droppable, show_flags },
	{ "advice-huge-page", make_huge_page, show_flags },
	{ "advice-no-huge-page", make_no_huge_page, show_flags },
	{ "advice-not-forked", make_dont_fork, show_flags },
	{ "advice-wiped-on-fork", make_wipe_on_fork, show_flags },
	{ "advice-not-dumped", make_dont_dump, show_flags },
	{ "advice-mergeable", make_mergeable, show_flags },
	{ "advice-sequential", make_sequential, show_flags },
	{ "advice-random", make_random, show_flags },
	{ "guard-page", make_guard, show_guard },
	{ "sealed-area", make_seal, show_seal },
	{ "locked-area", make_lock, show_lock },
	{ "locked-on-fault", make_lock_on_fault, show_lock },
	{ "all-locked", make_lock_now, show_lock },
	{ "future-locked", make_lock_future, show_lock_future },
	{ "future-locked-on-fault", make_lock_future_on_fault, show_lock_future },
	{ "area-name", make_area_name, show_area_name },
	{ "memory-policy", make_memory_policy, show_memory_policy },
	{ "memory-policy-of-config", NULL, show_memory_policy },
	{ "area-policy", make_area_policy, show_area_policy },
	{ "shared-area-policy", make_shared_area_policy, show_area_policy },
	{ "huge-pages-disabled", make_no_huge_pages, show_no_huge_pages },
	{ "merging", make_merging, show_merging },
	{ "protection-key", make_key, show_key },
	{ "protection-key-taken", make_key, show_key_taken },
	{ "protection-key-free", make_higher_key, show_key_free },
	{ "vdso", NULL, show_vdso },
	{ "memory-layout", NULL, show_layout },
	{ 0 },
};
