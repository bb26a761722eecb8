//! System V objects and message queues: `same/ipc.c`.

use super::super::row::{Row, criu, differs, hiber, refused};

pub(in super::super) const ROWS: &[Row] = &[
    criu("memory-segment", "shmctl(2), and what is in it"),
    hiber("removed-segment", "shmctl(2): SHM_DEST of one that is attached"),
    hiber("locked-segment", "shmctl(2): SHM_LOCKED"),
    differs("segment-maker", "shmctl(2): the user who made it", "root of the container"),
    criu("semaphores", "semctl(2)"),
    differs("semaphore-last-user", "GETPID of semctl(2)", "a process of the restore"),
    differs(
        "semaphore-waiter",
        "GETNCNT of semctl(2)",
        "semop(2) ends with EINTR, at the checkpoint already",
    ),
    differs("semaphore-undo", "what the end of a process with SEM_UNDO undoes", "nothing (`sem-undo` warns)"),
    criu("messages", "msgrcv(2) with MSG_COPY"),
    hiber("queue-bytes", "msgctl(2): msg_qbytes"),
    differs("queue-last-sender", "msgctl(2)", "a process of the restore"),
    criu("ipc-limits", "/proc/sys/kernel"),
    differs("segment-times", "shmctl(2): shm_atime, shm_dtime, shm_ctime", "the time of the restore"),
    differs("semaphore-times", "semctl(2): sem_otime", "never"),
    refused("posix-queue", "mq_open(3), of one that is open", "message-queue", "queue"),
    refused(
        "posix-queue-closed",
        "mq_open(3), of one that nobody has open",
        "message-queues",
        "POSIX message queues",
    ),
];
