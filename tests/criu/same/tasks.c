/* What a process or a thread is to the kernel: credentials, scheduling, names, limits. */
#include "same.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/securebits.h>
#include <linux/seccomp.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>

#define STATUS "/proc/thread-self/status"

static void make_umask(void)
{
	umask(027);
}

static void show_umask(void)
{
	mode_t mask = umask(0);
	umask(mask);
	say("%03o", mask);
}

/* A Landlock domain (linux/landlock.h, which may be older than the kernel) */

static void make_landlock(void)
{
	unsigned long long make_fifo = 1 << 10;
	int ruleset = must(syscall(444, &make_fifo, sizeof make_fifo, 0));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(446, ruleset, 0));
	close(ruleset);
}

static void show_landlock(void)
{
	unlink("/tmp/landlock");
	say_result(mkfifo("/tmp/landlock", 0600));
}

/* Credentials */

static void make_users(void)
{
	must(prctl(PR_SET_KEEPCAPS, 1));
	must(setresgid(11, 12, 13));
	must(setresuid(1, 2, 3));
	setfsuid(3);
	setfsgid(13);
}

static void show_users(void)
{
	uid_t u[3];
	gid_t g[3];
	must(getresuid(u, u + 1, u + 2));
	must(getresgid(g, g + 1, g + 2));
	say("%d %d %d %d %d %d %d %d", u[0], u[1], u[2], setfsuid(-1), g[0], g[1], g[2], setfsgid(-1));
}

static void make_groups(void)
{
	must(setgroups(3, (gid_t[]){ 5, 7, 1000 }));
}

static void show_groups(void)
{
	gid_t groups[8];
	int count = must(getgroups(COUNT(groups), groups));
	for (int i = 0; i < count; i++)
		say("%d ", groups[i]);
}

/* Leaves these bits of the first 32 capabilities. */
static void set_capabilities(unsigned effective, unsigned permitted, unsigned inheritable)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { effective, permitted, inheritable }, { 0, 0, 0 } };
	must(syscall(SYS_capset, &header, data));
}

static void make_capabilities(void)
{
	set_capabilities(1 << CAP_CHOWN | 1 << CAP_KILL, 1 << CAP_CHOWN | 1 << CAP_KILL | 1 << CAP_SETUID, 1 << CAP_SETUID);
}

static void show_capabilities(void)
{
	say_lines(STATUS, "CapInh:", "CapPrm:", "CapEff:", NULL);
}

static void make_thread_capabilities(void)
{
	on_thread(make_capabilities);
}

static void show_thread_capabilities(void)
{
	show_capabilities();
	on_thread(show_capabilities);
}

static void make_bounding_set(void)
{
	must(prctl(PR_CAPBSET_DROP, CAP_MKNOD, 0, 0, 0));
	must(prctl(PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0));
}

static void show_bounding_set(void)
{
	say_lines(STATUS, "CapBnd:", NULL);
}

static void make_ambient_set(void)
{
	make_capabilities();
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SETUID, 0, 0));
}

static void show_ambient_set(void)
{
	say_lines(STATUS, "CapAmb:", NULL);
}

static void make_securebits(void)
{
	must(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP));
}

static void show_securebits(void)
{
	say("%#lx", must(prctl(PR_GET_SECUREBITS)));
}

static void make_keepcaps(void)
{
	must(prctl(PR_SET_KEEPCAPS, 1));
}

static void show_keepcaps(void)
{
	say("%ld", must(prctl(PR_GET_KEEPCAPS)));
}

static void make_no_new_privs(void)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void show_no_new_privs(void)
{
	say("%ld", must(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)));
}

static void make_thread_no_new_privs(void)
{
	on_thread(make_no_new_privs);
}

static void show_thread_no_new_privs(void)
{
	show_no_new_privs();
	on_thread(show_no_new_privs);
}

static void make_dumpable(void)
{
	must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}

static void show_dumpable(void)
{
	say("%ld", must(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)));
}

static void make_session_keyring(void)
{
	must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "same"));
	must(syscall(SYS_add_key, "user", "word", "kept", 4, KEY_SPEC_SESSION_KEYRING));
}

static void show_session_keyring(void)
{
	char text[64] = "";
	long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "word", 0);
	if (key < 0)
		say_result(key);
	else
		must(syscall(SYS_keyctl, KEYCTL_READ, key, text, sizeof text));
	say("%s", text);
}

static void show_login_user(void)
{
	say_file("/proc/self/loginuid");
}

/* Names and places */

static void make_name(void)
{
	must(prctl(PR_SET_NAME, "other name"));
}

static void make_names(void)
{
	make_name();
	on_thread(make_name);
	must(prctl(PR_SET_NAME, "first"));
}

static void show_name(void)
{
	char name[16];
	must(prctl(PR_GET_NAME, name));
	say("%s ", name);
}

static void show_names(void)
{
	show_name();
	on_thread(show_name);
}

static void show_link(const char *path)
{
	char text[512] = "";
	must(readlink(path, text, sizeof text - 1));
	say("%s ", text);
}

/* A sum over all bytes of a file, those that are 0 among them. */
static void say_sum(const char *path)
{
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));
	unsigned char bytes[65536];
	unsigned long sum = 5381;
	ssize_t size = must(read(fd, bytes, sizeof bytes));
	for (ssize_t i = 0; i < size; i++)
		sum = sum * 33 + bytes[i];
	close(fd);
	say("%zd bytes %lx", size, sum);
}

static void show_command_line(void)
{
	say_sum("/proc/self/cmdline");
}

static void make_environment(void)
{
	must(setenv("SAME", "yes", 1));
}

static void show_environment(void)
{
	say("%s ", getenv("SAME"));
	say_sum("/proc/self/environ");
}

static void show_auxiliary_vector(void)
{
	say_sum("/proc/self/auxv");
}

static void show_program(void)
{
	show_link("/proc/self/exe");
}

static void make_working_directory(void)
{
	must(mkdir("/cwd", 0755));
	must(mkdir("/cwd/below", 0755));
	must(chdir("/cwd/below"));
}

static void show_working_directory(void)
{
	char path[512];
	must(getcwd(path, sizeof path) ? 0 : -1);
	say("%s", path);
}

static void make_root(void)
{
	must(mkdir("/root-of-one", 0755));
	must(mkdir("/root-of-one/inside", 0755));
	must(chroot("/root-of-one"));
	must(chdir("/"));
}

static void show_root(void)
{
	say_result(access("/inside", F_OK));
	say_result(access("/proc", F_OK));
}

static void make_removed_directory(void)
{
	must(mkdir("/gone", 0755));
	must(chdir("/gone"));
	must(rmdir("/gone"));
}

static void show_removed_directory(void)
{
	char path[64];
	say("%s", getcwd(path, sizeof path) ? path : strerrorname_np(errno));
}

/* Limits */

static void make_limits(void)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit;
		must(getrlimit(i, &limit));
		if (limit.rlim_max > 1000000 + (rlim_t)i)
			limit.rlim_max = 1000000 + i;
		if (limit.rlim_cur > 900000 + (rlim_t)i)
			limit.rlim_cur = 900000 + i;
		/* limits of sizes have properties of their own */
		if (i != RLIMIT_AS && i != RLIMIT_STACK && i != RLIMIT_DATA && i != RLIMIT_FSIZE)
			must(setrlimit(i, &limit));
	}
}

static void show_limits(void)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit;
		must(getrlimit(i, &limit));
		say("%lu/%lu ", limit.rlim_cur, limit.rlim_max);
	}
}

static void make_size_limits(void)
{
	must(setrlimit(RLIMIT_AS, &(struct rlimit){ 4UL << 30, 5UL << 30 }));
	must(setrlimit(RLIMIT_DATA, &(struct rlimit){ 1UL << 30, 2UL << 30 }));
	must(setrlimit(RLIMIT_STACK, &(struct rlimit){ 2UL << 20, 3UL << 20 }));
}

static void show_size_limits(void)
{
	struct rlimit l[3];
	must(getrlimit(RLIMIT_AS, l) | getrlimit(RLIMIT_DATA, l + 1) | getrlimit(RLIMIT_STACK, l + 2));
	say("%lu/%lu %lu/%lu %lu/%lu", l[0].rlim_cur, l[0].rlim_max, l[1].rlim_cur, l[1].rlim_max, l[2].rlim_cur, l[2].rlim_max);
}

static void make_file_size_limit(void)
{
	must(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 0, 1UL << 40 }));
}

static void show_file_size_limit(void)
{
	struct rlimit limit;
	must(getrlimit(RLIMIT_FSIZE, &limit));
	say("%lu/%lu", limit.rlim_cur, limit.rlim_max);
}

static void show_limits_of_config(void)
{
	say_file("/proc/self/limits");
}

static void make_oom_score(void)
{
	write_file("/proc/self/oom_score_adj", "321");
}

static void show_oom_score(void)
{
	say_file("/proc/self/oom_score_adj");
}

/* A child of the process that starts with what the process has */
static void show_oom_score_of_config(void)
{
	say_file("/proc/1/oom_score_adj");
}

static void make_core_filter(void)
{
	write_file("/proc/self/coredump_filter", "0x7");
}

static void show_core_filter(void)
{
	say_file("/proc/self/coredump_filter");
}

/* Scheduling */

static void set_affinity(void)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	must(sched_setaffinity(0, sizeof set, &set));
}

static void show_affinity(void)
{
	say_lines(STATUS, "Cpus_allowed_list:", NULL);
}

static void make_thread_affinity(void)
{
	on_thread(set_affinity);
}

static void show_thread_affinity(void)
{
	show_affinity();
	on_thread(show_affinity);
}

static void make_nice(void)
{
	must(setpriority(PRIO_PROCESS, 0, 5));
}

static void show_nice(void)
{
	say("%d ", getpriority(PRIO_PROCESS, 0));
}

static void make_thread_nice(void)
{
	on_thread(make_nice);
}

static void show_thread_nice(void)
{
	show_nice();
	on_thread(show_nice);
}

/* struct sched_attr of sched_setattr(2) */
struct attributes {
	unsigned size, policy;
	unsigned long flags;
	int nice;
	unsigned priority;
	unsigned long runtime, deadline, period;
	unsigned util_min, util_max;
};

static void schedule(struct attributes how)
{
	how.size = sizeof how;
	must(syscall(SYS_sched_setattr, 0, &how, 0));
}

static void show_schedule(void)
{
	struct attributes is = { 0 };
	must(syscall(SYS_sched_getattr, 0, &is, sizeof is, 0));
	say("policy %u flags %#lx nice %d priority %u runtime %lu deadline %lu period %lu", is.policy, is.flags, is.nice,
	    is.priority, is.runtime, is.deadline, is.period);
}

static void make_batch(void)
{
	schedule((struct attributes){ .policy = SCHED_BATCH, .nice = 3 });
}

static void make_idle(void)
{
	schedule((struct attributes){ .policy = SCHED_IDLE });
}

static void make_round_robin(void)
{
	schedule((struct attributes){ .policy = SCHED_RR, .priority = 3 });
}

static void make_deadline(void)
{
	schedule((struct attributes){ .policy = 6, .runtime = 1000000, .deadline = 50000000, .period = 100000000 });
}

static void make_reset_on_fork(void)
{
	schedule((struct attributes){ .policy = SCHED_OTHER, .flags = 1 });
}

static void make_slice(void)
{
	schedule((struct attributes){ .policy = SCHED_OTHER, .runtime = 7000000 });
}

static void show_slice(void)
{
	struct attributes is = { 0 };
	must(syscall(SYS_sched_getattr, 0, &is, sizeof is, 0));
	say("%lu", is.runtime);
}

static void make_clamp(void)
{
	schedule((struct attributes){ .policy = SCHED_OTHER, .flags = 0x60 | 0x18, .util_min = 100, .util_max = 500 });
}

static void show_clamp(void)
{
	struct attributes is = { 0 };
	must(syscall(SYS_sched_getattr, 0, &is, sizeof is, 0));
	say("%u %u", is.util_min, is.util_max);
}

static void make_autogroup(void)
{
	must(setsid());
	write_file("/proc/self/autogroup", "7");
}

static void show_autogroup(void)
{
	char *text = file("/proc/self/autogroup"), *nice = strstr(text, "nice");
	say("%s", nice ? nice : text);
}

static void make_io_priority(void)
{
	must(syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, 2 << 13 /* best effort */ | 7));
}

static void show_io_priority(void)
{
	say("%#lx ", must(syscall(SYS_ioprio_get, 1, 0)));
}

static void make_thread_io_priority(void)
{
	on_thread(make_io_priority);
}

static void show_thread_io_priority(void)
{
	show_io_priority();
	on_thread(show_io_priority);
}

static void set_timer_slack(void)
{
	must(prctl(PR_SET_TIMERSLACK, 77777, 0, 0, 0));
}

static void make_timer_slack(void)
{
	must(prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0));
	on_thread(set_timer_slack);
}

static void say_timer_slack(void)
{
	say("%ld ", must(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)));
}

static void show_timer_slack(void)
{
	say_timer_slack();
	on_thread(say_timer_slack);
}

/* Who is started has the slack of who starts it, and goes back to that. */
static void make_default_timer_slack(void)
{
	must(prctl(PR_SET_TIMERSLACK, 60000, 0, 0, 0));
	on_thread(say_timer_slack);
}

static void say_default_timer_slack(void)
{
	must(prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0));
	say_timer_slack();
}

static void show_default_timer_slack(void)
{
	on_thread(say_default_timer_slack);
}

/* Switches of prctl(2) and the like */

static void make_personality(void)
{
	must(personality(ADDR_NO_RANDOMIZE | UNAME26));
}

static void show_personality(void)
{
	say("%#lx", must(personality(0xffffffff)));
}

static void show_machine(void)
{
	struct utsname is;
	must(uname(&is));
	say("%s", is.machine);
}

static void make_mdwe(void)
{
	must(prctl(65 /* PR_SET_MDWE */, 1 /* PR_MDWE_REFUSE_EXEC_GAIN */, 0, 0, 0));
}

static void show_mdwe(void)
{
	say("%ld", must(prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0)));
}

static void make_subreaper(void)
{
	must(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
}

static void show_subreaper(void)
{
	int is = 0;
	must(prctl(PR_GET_CHILD_SUBREAPER, &is, 0, 0, 0));
	say("%d", is);
}

static void make_machine_checks(void)
{
	must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
}

static void show_machine_checks(void)
{
	say("%ld", must(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0)));
}

static void make_time_stamp_counter(void)
{
	must(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
}

static void show_time_stamp_counter(void)
{
	int is = 0;
	must(prctl(PR_GET_TSC, &is, 0, 0, 0));
	say("%d", is);
}

static void restrain(int which, int how)
{
	must(prctl(PR_SET_SPECULATION_CTRL, which, how, 0, 0));
}

static void show_restraint(int which)
{
	say("%#lx ", must(prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0)));
}

static void force_stores(void)
{
	restrain(PR_SPEC_STORE_BYPASS, PR_SPEC_FORCE_DISABLE);
}

static void show_stores(void)
{
	show_restraint(PR_SPEC_STORE_BYPASS);
}

static void make_speculation(void)
{
	on_thread(force_stores);
	restrain(PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE);
}

static void show_speculation(void)
{
	show_stores();
	on_thread(show_stores);
}

static void make_until_exec(void)
{
	restrain(PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE_NOEXEC);
}

static void make_branches(void)
{
	restrain(PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE);
}

static void show_branches(void)
{
	show_restraint(PR_SPEC_INDIRECT_BRANCH);
}

static char selector;

static void make_dispatch(void)
{
	must(prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector));
}

/* The calls of a process are given to it as signals while the selector says so. */
static void got_call(int unused)
{
	(void)unused;
	selector = 0;
}

static void show_dispatch(void)
{
	signal(SIGSYS, got_call);
	selector = 1;
	syscall(SYS_getppid);
	say("%s", selector ? "off" : "on");
	selector = 0;
}

/* getpgid(2) fails with EDOM. */
static void make_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { COUNT(code), code };
	make_no_new_privs();
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void show_filter(void)
{
	say_lines(STATUS, "Seccomp:", "Seccomp_filters:", NULL);
	say_result(getpgid(0) > 0 ? 0 : -1);
}

static void make_thread_filter(void)
{
	on_thread(make_filter);
}

static void show_thread_filter(void)
{
	show_filter();
	on_thread(show_filter);
}

/* The tree of processes */

static pid_t the_child;
static int *shared_words;

static void share_words(void)
{
	shared_words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(shared_words == MAP_FAILED ? -1 : 0);
}

static void show_numbers(void)
{
	say("%d %d ", getpid(), getppid());
	say("%ld ", syscall(SYS_gettid));
}

static void make_thread(void)
{
	on_thread(show_numbers);
}

static void show_thread_numbers(void)
{
	show_numbers();
	on_thread(show_numbers);
}

static void in_own_group(void)
{
	must(setpgid(0, 0));
	shared_words[0] = 1;
}

static void make_session(void)
{
	share_words();
	must(setsid());
	the_child = child(in_own_group);
	while (!shared_words[0])
		usleep(1000);
}

static void show_session(void)
{
	say("%d %d of %d %d", getpgid(the_child), getsid(the_child), getpgid(0), getsid(0));
}

static void end_with_7(void)
{
	_exit(7);
}

static void make_zombie(void)
{
	siginfo_t info;
	the_child = child(end_with_7);
	must(waitid(P_PID, the_child, &info, WEXITED | WNOWAIT));
}

static void show_zombie(void)
{
	siginfo_t info = { 0 };
	must(waitid(P_PID, the_child, &info, WEXITED | WNOWAIT | WNOHANG));
	say("%d code %d status %d", info.si_pid == the_child, info.si_code, info.si_status);
}

static void make_killed_zombie(void)
{
	siginfo_t info;
	the_child = child(forever);
	must(kill(the_child, SIGTERM));
	must(waitid(P_PID, the_child, &info, WEXITED | WNOWAIT));
}

static void make_stopped(void)
{
	the_child = child(forever);
	must(kill(the_child, SIGSTOP));
	must(waitpid(the_child, NULL, WUNTRACED));
}

static void show_stopped(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/status", the_child);
	say_lines(path, "State:", NULL);
}

/* An orphan: its parent ends, and this process becomes its parent. */
static void have_orphan(void)
{
	shared_words[0] = child(forever);
	_exit(0);
}

static void make_orphan(void)
{
	make_subreaper();
	share_words();
	must(waitpid(child(have_orphan), NULL, 0));
	the_child = shared_words[0];
}

static void show_orphan(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/status", the_child);
	say_lines(path, "PPid:", NULL);
	show_subreaper();
}

static void ask_for_signal(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGUSR1));
	shared_words[0] = 1;
	for (;;) {
		usleep(1000);
		if (shared_words[1]) {
			int is = 0;
			prctl(PR_GET_PDEATHSIG, &is);
			shared_words[2] = is + 1;
			shared_words[1] = 0;
		}
	}
}

static void make_parent_death_signal(void)
{
	share_words();
	the_child = child(ask_for_signal);
	while (!shared_words[0])
		usleep(1000);
}

static void show_parent_death_signal(void)
{
	shared_words[1] = 1;
	while (shared_words[1])
		usleep(1000);
	say("%d", shared_words[2] - 1);
}

/* A child at whose end another signal than SIGCHLD comes. */
static void make_exit_signal(void)
{
	the_child = must(syscall(SYS_clone, SIGUSR2, 0, 0, 0, 0));
	if (the_child == 0)
		forever();
}

static void show_exit_signal(void)
{
	char path[64], *text, *field;
	snprintf(path, sizeof path, "/proc/%d/stat", the_child);
	text = file(path);
	field = strrchr(text, ')') + 2;
	/* from field 3, the state, to field 38 */
	for (int i = 3; i < 38; i++)
		field = strchr(field, ' ') + 1;
	say("%d", atoi(field));
	free(text);
}

/* What else a thread has */

static void show_robust_list(void)
{
	void *head = NULL;
	size_t size = 0;
	must(syscall(SYS_get_robust_list, 0, &head, &size));
	say("%p %zu ", head, size);
}

static void show_robust_lists(void)
{
	show_robust_list();
	on_thread(show_robust_list);
}

static void show_tid_address(void)
{
	void *address = NULL;
	must(prctl(PR_GET_TID_ADDRESS, &address, 0, 0, 0));
	say("%p ", address);
}

static void show_tid_addresses(void)
{
	show_tid_address();
	on_thread(show_tid_address);
}

/* Whether a second registration is refused, as one that is there already. */
static void show_rseq(void)
{
	static char area[32] __attribute__((aligned(32)));
	say_result(syscall(SYS_rseq, area, 32, 0, 0x53053053));
}

static void show_rseqs(void)
{
	show_rseq();
	on_thread(show_rseq);
}

/* Barriers by which other threads see what this one has written (membarrier(2)) */

static void make_barriers(void)
{
	must(syscall(SYS_membarrier, 1 << 4 /* REGISTER_PRIVATE_EXPEDITED */, 0, 0));
	must(syscall(SYS_membarrier, 1 << 2 /* REGISTER_GLOBAL_EXPEDITED */, 0, 0));
}

/* One that is not registered for may not be asked for. */
static void show_barriers(void)
{
	say_result(syscall(SYS_membarrier, 1 << 3 /* PRIVATE_EXPEDITED */, 0, 0));
	say_result(syscall(SYS_membarrier, 1 << 5 /* PRIVATE_EXPEDITED_SYNC_CORE */, 0, 0));
	say_result(syscall(SYS_membarrier, 1 << 9 /* GET_REGISTRATIONS, Linux 6.3 */, 0, 0));
}

/* What a process has used */

static void make_use_time(void)
{
	while (clock() < CLOCKS_PER_SEC / 3)
		;
}

/* It has used a third of a second at the start. */
static void show_used_time(void)
{
	say("%s", clock() < CLOCKS_PER_SEC / 3 ? "begins anew" : "goes on");
}

static void show_start_time(void)
{
	char *text = file("/proc/self/stat"), *field = strrchr(text, ')') + 2;
	for (int i = 3; i < 22; i++)
		field = strchr(field, ' ') + 1;
	say("%lld", atoll(field));
	free(text);
}

static void make_io_counters(void)
{
	char bytes[4096];
	for (int i = 0; i < 100; i++) {
		int fd = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
		must(read(fd, bytes, sizeof bytes));
		close(fd);
	}
}

static void show_io_counters(void)
{
	char *text = file("/proc/self/io");
	say("%s", atoll(text + strlen("rchar: ")) < 400000 ? "begin anew" : "go on");
	free(text);
}

const struct property tasks[] = {
	{ "umask", make_umask, show_umask },
	{ "users-and-groups", make_users, show_users },
	{ "supplementary-groups", make_groups, show_groups },
	{ "capabilities", make_capabilities, show_capabilities },
	{ "thread-capabilities", make_thread_capabilities, show_thread_capabilities },
	{ "bounding-set", make_bounding_set, show_bounding_set },
	{ "ambient-set", make_ambient_set, show_ambient_set },
	{ "securebits", make_securebits, show_securebits },
	{ "keep-capabilities", make_keepcaps, show_keepcaps },
	{ "no-new-privileges", make_no_new_privs, show_no_new_privs },
	{ "thread-no-new-privileges", make_thread_no_new_privs, show_thread_no_new_privs },
	{ "dumpable", make_dumpable, show_dumpable },
	{ "session-keyring", make_session_keyring, show_session_keyring },
	{ "login-user", NULL, show_login_user },
	{ "thread-names", make_names, show_names },
	{ "command-line", NULL, show_command_line },
	{ "environment", make_environment, show_environment },
	{ "auxiliary-vector", NULL, show_auxiliary_vector },
	{ "program", NULL, show_program },
	{ "working-directory", make_working_directory, show_working_directory },
	{ "removed-working-directory", make_removed_directory, show_removed_directory },
	{ "root-directory", make_root, show_root },
	{ "limits", make_limits, show_limits },
	{ "limits-of-size", make_size_limits, show_size_limits },
	{ "file-size-limit", make_file_size_limit, show_file_size_limit },
	{ "limits-of-config", NULL, show_limits_of_config },
	{ "oom-score", make_oom_score, show_oom_score },
	{ "oom-score-of-config", NULL, show_oom_score_of_config },
	{ "core-filter", make_core_filter, show_core_filter },
	{ "affinity", set_affinity, show_affinity },
	{ "thread-affinity", make_thread_affinity, show_thread_affinity },
	{ "nice", make_nice, show_nice },
	{ "thread-nice", make_thread_nice, show_thread_nice },
	{ "batch-scheduling", make_batch, show_schedule },
	{ "idle-scheduling", make_idle, show_schedule },
	{ "real-time-scheduling", make_round_robin, show_schedule },
	{ "deadline-scheduling", make_deadline, show_schedule },
	{ "reset-on-fork", make_reset_on_fork, show_schedule },
	{ "time-slice", make_slice, show_slice },
	{ "utilisation-clamp", make_clamp, show_clamp },
	{ "autogroup-nice", make_autogroup, show_autogroup },
	{ "io-priority", make_io_priority, show_io_priority },
	{ "io-priority-of-config", NULL, show_io_priority },
	{ "thread-io-priority", make_thread_io_priority, show_thread_io_priority },
	{ "timer-slack", make_timer_slack, show_timer_slack },
	{ "default-timer-slack", make_default_timer_slack, show_default_timer_slack },
	{ "personality", make_personality, show_personality },
	{ "personality-of-config", NULL, show_machine },
	{ "memory-deny-write-execute", make_mdwe, show_mdwe },
	{ "subreaper", make_subreaper, show_subreaper },
	{ "machine-check-policy", make_machine_checks, show_machine_checks },
	{ "time-stamp-counter", make_time_stamp_counter, show_time_stamp_counter },
	{ "speculation-control", make_speculation, show_speculation },
	{ "speculation-until-exec", make_until_exec, show_stores },
	{ "indirect-branches", make_branches, show_branches },
	{ "syscall-dispatch", make_dispatch, show_dispatch },
	{ "seccomp-filter", make_filter, show_filter },
	{ "thread-seccomp-filter", make_thread_filter, show_thread_filter },
	{ "process-and-thread-numbers", make_thread, show_thread_numbers },
	{ "session-and-groups", make_session, show_session },
	{ "zombie", make_zombie, show_zombie },
	{ "killed-zombie", make_killed_zombie, show_zombie },
	{ "stopped-child", make_stopped, show_stopped },
	{ "orphan", make_orphan, show_orphan },
	{ "parent-death-signal-of-a-child", make_parent_death_signal, show_parent_death_signal },
	{ "landlock", make_landlock, show_landlock },
	{ "exit-signal", make_exit_signal, show_exit_signal },
	{ "robust-lists", make_thread, show_robust_lists },
	{ "tid-addresses", make_thread, show_tid_addresses },
	{ "restartable-sequences", make_thread, show_rseqs },
	{ "memory-barriers", make_barriers, show_barriers },
	{ "used-processor-time", make_use_time, show_used_time },
	{ "start-time", NULL, show_start_time },
	{ "io-counters", make_io_counters, show_io_counters },
	{ 0 },
};
