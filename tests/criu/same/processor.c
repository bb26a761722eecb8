/* Registers and what else the processor keeps for a thread. */
#include "same.h"

static _Noreturn void missing(const char *what)
{
	errno = EOPNOTSUPP;
	fail(what);
}

#ifdef __x86_64__
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <cpuid.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/io.h>
#include <xmmintrin.h>

/* Kernels and processors may be without. */
static void may(long result, const char *what)
{
	if (result == -1 && (errno == ENOSYS || errno == ENODEV))
		missing(what);
	must_be(result, what);
}

/* upwards, in the old unit and the new one */
static void make_rounding(void)
{
	unsigned short control;
	__asm__ volatile("fnstcw %0" : "=m"(control));
	control |= 0x800;
	__asm__ volatile("fldcw %0" : : "m"(control));
	_mm_setcsr(_mm_getcsr() | 0x4000);
}

static void show_rounding(void)
{
	unsigned short control;
	__asm__ volatile("fnstcw %0" : "=m"(control));
	say("%#x %#x", control, _mm_getcsr());
}

/* A thread that has values in vector registers while it waits in the kernel, and compares them whenever it is woken. */
static int word;
static int seen = -1;
static long found[4];

static void *with_registers(void *unused)
{
	static const long value[4] = { 0x1111, 0x2222, 0x3333, 0x4444 };
	for (;;) {
		long call = SYS_futex, result;
		register long op __asm__("r10") = 0;
		__asm__ volatile("vmovdqu %[value], %%ymm13\n\tsyscall\n\tvmovdqu %%ymm13, %[found]"
				 : "=a"(result), [found] "=m"(found)
				 : "0"(call), "D"(&word), "S"(FUTEX_WAIT), "d"((long)seen), "r"(op), [value] "m"(value)
				 : "rcx", "r11", "memory", "xmm13");
		(void)result;
		seen = word;
	}
	return unused;
}

static void make_vectors(void)
{
	unsigned a, b, c = 0, d;
	pthread_t thread;
	__get_cpuid(1, &a, &b, &c, &d);
	if (!(c & bit_AVX))
		missing("AVX");
	if ((errno = pthread_create(&thread, NULL, with_registers, NULL)))
		fail("pthread_create");
	usleep(20000);
}

static void show_vectors(void)
{
	memset(found, 0, sizeof found);
	word++;
	syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0);
	for (int i = 0; i < 2000 && *(volatile int *)&seen != word; i++)
		usleep(1000);
	usleep(1000);
	say("%lx %lx %lx %lx", found[0], found[1], found[2], found[3]);
}

static void make_segment(void)
{
	must(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456789000));
}

static void show_segment(void)
{
	unsigned long fs, gs;
	must(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
	must(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
	say("%#lx %#lx", fs, gs);
}

static void make_local_segment(void)
{
	struct user_desc entry = { .entry_number = 2, .base_addr = 0x10000, .limit = 0xfff, .seg_32bit = 1 };
	may(syscall(SYS_modify_ldt, 1, &entry, sizeof entry), "modify_ldt");
	/* code, by pages, of all 4 GiB, at the end of what a table can have */
	entry = (struct user_desc){ .entry_number = 8191, .base_addr = 0x12345000, .limit = 0xfffff, .seg_32bit = 1, .contents = 2, .limit_in_pages = 1, .useable = 1 };
	must(syscall(SYS_modify_ldt, 0x11, &entry, sizeof entry));
	entry = (struct user_desc){ .entry_number = 7, .limit = 0xf, .contents = 1, .read_exec_only = 1, .seg_not_present = 1, .useable = 1 };
	must(syscall(SYS_modify_ldt, 0x11, &entry, sizeof entry));
}

static void show_local_segment(void)
{
	static unsigned long table[8192];
	long size = must(syscall(SYS_modify_ldt, 0, table, sizeof table));
	say("%ld ", size);
	for (size_t i = 0; i < COUNT(table); i++)
		if (table[i])
			say("%zu: %#lx ", i, table[i]);
}

static void make_no_cpuid(void)
{
	may(syscall(SYS_arch_prctl, 0x1012 /* ARCH_SET_CPUID */, 0), "ARCH_SET_CPUID");
}

static void show_no_cpuid(void)
{
	say("%ld", must(syscall(SYS_arch_prctl, 0x1011 /* ARCH_GET_CPUID */)));
}

static void make_permission(void)
{
	/* AMX's tile data */
	may(syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18), "AMX");
}

static void show_permission(void)
{
	unsigned long is = 0;
	must(syscall(SYS_arch_prctl, 0x1022 /* ARCH_GET_XCOMP_PERM */, &is));
	say("%#lx", is);
}

static void make_thread_segment(void)
{
	/* a selector of the global table, for 32-bit code */
	struct user_desc entry = { .entry_number = 12, .base_addr = 0x10000, .limit = 0xfff, .seg_32bit = 1 };
	may(syscall(SYS_set_thread_area, &entry), "set_thread_area");
}

static void show_thread_segment(void)
{
	struct user_desc entry = { .entry_number = 12 };
	must(syscall(SYS_get_thread_area, &entry));
	say("%#x %#x", entry.base_addr, entry.limit);
}

/* The right to use ports of the machine: without it such an instruction is a SIGSEGV. */
static sigjmp_buf back;

static void go_back(int unused)
{
	(void)unused;
	siglongjmp(back, 1);
}

static void make_ports(void)
{
	may(ioperm(0x80, 1, 1), "ioperm");
	signal(SIGSEGV, go_back);
}

static void show_ports(void)
{
	unsigned char byte;
	if (sigsetjmp(back, 1)) {
		say("denied");
		return;
	}
	__asm__ volatile("inb $0x80, %0" : "=a"(byte));
	say("allowed");
}
#else
static void none(void)
{
	missing("x86-64");
}
#define make_rounding none
#define show_rounding none
#define make_vectors none
#define show_vectors none
#define make_segment none
#define show_segment none
#define make_local_segment none
#define show_local_segment none
#define make_thread_segment none
#define show_thread_segment none
#define make_no_cpuid none
#define show_no_cpuid none
#define make_permission none
#define show_permission none
#define make_ports none
#define show_ports none
#endif

const struct property processor[] = {
	{ "rounding", make_rounding, show_rounding },
	{ "vector-registers", make_vectors, show_vectors },
	{ "segment-bases", make_segment, show_segment },
	{ "local-descriptor-table", make_local_segment, show_local_segment },
	{ "thread-descriptor-table", make_thread_segment, show_thread_segment },
	{ "no-cpuid", make_no_cpuid, show_no_cpuid },
	{ "tile-permission", make_permission, show_permission },
	{ "port-permission", make_ports, show_ports },
	{ 0 },
};
