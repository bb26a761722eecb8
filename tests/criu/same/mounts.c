/* Mounts and what is in a tmpfs. */
#include "same.h"
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

/* What mountinfo says of the last mount at the point, but for numbers. */
static void say_mount(const char *at)
{
	char *text = file("/proc/self/mountinfo"), *rest = text, *line, *found = NULL;
	while ((line = strsep(&rest, "\n"))) {
		char point[256], root[256];
		if (sscanf(line, "%*d %*d %*s %255s %255s", root, point) == 2 && !strcmp(point, at))
			found = line;
	}
	if (!found) {
		say("none");
	} else {
		char *word, *next = found;
		for (int i = 0; (word = strsep(&next, " ")); i++)
			/* device, root and point go by other names elsewhere; groups have numbers */
			if (i >= 5)
				say("%.*s ", (int)strcspn(word, ":"), word);
	}
	free(text);
}

#define MOUNT(name, at) static void show_##name(void) { say_mount(at); }

MOUNT(limited, "/m-limited")
MOUNT(noatime, "/m-noatime")
MOUNT(strictatime, "/m-strictatime")
MOUNT(restricted, "/m-restricted")
MOUNT(nosymfollow, "/m-nosymfollow")
static void make_nosymfollow(void)
{
	must(mkdir("/m-nosymfollow", 0755));
	must(mount("inside", "/m-nosymfollow", "tmpfs", 256 /* MS_NOSYMFOLLOW */, ""));
}

MOUNT(synchronous, "/m-synchronous")
MOUNT(lazytime, "/m-lazytime")
MOUNT(huge, "/m-huge")
MOUNT(shared, "/m-shared")
MOUNT(unbindable, "/m-unbindable")
MOUNT(tracefs, "/m-tracefs")
MOUNT(debugfs, "/m-debugfs")
MOUNT(securityfs, "/m-securityfs")
MOUNT(devpts, "/m-devpts")
MOUNT(proc_hidepid, "/m-hidepid")
MOUNT(proc_subset, "/m-subset")
MOUNT(bound, "/m-bound")

static void make_mounted(void)
{
	must(mkdir("/m-mounted", 0755));
	must(mount("inside", "/m-mounted", "tmpfs", MS_NOEXEC | MS_NODIRATIME, "size=64k,mode=0700"));
}

MOUNT(mounted, "/m-mounted")

static void make_overlay(void)
{
	must(mkdir("/m-overlay", 0755));
	must(mkdir("/dev/shm/upper", 0755));
	must(mkdir("/dev/shm/work", 0755));
	must(mount("o", "/m-overlay", "overlay", 0, "lowerdir=/etc,upperdir=/dev/shm/upper,workdir=/dev/shm/work"));
}

MOUNT(overlay, "/m-overlay")

static void make_tracefs_inside(void)
{
	must(mkdir("/m-inside", 0755));
	must(mount("t", "/m-inside", "tracefs", 0, ""));
}

MOUNT(tracefs_inside, "/m-inside")

static void make_inside(const char *at, const char *type, const char *options)
{
	must(mkdir(at, 0755));
	must(mount("inside", at, type, 0, options));
}

static void make_policy(void)
{
	make_inside("/m-policy", "tmpfs", "size=1m,mpol=bind:0");
}

MOUNT(policy, "/m-policy")

static void make_ramfs(void)
{
	make_inside("/m-ramfs", "ramfs", "");
}

MOUNT(ramfs, "/m-ramfs")

static void make_bpf(void)
{
	make_inside("/m-bpf", "bpf", "");
}

MOUNT(bpf, "/m-bpf")

/* One in which a file of root is a user's: open_tree(2), mount_setattr(2) and move_mount(2) by their numbers. */
static void in_own_users(void)
{
	must(unshare(CLONE_NEWUSER));
}

static void make_idmapped(void)
{
	char path[64];
	struct { unsigned long long set, clear, propagation, users; } map = { 0x100000 /* MOUNT_ATTR_IDMAP */, 0, 0, 0 };
	make_inside("/m-owners", "tmpfs", "size=1m");
	close(new_file("/m-owners/file", ""));
	must(mkdir("/m-idmapped", 0755));
	pid_t pid = child(in_own_users);
	usleep(200000);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "/proc/%d/%cid_map", pid, "ug"[i]);
		write_file(path, "0 1000 100");
	}
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	map.users = must(open(path, O_RDONLY));
	int tree = must(syscall(428, AT_FDCWD, "/m-owners", 1 /* OPEN_TREE_CLONE */));
	must(syscall(442, tree, "", AT_EMPTY_PATH, &map, sizeof map));
	must(syscall(429, tree, "", AT_FDCWD, "/m-idmapped", 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
	close(tree);
	close(map.users);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void show_idmapped(void)
{
	struct stat is;
	must(stat("/m-idmapped/file", &is));
	say("%d ", is.st_uid);
	say_mount("/m-idmapped");
}

/* A flag of chattr(1). */
static void make_flags(void)
{
	int flags, fd = new_file("/dev/shm/flags", "");
	must(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags |= FS_NODUMP_FL;
	must(ioctl(fd, FS_IOC_SETFLAGS, &flags));
	close(fd);
}

static void show_flags(void)
{
	int flags = 0, fd = must(open("/dev/shm/flags", O_RDONLY));
	must(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	say("%x", flags);
	close(fd);
}

/* Files of a tmpfs. */

static void make_xattr(void)
{
	close(new_file("/dev/shm/xattr", ""));
	must(setxattr("/dev/shm/xattr", "user.of-mine", "a\nb", 4, 0));
}

static void show_xattr(void)
{
	char value[16] = "";
	say("%d %s", (int)must(getxattr("/dev/shm/xattr", "user.of-mine", value, sizeof value)), value);
}

static void make_trusted(void)
{
	must(symlink("nowhere", "/dev/shm/trusted"));
	must(lsetxattr("/dev/shm/trusted", "trusted.of-mine", "value", 5, 0));
}

static void show_trusted(void)
{
	char value[16] = "";
	must(lgetxattr("/dev/shm/trusted", "trusted.of-mine", value, sizeof value - 1));
	say("%s", value);
}

/* Version 2: user, user 1234, group, mask, others. */
static const unsigned char acl[] = {
	2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 4, 0, 0xd2, 4, 0, 0, 4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, 0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
};

static void make_acl(void)
{
	close(new_file("/dev/shm/acl", ""));
	must(setxattr("/dev/shm/acl", "system.posix_acl_access", acl, sizeof acl, 0));
}

static void say_bytes(const char *path, const char *name)
{
	unsigned char value[64];
	int length = must(getxattr(path, name, value, sizeof value));
	for (int i = 0; i < length; i++)
		say("%02x", value[i]);
}

static void show_acl(void)
{
	say_bytes("/dev/shm/acl", "system.posix_acl_access");
}

/* Revision 2, effective: CAP_NET_BIND_SERVICE. */
static const unsigned char capability[20] = { 1, 0, 0, 2, 0, 4 };

static void make_capability(void)
{
	close(new_file("/dev/shm/capability", ""));
	must(setxattr("/dev/shm/capability", "security.capability", capability, sizeof capability, 0));
}

static void show_capability(void)
{
	say_bytes("/dev/shm/capability", "security.capability");
}

static void say_times(const char *path)
{
	struct stat stat;
	must(lstat(path, &stat));
	say("%ld.%09ld", (long)stat.st_mtim.tv_sec, stat.st_mtim.tv_nsec);
}

static void make_times(void)
{
	struct timespec times[] = { { 1234567890, 987654321 }, { 1234567891, 123456789 } };
	must(mkdir("/dev/shm/times", 0755));
	close(new_file("/dev/shm/times/file", ""));
	must(symlink("file", "/dev/shm/times/link"));
	must(utimensat(AT_FDCWD, "/dev/shm/times/file", times, 0));
	must(utimensat(AT_FDCWD, "/dev/shm/times/link", times, AT_SYMLINK_NOFOLLOW));
	must(utimensat(AT_FDCWD, "/dev/shm/times", times, 0));
}

static void show_times(void)
{
	say_times("/dev/shm/times");
	say_times("/dev/shm/times/file");
	say_times("/dev/shm/times/link");
}

static void make_kinds(void)
{
	must(mkdir("/dev/shm/kinds", 01751));
	must(mkfifo("/dev/shm/kinds/fifo", 0640));
	must(mknod("/dev/shm/kinds/null", S_IFCHR | 0606, 1 << 8 | 3));
	close(new_file("/dev/shm/kinds/suid", "x"));
	must(chown("/dev/shm/kinds/suid", 1234, 4321));
	must(chmod("/dev/shm/kinds/suid", 06755));
}

static void show_kinds(void)
{
	static const char *const names[] = { "", "/fifo", "/null", "/suid" };
	for (size_t i = 0; i < COUNT(names); i++) {
		char path[64];
		struct stat stat;
		snprintf(path, sizeof path, "/dev/shm/kinds%s", names[i]);
		must(lstat(path, &stat));
		say("%o %u:%u %lx\n", stat.st_mode, stat.st_uid, stat.st_gid, (long)stat.st_rdev);
	}
}

/* In a tmpfs of its own, which an archive of many files is made of otherwise. */
static void make_linked(void)
{
	close(new_file("/m-linked/one", "x"));
	must(link("/m-linked/one", "/m-linked/two"));
	int fd = new_file("/m-linked/sparse", "");
	must(ftruncate(fd, 1 << 20));
	must(pwrite(fd, "x", 1, 1 << 19));
	close(fd);
}

static void show_linked(void)
{
	struct stat one, two, sparse;
	must(stat("/m-linked/one", &one));
	must(stat("/m-linked/two", &two));
	must(stat("/m-linked/sparse", &sparse));
	say("%d %ld %ld %ld", one.st_ino == two.st_ino, (long)one.st_nlink, (long)sparse.st_size, (long)sparse.st_blocks);
}

static void make_linked_attributes(void)
{
	int fd = new_file("/m-linked/attributes", "x");
	must(fsetxattr(fd, "user.of-mine", "value", 5, 0));
	close(fd);
}

static void show_linked_attributes(void)
{
	say_bytes("/m-linked/attributes", "user.of-mine");
	say_times("/m-linked/attributes");
}

static void make_left_socket(void)
{
	struct sockaddr_un name = { AF_UNIX, "/dev/shm/left-socket" };
	int fd = must(socket(AF_UNIX, SOCK_STREAM, 0));
	must(bind(fd, (struct sockaddr *)&name, sizeof name));
	close(fd);
}

static void show_left_socket(void)
{
	say_result(access("/dev/shm/left-socket", F_OK));
}

const struct property mounts[] = {
	{ "mount-tmpfs-limits", NULL, show_limited },
	{ "mount-noatime", NULL, show_noatime },
	{ "mount-strictatime-nodiratime", NULL, show_strictatime },
	{ "mount-nosuid-nodev-noexec-ro", NULL, show_restricted },
	{ "mount-nosymfollow", make_nosymfollow, show_nosymfollow },
	{ "mount-synchronous", NULL, show_synchronous },
	{ "mount-lazytime", NULL, show_lazytime },
	{ "mount-huge-pages", NULL, show_huge },
	{ "mount-shared", NULL, show_shared },
	{ "mount-unbindable", NULL, show_unbindable },
	{ "mount-tracefs", NULL, show_tracefs },
	{ "mount-debugfs", NULL, show_debugfs },
	{ "mount-securityfs", NULL, show_securityfs },
	{ "mount-devpts-options", NULL, show_devpts },
	{ "mount-proc-hidepid", NULL, show_proc_hidepid },
	{ "mount-proc-subset", NULL, show_proc_subset },
	{ "mount-bind-options", NULL, show_bound },
	{ "mount-made-inside", make_mounted, show_mounted },
	{ "mount-overlay-made-inside", make_overlay, show_overlay },
	{ "mount-tracefs-made-inside", make_tracefs_inside, show_tracefs_inside },
	{ "tmpfs-user-attribute", make_xattr, show_xattr },
	{ "tmpfs-trusted-attribute-of-a-link", make_trusted, show_trusted },
	{ "tmpfs-access-control-list", make_acl, show_acl },
	{ "tmpfs-file-capability", make_capability, show_capability },
	{ "tmpfs-times", make_times, show_times },
	{ "tmpfs-owners-modes-devices-fifos", make_kinds, show_kinds },
	{ "tmpfs-hard-links-and-holes", make_linked, show_linked },
	{ "tmpfs-attributes-and-times-beside-hard-links", make_linked_attributes, show_linked_attributes },
	{ "tmpfs-socket-that-nobody-has", make_left_socket, show_left_socket },
	{ "mount-memory-policy", make_policy, show_policy },
	{ "mount-ramfs-made-inside", make_ramfs, show_ramfs },
	{ "mount-bpf-made-inside", make_bpf, show_bpf },
	{ "mount-id-mapped-made-inside", make_idmapped, show_idmapped },
	{ "tmpfs-flags", make_flags, show_flags },
	{ 0 },
};
