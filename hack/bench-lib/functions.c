/*
 * functions PROGRAM ADDRESSES OUTPUT COMMAND...: runs a command and writes which functions of PROGRAM it and its children
 * call, one per line: address, and whether a container's init (1) or another process (0) called it first.
 *
 * ADDRESSES names a file with the addresses of PROGRAM's functions in hexadecimal. Each gets a breakpoint, which is
 * taken out when it is reached. What the command leaves behind is killed. x86_64 only.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define BREAKPOINT 0xcc
enum { OTHER, INIT };

struct task {
    pid_t pid;
    uint64_t base; /* where PROGRAM is in its memory; 0: it runs another */
    int role, is_new;
};

static struct task tasks[256];
static int count;
static unsigned char *code, *broken, *is_function, *called[2];
static uint64_t size, first = UINT64_MAX, last, entry;

static struct task *task_of(pid_t pid)
{
    for (int i = 0; i < count; i++)
        if (tasks[i].pid == pid)
            return &tasks[i];
    if (count == sizeof tasks / sizeof *tasks)
        errx(1, "too many processes");
    tasks[count] = (struct task){.pid = pid, .is_new = 1};
    return &tasks[count++];
}

static void forget(pid_t pid)
{
    *task_of(pid) = tasks[count - 1];
    count--;
}

static ssize_t of_proc(pid_t pid, const char *name, void *buffer, size_t length)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, buffer, length);
    close(fd);
    return got;
}

static void write_memory(pid_t pid, uint64_t at, const void *from, size_t length)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, from, length, at) != (ssize_t)length)
        err(1, "%s", path);
    close(fd);
}

/* Learns where a task has PROGRAM. */
static void look_at(struct task *task)
{
    uint64_t vector[128], headers = 0, start = 0;
    ssize_t got = of_proc(task->pid, "auxv", vector, sizeof vector);
    for (int i = 0; i + 1 < got / 8; i += 2) {
        if (vector[i] == AT_PHDR)
            headers = vector[i + 1];
        if (vector[i] == AT_ENTRY)
            start = vector[i + 1];
    }
    uint64_t base = headers - sizeof(Elf64_Ehdr);
    task->base = headers && start - base == entry ? base : 0;
    char arguments[4096] = "";
    of_proc(task->pid, "cmdline", arguments, sizeof arguments - 1);
    task->role = strcmp(arguments + strlen(arguments) + 1, "init") ? OTHER : INIT;
}

static void read_program(const char *program, const char *addresses)
{
    struct stat status;
    int fd = open(program, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0)
        err(1, "%s", program);
    size = status.st_size;
    code = malloc(size);
    broken = malloc(size);
    is_function = calloc(size, 1);
    called[OTHER] = calloc(size, 1);
    called[INIT] = calloc(size, 1);
    if (read(fd, code, size) != (ssize_t)size)
        err(1, "%s", program);
    close(fd);
    memcpy(broken, code, size);
    entry = ((Elf64_Ehdr *)code)->e_entry;
    FILE *file = fopen(addresses, "r");
    if (!file)
        err(1, "%s", addresses);
    for (uint64_t at; fscanf(file, "%lx", &at) == 1;) {
        is_function[at] = 1;
        broken[at] = BREAKPOINT;
        first = at < first ? at : first;
        last = at > last ? at : last;
    }
    fclose(file);
}

/* A breakpoint has been reached: notes it, takes it out and goes back. */
static void reached(struct task *task, FILE *output)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, task->pid, 0, &registers) < 0)
        return;
    uint64_t at = registers.rip - 1 - task->base;
    if (at >= size || !is_function[at])
        return;
    if (!called[task->role][at]++)
        fprintf(output, "%lx %d\n", at, task->role);
    write_memory(task->pid, task->base + at, &code[at], 1);
    registers.rip--;
    ptrace(PTRACE_SETREGS, task->pid, 0, &registers);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        errx(2, "usage: functions PROGRAM ADDRESSES OUTPUT COMMAND...");
    read_program(argv[1], argv[2]);
    FILE *output = fopen(argv[3], "w");
    if (!output)
        err(1, "%s", argv[3]);
    pid_t command = fork();
    if (command == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[4], argv + 4);
        err(127, "%s", argv[4]);
    }
    int status;
    waitpid(command, &status, 0);
    task_of(command)->is_new = 0;
    ptrace(PTRACE_SETOPTIONS, command, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, command, 0, 0);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
        if (!WIFSTOPPED(status)) {
            forget(pid);
            if (pid == command)
                break;
            continue;
        }
        struct task *task = task_of(pid);
        int event = status >> 16, signal = 0;
        if (event == PTRACE_EVENT_EXEC) {
            look_at(task);
            if (task->base)
                write_memory(pid, task->base + first, broken + first, last + 1 - first);
        } else if (!event && task->is_new && WSTOPSIG(status) == SIGSTOP) {
            task->is_new = 0;
            look_at(task);
        } else if (!event && WSTOPSIG(status) == SIGTRAP && task->base) {
            reached(task, output);
        } else if (!event) {
            signal = WSTOPSIG(status);
        }
        ptrace(PTRACE_CONT, pid, 0, signal);
    }
    fclose(output);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
