/*
 * bench-floor: what the kernel itself takes for the container of `hiber spec`, and a clock for hack/bench.
 *
 *   bench-floor run ROOTFS CGROUP[,CGROUP...] PROGRAM [ARGUMENT...]
 *       makes the container: all namespaces, mounts, device nodes, masks, pivot_root, limits, capabilities, a cgroup
 *       in every given hierarchy (absolute paths; one directory means cgroup v2 alone, with a namespace of its own)
 *       and its device rules. It parses nothing, keeps no state and trusts ROOTFS: no runtime can do less.
 *   bench-floor time RESULT PROGRAM [ARGUMENT...]
 *       runs a program and appends "WALL_NS USER_US SYSTEM_US PEAK_KIB STATUS" to RESULT. Python is too large for it:
 *       a child's ru_maxrss starts with the size of the process that it was forked from.
 *   bench-floor tick FILE
 *       looks at the clock once a millisecond and keeps the longest pause, in microseconds, in FILE.
 *   bench-floor hold MIB PROCESSES FILE [RATE [half]]
 *       holds MIB MiB of noise, which nothing can compress (half of it, and zeros between), and is PROCESSES processes. Writes "DIGEST CHILDREN" to FILE
 *       when that is so, and again, of what is there then, whenever it gets SIGUSR1. SIGUSR2 makes it look at one page and
 *       make FILE.answer. Meanwhile it writes RATE MiB a second, scattered pages, with the values that they have.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* linux/mount.h has the rest; it and sys/mount.h cannot be included together everywhere */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
#define MNT_DETACH 2

enum { MAX_CGROUPS = 32 };

static void check(long result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "bench-floor: %s: %s\n", what, strerror(errno));
        exit(125);
    }
}

/* --- cgroups --- */

static void write_file(const char *dir, const char *name, const char *value) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    check(fd, path);
    check(write(fd, value, strlen(value)), path);
    close(fd);
}

static void read_file(const char *dir, const char *name, char *value, size_t size) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    check(fd, path);
    ssize_t n = read(fd, value, size - 1);
    check(n, path);
    value[n] = 0;
    close(fd);
}

/* type, major, minor (-1: any), access (BPF_DEVCG_ACC_*) */
static const struct { char type; int major, minor, access; } ALLOWED[] = {
    {'c', -1, -1, 1}, {'b', -1, -1, 1}, {'c', 1, 3, 7}, {'c', 1, 8, 7}, {'c', 1, 7, 7}, {'c', 5, 0, 7},
    {'c', 1, 5, 7},   {'c', 1, 9, 7},   {'c', 5, 2, 7}, {'c', 136, -1, 7},
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void device_rules_v1(const char *dir) {
    write_file(dir, "devices.deny", "a");
    for (size_t i = 0; i < COUNT(ALLOWED); i++) {
        char major[12] = "*", minor[12] = "*", line[64];
        if (ALLOWED[i].major >= 0) snprintf(major, sizeof major, "%d", ALLOWED[i].major);
        if (ALLOWED[i].minor >= 0) snprintf(minor, sizeof minor, "%d", ALLOWED[i].minor);
        snprintf(line, sizeof line, "%c %s:%s %s", ALLOWED[i].type, major, minor, ALLOWED[i].access == 1 ? "m" : "rwm");
        write_file(dir, "devices.allow", line);
    }
}

static void device_rules_v2(int dir) {
    struct bpf_insn code[128];
    int n = 0;
#define INSN(c, d, s, o, i) code[n++] = (struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)}
    INSN(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0);
    INSN(BPF_ALU | BPF_MOV | BPF_X, 3, 2, 0, 0);
    INSN(BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff); /* type */
    INSN(BPF_ALU | BPF_RSH | BPF_K, 3, 0, 0, 16);     /* access */
    INSN(BPF_LDX | BPF_MEM | BPF_W, 4, 1, 4, 0);      /* major */
    INSN(BPF_LDX | BPF_MEM | BPF_W, 5, 1, 8, 0);      /* minor */
    for (size_t i = 0; i < COUNT(ALLOWED); i++) {
        int major = ALLOWED[i].major >= 0, minor = ALLOWED[i].minor >= 0, end = 6 + major + minor;
        INSN(BPF_JMP | BPF_JNE | BPF_K, 2, 0, end - 1, ALLOWED[i].type == 'c' ? BPF_DEVCG_DEV_CHAR : BPF_DEVCG_DEV_BLOCK);
        INSN(BPF_ALU | BPF_MOV | BPF_X, 1, 3, 0, 0);
        INSN(BPF_ALU | BPF_AND | BPF_K, 1, 0, 0, ~ALLOWED[i].access);
        INSN(BPF_JMP | BPF_JNE | BPF_K, 1, 0, end - 4, 0);
        if (major) INSN(BPF_JMP | BPF_JNE | BPF_K, 4, 0, 2 + minor, ALLOWED[i].major);
        if (minor) INSN(BPF_JMP | BPF_JNE | BPF_K, 5, 0, 2, ALLOWED[i].minor);
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1);
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
    INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = n, .insns = (uintptr_t)code,
                           .license = (uintptr_t) "GPL"};
    int program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    check(program, "BPF_PROG_LOAD");
    union bpf_attr attach = {.target_fd = dir, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE,
                             .attach_flags = BPF_F_ALLOW_MULTI};
    check(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach), "BPF_PROG_ATTACH");
    close(program);
}

/* A v1 cpuset is empty at first and takes no process then. */
static void fill_cpuset(const char *dir) {
    static const char *const FILES[] = {"cpuset.cpus", "cpuset.mems"};
    char parent[4096], value[4096];
    snprintf(parent, sizeof parent, "%s/..", dir);
    for (size_t i = 0; i < 2; i++) {
        read_file(parent, FILES[i], value, sizeof value);
        write_file(dir, FILES[i], value);
    }
}

/* --- inside --- */

static void attach_tree(int tree, const char *target) {
    check(syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), target);
    close(tree);
}

static int clone_tree(const char *path) {
    int fd = syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    check(fd, path);
    return fd;
}

static void read_only(int tree) {
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    check(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr), "mount_setattr");
}

static void cgroup_mounts(char *const cgroups[], int count) {
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME;
    if (count == 1) {
        check(mount("cgroup", "sys/fs/cgroup", "cgroup2", flags | MS_RDONLY, NULL), "cgroup2");
        return;
    }
    check(mount("tmpfs", "sys/fs/cgroup", "tmpfs", flags, "mode=755"), "tmpfs on /sys/fs/cgroup");
    for (int i = 0; i < count; i++) {
        char hierarchy[4096], target[4200];
        snprintf(hierarchy, sizeof hierarchy, "%s", cgroups[i]);
        *strrchr(hierarchy, '/') = 0; /* the name of the container's cgroup */
        const char *name = strrchr(hierarchy, '/') + 1;
        if (!strcmp(name, "unified")) continue;
        snprintf(target, sizeof target, "sys/fs/cgroup/%s", name);
        check(mkdir(target, 0755), target);
        int tree = clone_tree(cgroups[i]);
        read_only(tree);
        attach_tree(tree, target);
    }
    int top = open("sys/fs/cgroup", O_PATH | O_CLOEXEC);
    read_only(top);
    close(top);
}

static void mounts(char *const cgroups[], int count) {
    const unsigned long none = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    check(mount("proc", "proc", "proc", 0, NULL), "proc");
    check(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"), "dev");
    check(mkdir("dev/pts", 0755) | mkdir("dev/shm", 0755) | mkdir("dev/mqueue", 0755), "dev");
    check(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "pts");
    check(mount("shm", "dev/shm", "tmpfs", none, "mode=1777,size=65536k"), "shm");
    check(mount("mqueue", "dev/mqueue", "mqueue", none, NULL), "mqueue");
    check(mount("sysfs", "sys", "sysfs", none | MS_RDONLY, NULL), "sysfs");
    cgroup_mounts(cgroups, count);
}

static void devices(void) {
    static const struct { const char *path; int major, minor; } NODES[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/tty", 5, 0}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9},
    };
    static const char *const LINKS[][2] = {
        {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
        {"/proc/self/fd/2", "dev/stderr"}, {"/proc/kcore", "dev/core"}, {"pts/ptmx", "dev/ptmx"},
    };
    umask(0);
    for (size_t i = 0; i < COUNT(NODES); i++)
        check(mknod(NODES[i].path, S_IFCHR | 0666, makedev(NODES[i].major, NODES[i].minor)), NODES[i].path);
    for (size_t i = 0; i < COUNT(LINKS); i++) check(symlink(LINKS[i][0], LINKS[i][1]), LINKS[i][1]);
    umask(022);
}

static void restrictions(void) {
    static const char *const READ_ONLY[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    static const char *const MASKED[] = {
        "proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
        "proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi",
    };
    struct stat st;
    for (size_t i = 0; i < COUNT(READ_ONLY); i++) {
        if (access(READ_ONLY[i], F_OK) != 0) continue;
        int tree = clone_tree(READ_ONLY[i]);
        read_only(tree);
        attach_tree(tree, READ_ONLY[i]);
    }
    for (size_t i = 0; i < COUNT(MASKED); i++) {
        if (stat(MASKED[i], &st) != 0) continue;
        if (S_ISDIR(st.st_mode)) check(mount("tmpfs", MASKED[i], "tmpfs", MS_RDONLY, NULL), MASKED[i]);
        else attach_tree(clone_tree("/dev/null"), MASKED[i]);
    }
}

static void loopback(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check(fd, "socket");
    check(ioctl(fd, SIOCSIFFLAGS, &request), "loopback");
    close(fd);
}

static void identity(void) {
    const uint64_t caps = 1 << CAP_AUDIT_WRITE | 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE;
    struct rlimit files = {1024, 1024};
    check(setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
    check(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, "_ses.bench-floor"), "keyctl");
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (!(caps & 1ull << cap)) check(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0), "PR_CAPBSET_DROP");
    gid_t none;
    check(syscall(SYS_setgroups, 0, &none), "setgroups");
    check(setresgid(0, 0, 0) | setresuid(0, 0, 0), "setresuid");
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{caps, caps, 0}, {0, 0, 0}};
    check(syscall(SYS_capset, &header, data), "capset");
    check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient");
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

static void inside(const char *rootfs, char *const cgroups[], int count, char *argv[]) {
    static char *const env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "HOME=/root", NULL};
    check(setsid(), "setsid");
    check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "slave /");
    loopback();
    int root = clone_tree(rootfs);
    int kept = fcntl(root, F_DUPFD_CLOEXEC, 3);
    attach_tree(root, rootfs);
    check(fchdir(kept), "fchdir");
    mounts(cgroups, count);
    devices();
    restrictions();
    read_only(kept);
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "umount");
    check(chdir("/"), "chdir");
    check(sethostname("hiber", 5), "sethostname");
    identity();
    check(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC), "close_range");
    execve(argv[0], argv, env);
    check(-1, argv[0]);
}

static int run(const char *rootfs, char *list, char *argv[]) {
    char *cgroups[MAX_CGROUPS];
    int count = 0, go[2], v2_dir = -1;
    for (char *path = strtok(list, ","); path && count < MAX_CGROUPS; path = strtok(NULL, ",")) cgroups[count++] = path;
    const int v2 = count == 1;
    for (int i = 0; i < count; i++) {
        check(mkdir(cgroups[i], 0755), cgroups[i]);
        if (v2) continue;
        if (strstr(cgroups[i], "/cpuset/")) fill_cpuset(cgroups[i]);
        if (strstr(cgroups[i], "/devices/")) device_rules_v1(cgroups[i]);
    }
    if (v2) {
        v2_dir = open(cgroups[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        check(v2_dir, cgroups[0]);
        device_rules_v2(v2_dir);
    }
    check(pipe2(go, O_CLOEXEC), "pipe");
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | (v2 ? CLONE_NEWCGROUP | CLONE_INTO_CGROUP : 0),
        .exit_signal = SIGCHLD,
        .cgroup = v2 ? v2_dir : 0,
    };
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    check(pid, "clone3");
    if (pid == 0) {
        char byte;
        close(go[1]);
        if (!v2 && read(go[0], &byte, 1) != 1) _exit(125);
        inside(rootfs, cgroups, count, argv);
    }
    char number[16];
    snprintf(number, sizeof number, "%d", pid);
    for (int i = 0; !v2 && i < count; i++) write_file(cgroups[i], "cgroup.procs", number);
    if (!v2) check(write(go[1], "g", 1), "go");
    int status;
    check(waitpid(pid, &status, 0), "waitpid");
    for (int i = 0; i < count; i++) check(rmdir(cgroups[i]), cgroups[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* --- the clocks --- */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int time_program(const char *result, char *argv[]) {
    FILE *out = fopen(result, "ae");
    check(out ? 0 : -1, result);
    const int64_t began = now_ns();
    pid_t pid = vfork();
    check(pid, "vfork");
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    struct rusage usage;
    check(wait4(pid, &status, 0, &usage), "wait4");
    fprintf(out, "%lld %lld %lld %ld %d\n", (long long)(now_ns() - began),
            usage.ru_utime.tv_sec * 1000000ll + usage.ru_utime.tv_usec,
            usage.ru_stime.tv_sec * 1000000ll + usage.ru_stime.tv_usec, usage.ru_maxrss,
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}

__attribute__((noreturn)) static void tick(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(fd, path);
    int64_t before = now_ns(), longest = 0;
    for (;;) {
        usleep(1000);
        int64_t now = now_ns();
        if (now - before > longest) {
            char text[24];
            longest = now - before;
            int n = snprintf(text, sizeof text, "%lld\n", (long long)(longest / 1000));
            check(pwrite(fd, text, n, 0), path);
        }
        before = now;
    }
}

/* Writes what is held, whole or not at all. */
static void report(const char *path, const uint64_t *words, size_t count, int children) {
    char new[4200], text[40];
    uint64_t digest = 0xcbf29ce484222325; /* FNV-1a, of words */
    for (size_t i = 0; i < count; i++) digest = (digest ^ words[i]) * 0x100000001b3;
    for (int i = children; i > 0; i--) children -= waitpid(-1, NULL, WNOHANG) > 0;
    int n = snprintf(text, sizeof text, "%016llx %d\n", (unsigned long long)digest, children);
    snprintf(new, sizeof new, "%s.new", path);
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    check(fd, new);
    check(write(fd, text, n), new);
    close(fd);
    check(rename(new, path), path);
}

__attribute__((noreturn)) static void hold(size_t mib, int processes, const char *path, size_t rate, int half) {
    const size_t size = mib << 20, count = size / sizeof(uint64_t), pages = size / 4096;
    const struct timespec millisecond = {.tv_nsec = 1000000};
    sigset_t told;
    sigemptyset(&told);
    sigaddset(&told, SIGUSR1);
    sigaddset(&told, SIGUSR2);
    check(sigprocmask(SIG_BLOCK, &told, NULL), "sigprocmask");
    for (int i = 1; i < processes; i++) {
        pid_t pid = fork();
        check(pid, "fork");
        while (pid == 0) pause();
    }
    volatile uint64_t *words = size ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
    check(words == MAP_FAILED ? -1 : 0, "mmap");
    uint64_t noise = now_ns() | 1; /* xorshift64 */
    for (size_t i = 0; i < count; i++) {
        noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
        words[i] = half && i / 64 % 2 ? 0 : noise;
    }
    report(path, (const uint64_t *)words, count, processes - 1);
    for (int64_t before = now_ns();;) {
        int signal = sigtimedwait(&told, NULL, rate ? &millisecond : NULL);
        if (signal == SIGUSR1) report(path, (const uint64_t *)words, count, processes - 1);
        if (signal == SIGUSR2) {
            char answer[4200];
            snprintf(answer, sizeof answer, "%s.answer", path);
            check(size ? (long)(words[count / 2] & 1) : 0, "look");
            int fd = open(answer, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
            check(fd, answer);
            close(fd);
        }
        const int64_t now = now_ns();
        for (int64_t left = pages ? (now - before) * (int64_t)rate * 256 / 1000000000 : 0; left > 0; left--) {
            noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
            volatile uint64_t *word = words + noise % pages * 512;
            *word = *word;
        }
        before = now;
    }
}

int main(int argc, char *argv[]) {
    if (argc >= 5 && !strcmp(argv[1], "run")) return run(argv[2], argv[3], argv + 4);
    if (argc >= 4 && !strcmp(argv[1], "time")) return time_program(argv[2], argv + 3);
    if (argc == 3 && !strcmp(argv[1], "tick")) tick(argv[2]);
    if (argc >= 5 && !strcmp(argv[1], "hold"))
        hold(strtoul(argv[2], NULL, 10), atoi(argv[3]), argv[4], argc > 5 ? strtoul(argv[5], NULL, 10) : 0,
             argc > 6 && !strcmp(argv[6], "half"));
    fprintf(stderr, "usage: bench-floor run ROOTFS CGROUP[,CGROUP...] PROGRAM... | time RESULT PROGRAM... | tick FILE | "
                    "hold MIB PROCESSES FILE [RATE [half]]\n");
    return 2;
}
