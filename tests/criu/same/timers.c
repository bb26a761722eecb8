/* Timers and clocks. */
#include "same.h"
#include <poll.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

static int fd;
static timer_t timer;
/* When the timer is to run out, in milliseconds of its clock. */
static long end;

static const struct timespec long_time = { 1000, 900000000 };

static void rest(long milliseconds)
{
	struct timespec left = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static long in_milliseconds(struct timespec time)
{
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static long now(clockid_t clock)
{
	struct timespec time;
	must(clock_gettime(clock, &time));
	return in_milliseconds(time);
}

static void arm(clockid_t clock, int flags, struct timespec first, struct timespec interval)
{
	struct itimerspec when = { .it_value = first, .it_interval = interval };
	fd = must(timerfd_create(clock, TFD_NONBLOCK));
	must(timerfd_settime(fd, flags, &when, NULL));
}

/* How far the end is off, in units of so many milliseconds. A moment is to come when it was to come; a wait goes on from where
 * it was, which is later by as long as a restore takes. */
enum { a_moment = 100, a_wait = 60000 };

/* How many times as long a restore may take here as on an idle machine. */
static long patience(void)
{
	const char *times = getenv("PATIENCE");
	return times && atol(times) > 0 ? atol(times) : 1;
}

static void say_end(clockid_t clock, struct itimerspec left, long unit)
{
	if (unit == a_wait)
		unit *= patience();
	long off = now(clock) + in_milliseconds(left.it_value) - end;
	say("%ld off, every %ld ms ", (off + unit * 1000 + unit / 2) / unit - 1000, in_milliseconds(left.it_interval));
}

static void show_end(clockid_t clock, long unit)
{
	struct itimerspec left;
	char path[64];
	must(timerfd_gettime(fd, &left));
	say_end(clock, left, unit);
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	say_lines(path, "clockid", "settime flags", NULL);
}

static void until(clockid_t clock, int flags)
{
	struct timespec when = { 0 };
	must(clock_gettime(clock, &when));
	when.tv_sec += long_time.tv_sec;
	when.tv_nsec = long_time.tv_nsec;
	end = in_milliseconds(when);
	arm(clock, TFD_TIMER_ABSTIME | flags, when, (struct timespec){ 7, 0 });
}

static void make_timerfd(void)
{
	end = now(CLOCK_MONOTONIC) + in_milliseconds(long_time);
	arm(CLOCK_MONOTONIC, 0, long_time, (struct timespec){ 5, 0 });
}

static void show_timerfd(void)
{
	show_end(CLOCK_MONOTONIC, a_wait);
}

static void make_timerfd_boottime(void)
{
	end = now(CLOCK_BOOTTIME) + in_milliseconds(long_time);
	arm(CLOCK_BOOTTIME, 0, long_time, (struct timespec){ 5, 0 });
}

static void show_timerfd_boottime(void)
{
	show_end(CLOCK_BOOTTIME, a_wait);
}

static void make_timerfd_until(void)
{
	until(CLOCK_MONOTONIC, 0);
}

static void show_timerfd_until(void)
{
	show_end(CLOCK_MONOTONIC, a_moment);
}

static void make_timerfd_until_boottime(void)
{
	until(CLOCK_BOOTTIME, 0);
}

static void show_timerfd_until_boottime(void)
{
	show_end(CLOCK_BOOTTIME, a_moment);
}

static void make_timerfd_until_date(void)
{
	until(CLOCK_REALTIME, 0);
}

static void show_timerfd_until_date(void)
{
	show_end(CLOCK_REALTIME, a_moment);
}

static void make_timerfd_cancel(void)
{
	until(CLOCK_REALTIME, TFD_TIMER_CANCEL_ON_SET);
}

/* Has run out when it is read, and runs out again. */
static void make_timerfd_periodic(void)
{
	arm(CLOCK_MONOTONIC, 0, (struct timespec){ 0, 1 }, (struct timespec){ 0, 20000000 });
	rest(50);
}

static void say_ticks(unsigned long many)
{
	unsigned long ticks = 0;
	ssize_t got = read(fd, &ticks, sizeof ticks);
	say("%s ", got < 0 ? strerror(errno) : ticks < many ? "few" : "many");
}

static void show_timerfd_periodic(void)
{
	say_ticks(1);
	rest(100);
	say_ticks(1);
	rest(100);
}

/* Nobody has read it for a while. */
static void make_timerfd_overruns(void)
{
	arm(CLOCK_MONOTONIC, 0, (struct timespec){ 0, 1 }, (struct timespec){ 1, 0 });
	rest(3500);
}

static void show_timerfd_overruns(void)
{
	unsigned long ticks = 0;
	struct itimerspec every = { .it_value = { 0, 1 }, .it_interval = { 1, 0 } };
	must(read(fd, &ticks, sizeof ticks));
	say("%s", ticks >= 4 ? "many" : "few");
	/* for the next time */
	must(timerfd_settime(fd, 0, &every, NULL));
	rest(3500);
}

static void make_timerfd_once(void)
{
	arm(CLOCK_MONOTONIC, 0, (struct timespec){ 0, 1 }, (struct timespec){ 0 });
	rest(20);
}

static void show_timerfd_once(void)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	say_result(poll(&ready, 1, 0));
}

static int pending(int signal)
{
	sigset_t set;
	must(sigpending(&set));
	return sigismember(&set, signal);
}

static void block(int signal)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signal);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
}

/* A timer that runs out later; `notify` is SIGEV_*. */
static void posix(clockid_t clock, int notify)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 4711 };
	struct itimerspec when = { .it_value = long_time, .it_interval = { 5, 0 } };
	if (notify == SIGEV_THREAD_ID)
		event._sigev_un._tid = gettid();
	must(timer_create(clock, &event, &timer));
	end = now(clock) + in_milliseconds(when.it_value);
	must(timer_settime(timer, 0, &when, NULL));
}

static void show_posix(clockid_t clock)
{
	struct itimerspec left;
	must(timer_gettime(timer, &left));
	say_end(clock, left, a_wait);
	say_file("/proc/self/timers");
}

static void make_timer_monotonic(void)
{
	posix(CLOCK_MONOTONIC, SIGEV_SIGNAL);
}

static void show_timer_monotonic(void)
{
	show_posix(CLOCK_MONOTONIC);
}

static void make_timer_boottime(void)
{
	posix(CLOCK_BOOTTIME, SIGEV_NONE);
}

static void show_timer_boottime(void)
{
	show_posix(CLOCK_BOOTTIME);
}

static void make_timer_tai(void)
{
	posix(CLOCK_TAI, SIGEV_SIGNAL);
}

/* What is left of it: the clock goes on while the container sleeps. */
static void show_left(void)
{
	struct itimerspec left;
	must(timer_gettime(timer, &left));
	say("%s ", left.it_value.tv_sec > 900 ? "armed" : "gone");
	say_file("/proc/self/timers");
}

static void make_timer_thread(void)
{
	posix(CLOCK_MONOTONIC, SIGEV_THREAD_ID);
}

static void make_timer_of_thread(void)
{
	on_thread(make_timer_thread);
}

static void make_timer_cpu(void)
{
	posix(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL);
}

static void make_thread_cpu(void)
{
	posix(CLOCK_THREAD_CPUTIME_ID, SIGEV_THREAD_ID);
}

static void make_timer_thread_cpu(void)
{
	on_thread(make_thread_cpu);
}

/* Whose processor time counts: burns that of the first thread, and looks whether the other one's timer goes down. */
static void show_timer_thread_cpu(void)
{
	struct itimerspec before, after;
	must(timer_gettime(timer, &before));
	for (long from = now(CLOCK_THREAD_CPUTIME_ID); now(CLOCK_THREAD_CPUTIME_ID) < from + 100;)
		;
	must(timer_gettime(timer, &after));
	say("%s", in_milliseconds(before.it_value) - in_milliseconds(after.it_value) > 50 ? "the first thread's" :
											     "its thread's");
}

static void make_timer_until_date(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec when = { 0 };
	must(timer_create(CLOCK_REALTIME, &event, &timer));
	must(clock_gettime(CLOCK_REALTIME, &when.it_value));
	when.it_value.tv_sec += long_time.tv_sec;
	end = in_milliseconds(when.it_value);
	must(timer_settime(timer, TIMER_ABSTIME, &when, NULL));
}

static void show_timer_until_date(void)
{
	struct itimerspec left;
	must(timer_gettime(timer, &left));
	say_end(CLOCK_REALTIME, left, a_moment);
}

/* Its signal is blocked, and so pending, while it runs out again and again. */
static void make_timer_overrun(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec when = { { 0, 10000000 }, { 0, 1 } };
	block(SIGUSR1);
	must(timer_create(CLOCK_MONOTONIC, &event, &timer));
	must(timer_settime(timer, 0, &when, NULL));
	rest(500);
}

static void show_timer_overrun(void)
{
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	must(sigwaitinfo(&set, &info));
	say("%s", must(timer_getoverrun(timer)) >= 40 ? "many" : "few");
	rest(500);
}

static void make_timer_runs(void)
{
	make_timer_overrun();
}

static void show_timer_runs(void)
{
	sigset_t set;
	siginfo_t info;
	int got = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (int i = 0; i < 5; i++)
		got += sigtimedwait(&set, &info, &(struct timespec){ 1, 0 }) == SIGUSR1;
	say("%d", got);
}

static void interval(int which)
{
	struct itimerval when = { .it_value = { 1000, 0 }, .it_interval = { 3, 0 } };
	must(setitimer(which, &when, NULL));
}

static void show_interval(int which)
{
	struct itimerval left;
	must(getitimer(which, &left));
	say("%s, every %ld s", left.it_value.tv_sec > 900 ? "armed" : "gone", left.it_interval.tv_sec);
}

static void make_itimer_real(void)
{
	interval(ITIMER_REAL);
}

static void show_itimer_real(void)
{
	show_interval(ITIMER_REAL);
}

static void make_itimer_virtual(void)
{
	interval(ITIMER_VIRTUAL);
}

static void show_itimer_virtual(void)
{
	show_interval(ITIMER_VIRTUAL);
}

static void make_itimer_prof(void)
{
	interval(ITIMER_PROF);
}

static void show_itimer_prof(void)
{
	show_interval(ITIMER_PROF);
}

static void make_itimer_pending(void)
{
	struct itimerval once = { .it_value = { 0, 1 } };
	block(SIGALRM);
	must(setitimer(ITIMER_REAL, &once, NULL));
	rest(20);
}

static void show_itimer_pending(void)
{
	say("%d", pending(SIGALRM));
}

static void make_monotonic(void)
{
	end = now(CLOCK_MONOTONIC);
}

/* Goes on from where it stood; a restore takes less than a minute. */
static void show_monotonic(void)
{
	long passed = now(CLOCK_MONOTONIC) - end;
	say("%s", passed >= 0 && passed < a_wait * patience() ? "goes on" : "jumped");
}

#define ENTRY(text, name) { text, make_##name, show_##name }
const struct property timers[] = {
	ENTRY("timerfd", timerfd),
	ENTRY("timerfd-boottime", timerfd_boottime),
	ENTRY("timerfd-until", timerfd_until),
	ENTRY("timerfd-until-boottime", timerfd_until_boottime),
	ENTRY("timerfd-until-date", timerfd_until_date),
	{ "timerfd-cancel-on-set", make_timerfd_cancel, show_timerfd_until_date },
	ENTRY("timerfd-periodic", timerfd_periodic),
	ENTRY("timerfd-overruns", timerfd_overruns),
	ENTRY("timerfd-once", timerfd_once),
	ENTRY("timer-monotonic", timer_monotonic),
	ENTRY("timer-boottime", timer_boottime),
	{ "timer-tai", make_timer_tai, show_left },
	{ "timer-of-thread", make_timer_of_thread, show_timer_monotonic },
	{ "timer-cpu", make_timer_cpu, show_left },
	ENTRY("timer-thread-cpu", timer_thread_cpu),
	ENTRY("timer-until-date", timer_until_date),
	ENTRY("timer-overrun", timer_overrun),
	ENTRY("timer-runs", timer_runs),
	ENTRY("itimer-real", itimer_real),
	ENTRY("itimer-virtual", itimer_virtual),
	ENTRY("itimer-prof", itimer_prof),
	ENTRY("itimer-pending", itimer_pending),
	ENTRY("monotonic-clock", monotonic),
	{ 0 },
};
