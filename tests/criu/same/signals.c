/* Signals: masks, handlers, what is queued. */
#include "same.h"
#include <pthread.h>
#include <sys/signalfd.h>
#include <ucontext.h>

static void block(int first, int second)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, first);
	sigaddset(&set, second);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
}

static void make_mask(void)
{
	block(SIGUSR1, SIGRTMIN + 3);
}

static void show_mask(void)
{
	say_lines("/proc/thread-self/status", "SigBlk:", NULL);
}

static void make_other_mask(void)
{
	block(SIGUSR2, SIGHUP);
}

static void make_masks(void)
{
	make_mask();
	on_thread(make_other_mask);
}

static void show_masks(void)
{
	show_mask();
	on_thread(show_mask);
}

static void handler(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
}

static void make_handlers(void)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER };
	sigaddset(&action.sa_mask, SIGTERM);
	must(sigaction(SIGUSR1, &action, NULL));
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
	must(sigaction(SIGRTMAX, &action, NULL));
	action.sa_flags = SA_NOCLDSTOP | SA_NOCLDWAIT;
	action.sa_handler = SIG_IGN;
	must(sigaction(SIGCHLD, &action, NULL));
}

/* As the kernel has them: handler, flags, restorer, mask. */
static void show_handlers(void)
{
	for (int signal = 1; signal <= 64; signal++) {
		unsigned long action[4] = { 0 };
		must(syscall(SYS_rt_sigaction, signal, NULL, action, 8));
		if (action[0] || action[1])
			say("%d: %lx %lx %lx %lx ", signal, action[0], action[1], action[2], action[3]);
	}
}

static void make_ignored(void)
{
	must(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
}

static void show_ignored(void)
{
	say_lines("/proc/thread-self/status", "SigIgn:", "SigCgt:", NULL);
}

static char stack[65536];

static void make_stack(void)
{
	must(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack, .ss_flags = 1U << 31 /* SS_AUTODISARM */ }, NULL));
}

static void show_stack(void)
{
	stack_t is;
	must(sigaltstack(NULL, &is));
	say("%p %zu %#x", is.ss_sp, is.ss_size, is.ss_flags);
}

static void queue(int signal, int value)
{
	must(sigqueue(getpid(), signal, (union sigval){ .sival_int = value }));
}

static void make_pending(void)
{
	block(SIGUSR1, SIGRTMIN + 3);
	queue(SIGUSR1, 11);
	queue(SIGRTMIN + 3, 12);
	queue(SIGRTMIN + 3, 13);
}

static void show_pending(void)
{
	say_lines("/proc/thread-self/status", "SigPnd:", "ShdPnd:", NULL);
}

/* Takes all that are queued, and puts them back. */
static void show_values(void)
{
	siginfo_t info[8];
	sigset_t set;
	int count = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 3);
	while (count < 8 && sigtimedwait(&set, info + count, &(struct timespec){ 0, 0 }) > 0)
		count++;
	for (int i = 0; i < count; i++) {
		say("%d code %d from %d of %d: %d ", info[i].si_signo, info[i].si_code, info[i].si_pid, info[i].si_uid, info[i].si_int);
		queue(info[i].si_signo, info[i].si_int);
	}
}

static void queue_to_thread(void)
{
	must(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2));
}

static void make_thread_pending(void)
{
	block(SIGUSR2, SIGUSR2);
	on_thread(queue_to_thread);
}

static void show_thread_pending(void)
{
	show_pending();
	on_thread(show_pending);
}

/* A signal's handler is being run when the process is saved. */
static volatile int in_handler;
static pthread_t interrupted;

static void long_handler(int signal)
{
	(void)signal;
	in_handler = 1;
	while (in_handler == 1)
		usleep(1000);
	in_handler = 3;
}

static void *work(void *unused)
{
	for (;;) {
		volatile double sum = 0.5;
		for (int i = 0; i < 100; i++)
			sum = sum * 1.5 - 0.25;
		if (sum != 0.5)
			in_handler = -1;
		usleep(1000);
	}
	return unused;
}

static void make_in_handler(void)
{
	signal(SIGUSR1, long_handler);
	if ((errno = pthread_create(&interrupted, NULL, work, NULL)))
		fail("pthread_create");
	pthread_kill(interrupted, SIGUSR1);
	while (!in_handler)
		usleep(1000);
}

static void show_in_handler(void)
{
	say("%d ", in_handler);
	in_handler = 2;
	for (int i = 0; i < 2000 && in_handler == 2; i++)
		usleep(1000);
	say("%d ", in_handler);
	pthread_kill(interrupted, SIGUSR1);
	for (int i = 0; i < 2000 && in_handler == 3; i++)
		usleep(1000);
	say("%d", in_handler);
}

static void make_child_signals(void)
{
	block(SIGCHLD, SIGCHLD);
	pid_t pid = must(fork());
	if (!pid)
		_exit(5);
	siginfo_t info;
	must(waitid(P_PID, pid, &info, WEXITED));
}

static void show_child_signals(void)
{
	siginfo_t info;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigtimedwait(&set, &info, &(struct timespec){ 0, 0 }) > 0) {
		say("code %d status %d", info.si_code, info.si_status);
		/* as it was */
		must(syscall(SYS_rt_sigqueueinfo, getpid(), SIGCHLD, &info));
	}
}

const struct property signals[] = {
	{ "signal-mask", make_mask, show_mask },
	{ "thread-signal-masks", make_masks, show_masks },
	{ "signal-handlers", make_handlers, show_handlers },
	{ "ignored-signals", make_ignored, show_ignored },
	{ "signal-stack", make_stack, show_stack },
	{ "pending-signals", make_pending, show_pending },
	{ "queued-values", make_pending, show_values },
	{ "thread-pending-signals", make_thread_pending, show_thread_pending },
	{ "running-handler", make_in_handler, show_in_handler },
	{ "signal-of-a-child", make_child_signals, show_child_signals },
	{ 0 },
};
