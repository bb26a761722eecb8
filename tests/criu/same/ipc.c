/* System V objects and message queues. */
#include "same.h"
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>

static int id;
static pid_t holder;

static void say_permissions(struct ipc_perm *who)
{
	say("id %d key %x of %d:%d mode %o ", id, who->__key, who->uid, who->gid, who->mode);
}

/* Objects are numbered as they come, and properties are made side by side: without a key each has its own. */
static void make_memory(void)
{
	id = must(shmget(0x5a01, 8192, IPC_CREAT | IPC_EXCL | 0640));
	char *at = shmat(id, NULL, 0);
	strcpy(at + 4096, "word");
	must(shmdt(at));
}

static struct shmid_ds show_segment(void)
{
	struct shmid_ds found;
	must(shmctl(id, IPC_STAT, &found));
	say_permissions(&found.shm_perm);
	say("%zu bytes, attached %lu ", found.shm_segsz, found.shm_nattch);
	return found;
}

static void show_memory(void)
{
	show_segment();
	char *at = shmat(id, NULL, SHM_RDONLY);
	say("%s", at + 4096);
	must(shmdt(at));
}

static char *attached;

static void make_removed_memory(void)
{
	id = must(shmget(IPC_PRIVATE, 4096, 0600));
	attached = shmat(id, NULL, 0);
	strcpy(attached, "word");
	must(shmctl(id, IPC_RMID, NULL));
}

static void show_removed_memory(void)
{
	show_segment();
	say("%s", attached);
}

static void make_locked_memory(void)
{
	id = must(shmget(IPC_PRIVATE, 4096, 0600));
	must(shmctl(id, SHM_LOCK, NULL));
}

static void show_locked_memory(void)
{
	show_segment();
}

static void make_memory_creator(void)
{
	must(seteuid(1000));
	id = must(shmget(IPC_PRIVATE, 4096, 0600));
	must(seteuid(0));
}

static void show_memory_creator(void)
{
	struct shmid_ds found;
	must(shmctl(id, IPC_STAT, &found));
	say("%d, made by %d", found.shm_perm.uid, found.shm_perm.cuid);
}

static void make_semaphores(void)
{
	unsigned short values[] = { 3, 0, 7 };
	id = must(semget(0x5a02, 3, IPC_CREAT | IPC_EXCL | 0660));
	must(semctl(id, 0, SETALL, values));
}

static void show_semaphores(void)
{
	struct semid_ds found;
	unsigned short values[3];
	must(semctl(id, 0, IPC_STAT, &found));
	must(semctl(id, 0, GETALL, values));
	say_permissions(&found.sem_perm);
	say("%lu: %d %d %d", found.sem_nsems, values[0], values[1], values[2]);
}

static void make_semaphore_pid(void)
{
	id = must(semget(IPC_PRIVATE, 1, 0600));
	must(semop(id, &(struct sembuf){ 0, 1, 0 }, 1));
}

static void show_semaphore_pid(void)
{
	say("%s", semctl(id, 0, GETPID) == getpid() ? "this process" : "another");
}

/* Waits for a semaphore that nobody raises, once: semop(2) is not begun again. */
static void wait_for_semaphore(void)
{
	semop(id, &(struct sembuf){ 0, -1, 0 }, 1);
}

static void make_semaphore_waiter(void)
{
	id = must(semget(IPC_PRIVATE, 1, 0600));
	child(wait_for_semaphore);
	while (must(semctl(id, 0, GETNCNT)) != 1)
		usleep(1000);
}

static void show_semaphore_waiter(void)
{
	say_result(semctl(id, 0, GETNCNT));
}

static void hold(void)
{
	must(semop(id, &(struct sembuf){ 0, -1, SEM_UNDO }, 1));
}

static void make_semaphore_undo(void)
{
	id = must(semget(IPC_PRIVATE, 1, 0600));
	must(semctl(id, 0, SETVAL, 1));
	holder = child(hold);
	while (must(semctl(id, 0, GETVAL)) != 0)
		usleep(1000);
}

/* Whoever holds it ends; then another does. */
static void show_semaphore_undo(void)
{
	must(kill(holder, SIGKILL));
	must(waitpid(holder, NULL, 0));
	say("%s", must(semctl(id, 0, GETVAL)) ? "released" : "held for ever");
	must(semctl(id, 0, SETVAL, 1));
	holder = child(hold);
	while (must(semctl(id, 0, GETVAL)) != 0)
		usleep(1000);
}

struct message {
	long type;
	char text[8];
};

static void make_messages(void)
{
	id = must(msgget(0x5a03, IPC_CREAT | IPC_EXCL | 0600));
	must(msgsnd(id, &(struct message){ 5, "five" }, 8, 0));
	must(msgsnd(id, &(struct message){ 2, "two" }, 4, 0));
}

static void show_messages(void)
{
	struct msqid_ds found;
	must(msgctl(id, IPC_STAT, &found));
	say_permissions(&found.msg_perm);
	for (unsigned long i = 0; i < found.msg_qnum; i++) {
		struct message message = { 0 };
		say("%ld:", must(msgrcv(id, &message, 8, i, MSG_COPY | IPC_NOWAIT)));
		say("%ld:%.8s ", message.type, message.text);
	}
}

static void make_queue_bytes(void)
{
	struct msqid_ds found;
	id = must(msgget(IPC_PRIVATE, 0600));
	must(msgctl(id, IPC_STAT, &found));
	found.msg_qbytes = 1000;
	must(msgctl(id, IPC_SET, &found));
}

static void show_queue_bytes(void)
{
	struct msqid_ds found;
	must(msgctl(id, IPC_STAT, &found));
	say("%lu", found.msg_qbytes);
}

static void make_queue_pids(void)
{
	id = must(msgget(IPC_PRIVATE, 0600));
	must(msgsnd(id, &(struct message){ 5, "five" }, 8, 0));
}

static void show_queue_pids(void)
{
	struct msqid_ds found;
	must(msgctl(id, IPC_STAT, &found));
	say("%s", found.msg_lspid == getpid() ? "this process" : "another");
}

/* Times: those of the restore, or none. */
static void make_memory_times(void)
{
	id = must(shmget(0x777, 4096, IPC_CREAT | 0600));
	void *at = shmat(id, NULL, 0);
	shmdt(at);
	/* The times count seconds, and a restore within the same one would show none. */
	for (time_t made = time(NULL); time(NULL) == made;)
		usleep(10000);
}

static void show_memory_times(void)
{
	struct shmid_ds found;
	must(shmctl(id, IPC_STAT, &found));
	say("%ld %ld %ld", found.shm_atime, found.shm_dtime, found.shm_ctime);
}

static void make_semaphore_times(void)
{
	id = must(semget(0x778, 1, IPC_CREAT | 0600));
	must(semop(id, &(struct sembuf){ 0, 1, 0 }, 1));
}

static void show_semaphore_times(void)
{
	struct semid_ds found;
	must(semctl(id, 0, IPC_STAT, &found));
	say("%ld", found.sem_otime);
}

static void make_limits(void)
{
	write_file("/proc/sys/kernel/msgmnb", "12000");
	write_file("/proc/sys/kernel/shmall", "100000");
	write_file("/proc/sys/kernel/sem", "200 30000 50 100");
}

static void show_limits(void)
{
	say_file("/proc/sys/kernel/msgmnb");
	say_file("/proc/sys/kernel/shmall");
	say_file("/proc/sys/kernel/sem");
	say_file("/proc/sys/fs/mqueue/msg_max");
}

static void make_open_queue(void)
{
	struct mq_attr how = { .mq_maxmsg = 4, .mq_msgsize = 16 };
	must(mq_open("/same", O_RDWR | O_CREAT, 0600, &how));
}

static void make_closed_queue(void)
{
	struct mq_attr how = { .mq_maxmsg = 4, .mq_msgsize = 16 };
	must(mq_close(must(mq_open("/same", O_RDWR | O_CREAT, 0600, &how))));
}

static void show_queue(void)
{
	struct mq_attr how;
	int queue = must(mq_open("/same", O_RDONLY));
	must(mq_getattr(queue, &how));
	say("%ld of %ld bytes", how.mq_maxmsg, how.mq_msgsize);
	must(mq_close(queue));
}

#define ENTRY(text, name) { text, make_##name, show_##name }
const struct property ipc[] = {
	ENTRY("memory-segment", memory),
	ENTRY("removed-segment", removed_memory),
	ENTRY("locked-segment", locked_memory),
	ENTRY("segment-maker", memory_creator),
	ENTRY("semaphores", semaphores),
	ENTRY("semaphore-last-user", semaphore_pid),
	ENTRY("semaphore-waiter", semaphore_waiter),
	ENTRY("semaphore-undo", semaphore_undo),
	ENTRY("messages", messages),
	ENTRY("queue-bytes", queue_bytes),
	ENTRY("queue-last-sender", queue_pids),
	ENTRY("ipc-limits", limits),
	ENTRY("segment-times", memory_times),
	ENTRY("semaphore-times", semaphore_times),
	{ "posix-queue", make_open_queue, show_queue },
	{ "posix-queue-closed", make_closed_queue, show_queue },
	{ 0 },
};
