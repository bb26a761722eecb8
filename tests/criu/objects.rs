//! Kernel objects of a process: each is made before, and asked afterwards whether it is what it was.

use crate::sleep_and_wake;
use hiber_tests::prelude::*;
use std::fs;

/// Makes the objects, waits for /go, and writes what it then finds to /after.
const PROGRAM: &str = r#"
import sys, traceback
def failed(kind, value, where):
    with open('/.failed', 'w') as f:
        traceback.print_exception(kind, value, where, file=f)
    os.rename('/.failed', '/failed')
sys.excepthook = failed
import ctypes, fcntl, json, mmap, os, select, signal, socket, struct, threading, time

libc = ctypes.CDLL(None, use_errno=True)
found = {}

# inotify on a directory
watch = libc.inotify_init1(os.O_NONBLOCK)
os.mkdir('/watched')
assert libc.inotify_add_watch(watch, b'/watched', 0x100) > 0  # IN_CREATE

# eventfd, with a count in it, in an epoll set, with a word of the caller's
event = os.eventfd(0, os.EFD_NONBLOCK)
os.eventfd_write(event, 7)
epoll = select.epoll()
epoll.register(event, select.EPOLLIN)
idle = os.eventfd(0, os.EFD_NONBLOCK)
epoll.register(idle, select.EPOLLIN)

# a POSIX interval timer and a timerfd that tick
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
# once, in 6 s: one that ticks on and has not been read for a while is not restarted by CRIU
libc.timerfd_settime(timer, 0, struct.pack('llll', 0, 0, 6, 0), None)

# a pending signal and a mask
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGUSR1)

# shared memory: anonymous with a child, a file in /dev/shm, System V, memfd
shared = mmap.mmap(-1, 4096)
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    ours.close()
    while True:
        word = theirs.recv(100)
        if not word:
            os._exit(0)
        shared[0:len(word)] = word
        theirs.send(b'done ' + word)
theirs.close()
fd = os.open('/dev/shm/file', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
posix = mmap.mmap(fd, 8192)
posix[4096:4100] = b'page'
libc.shmat.restype = ctypes.c_void_p
sysv = libc.shmget(0x1234, 4096, 0o1600)
address = libc.shmat(sysv, None, 0)
ctypes.memmove(address, b'system five', 11)
memory = os.memfd_create('box', os.MFD_ALLOW_SEALING)
os.write(memory, b'sealed')
fcntl.fcntl(memory, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
queue = libc.msgget(0x77, 0o1600)
libc.msgsnd(queue, struct.pack('l', 5) + b'message', 7, 0)

# pipes and sockets with data in them, and a descriptor in flight
reader, writer = os.pipe()
os.write(writer, b'in the pipe')
one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.send(b'first'); one.send(b'second')
listener = socket.socket(socket.AF_UNIX)
listener.bind('/tmp/listener'); listener.listen()
client = socket.socket(socket.AF_UNIX)
client.connect('/tmp/listener')
server, _ = listener.accept()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('127.0.0.1', 5353))

# a deleted file with an offset, and locks
gone = os.open('/tmp/gone', os.O_RDWR | os.O_CREAT)
os.write(gone, b'what is hidden')
os.lseek(gone, 8, 0)
os.unlink('/tmp/gone')
locked = os.open('/tmp/locked', os.O_RDWR | os.O_CREAT)
fcntl.lockf(locked, fcntl.LOCK_EX, 10, 5)

thread_id = []
stop = threading.Event()
def run():
    thread_id.append(threading.get_native_id())
    stop.wait()
    thread_id.append(threading.get_native_id())
thread = threading.Thread(target=run)
thread.start()

open('/ready', 'w')
while not os.path.exists('/go'):
    time.sleep(0.02)

open('/watched/new', 'w')
found['inotify'] = b'new' in os.read(watch, 4096)
found['epoll'] = [fd == event for fd, _ in epoll.poll(0)]
found['eventfd'] = os.eventfd_read(event)
before = ticks
time.sleep(0.5)
found['timer'] = ticks > before
select.select([timer], [], [], 15)
found['timerfd'] = struct.unpack('Q', os.read(timer, 8))[0]
found['pending'] = [s.name for s in signal.sigpending()]
ours.send(b'word')
found['child'] = ours.recv(100).decode()
found['shared'] = shared[0:4].decode()
found['posix'] = posix[4096:4100].decode()
found['sysv'] = ctypes.string_at(address, 11).decode()
found['memfd'] = [os.pread(memory, 6, 0).decode(), fcntl.fcntl(memory, 1034)]
message = ctypes.create_string_buffer(64)
libc.msgrcv(queue, message, 50, 5, 0)
found['queue'] = message.raw[8:15].decode()
found['pipe'] = os.read(reader, 100).decode()
found['datagrams'] = [two.recv(100).decode(), two.recv(100).decode()]
client.send(b'stream')
found['stream'] = server.recv(100).decode()
late = socket.socket(socket.AF_UNIX)
late.connect('/tmp/listener')
found['listener'] = listener.accept() is not None
udp.sendto(b'datagram', ('127.0.0.1', 5353))
found['udp'] = udp.recv(100).decode()
found['deleted'] = os.read(gone, 100).decode()
held = os.fork()
if held == 0:
    try:
        fcntl.lockf(locked, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 5)
        os._exit(1)
    except OSError:
        os._exit(0)
found['lock'] = os.waitpid(held, 0)[1] == 0
stop.set()
thread.join()
found['thread'] = thread_id[0] == thread_id[1]
json.dump(found, open('/.after', 'w'))
os.rename('/.after', '/after')
time.sleep(1000)
"#;

#[test]
fn objects_are_what_they_were() {
    require!(Root, Criu, Rootfs("python"));
    let c = Runtime::hiber().container(Bundle::with_program("python").args(["python3", "-c", PROGRAM]));
    c.run_detached().ok();
    let file = |name: &str| c.bundle().rootfs().join(name);
    let failed = || fs::read_to_string(file("failed")).unwrap_or_default();
    wait_for("the objects", || file("ready").exists() || !failed().is_empty());
    assert_eq!(failed(), "");
    sleep_and_wake(&c, &["--file-locks"], &[]);
    fs::write(file("go"), "").unwrap();
    wait_for("what it finds", || file("after").exists() || !failed().is_empty());
    assert_eq!(failed(), "");
    let found: Value = serde_json::from_slice(&fs::read(file("after")).unwrap()).unwrap();
    let expected = json!({
        "inotify": true, "epoll": [true], "eventfd": 7, "timer": true, "timerfd": 1, "pending": ["SIGUSR1"],
        "child": "done word", "shared": "word", "posix": "page", "sysv": "system five", "memfd": ["sealed", 2],
        "queue": "message", "pipe": "in the pipe", "datagrams": ["first", "second"], "stream": "stream",
        "listener": true, "udp": "datagram", "deleted": "hidden", "lock": true, "thread": true,
    });
    assert_eq!(found, expected);
}
