/*
 * What all areas of the program share. An area is a file with a table of its properties, sorted as one likes:
 *
 *	const struct property tasks[] = {
 *		{ "umask", set_umask, show_umask },
 *		{ 0 },
 *	};
 *
 * Each property is made and shown by a process of its own, a child of the first one, so that no property disturbs
 * another. It may start threads and children.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct property {
	/* as in the rows of tests/criu/same/rows/ */
	const char *name;
	/* makes the process have it; NULL if it has it anyway */
	void (*make)(void);
	/* says what it is now; before and after a restore in the same process */
	void (*show)(void);
};

extern const struct property tasks[], signals[], memory[], processor[], files[], sockets[], queues[], timers[], ipc[], networks[], mounts[],
	cgroups[], namespaces[], threads[], protocols[], descriptors[], calls[], numbers[], terminals[], registrations[], rarer[];

/* Ends this property's process, and makes its value or its failure `words: errno`. */
#define must(call) must_be((long)(call), #call)
long must_be(long result, const char *words);
_Noreturn void fail(const char *words);

/* Adds to the value. Lines of it are shown in one, with a space between them. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds the whole file; for files of /proc and /sys. */
void say_file(const char *path);
/* Adds those lines of the file that begin with one of the words, of which the last is NULL. */
void say_lines(const char *path, ...) __attribute__((sentinel));
/* The whole file, in memory of its own. */
char *file(const char *path);
/* Writes a file anew. */
void write_file(const char *path, const char *text);
/* An open file with this content, to be read and written. */
int new_file(const char *path, const char *text);
/* Adds the result of a system call, or the name of its error. */
void say_result(long result);

/* Adds the value of a socket's option, of at most 256 bytes, byte by byte. */
void say_option(int fd, int level, int number, size_t size);

/* Has a second thread run `show`, and this one wait for it: what a thread keeps for itself. The thread is there since the
 * first call; so make() calls it, too. */
void on_thread(void (*what)(void));

/* A child that runs `body` and then waits for its end. */
pid_t child(void (*body)(void));
_Noreturn void forever(void);

#define COUNT(array) (sizeof(array) / sizeof *(array))
