"""Checkpoints and restores of containers, small and large: by each runtime, and by CRIU itself as runc would ask it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

from tools import Failed, Tool, run_quiet

# CRIU sees the cgroups of the whole machine: crun cannot restore where those are of both versions, and others that come
# and go meanwhile would fail the dump. The runtimes make the container's own cgroup themselves.
CGROUPS = ["--manage-cgroups-mode", "ignore"]
HOLDER = "/bin/bench-hold"  # bench-floor in the root filesystem
HELD = "/dev/shm/held"


class Bare(Tool):
    """`criu dump` and `criu restore` of a tree that hiber has made."""

    def __init__(self, maker):
        super().__init__("criu", shutil.which("criu"), maker.clock, os.path.dirname(maker.dir))
        self.maker, self.id = maker, f"{maker.id}-bare"
        maker.ids.append(self.id)

    def start(self, bundle):
        self.maker.command("run", "--detach", "--bundle", bundle, "--pid-file", self.maker.pid_file(), self.id)
        return self.maker.pid()

    def externals(self, pid, restoring):
        """Masked files and v1 cgroups are the host's."""
        with open(f"/proc/{pid}/mountinfo") as file:
            mounts = [line.split(" ") for line in file]
        keys = []
        for fields in mounts:
            point, fstype = fields[4], fields[fields.index("-") + 1]
            if fstype == "devtmpfs":
                keys.append("mnt[/dev/null]:/dev/null" if restoring else f"mnt[{point}]:/dev/null")
            elif fstype == "cgroup":
                keys.append(f"mnt[{point}]:{point}{fields[3]}" if restoring else f"mnt[{point}]:{point}")
        return [word for key in dict.fromkeys(keys) for word in ("--external", key)]

    def freezer(self, pid):
        with open(f"/proc/{pid}/cgroup") as file:
            paths = dict(line.strip().split(":", 2)[1:] for line in file)
        return "/sys/fs/cgroup" + paths[""] if self.maker.layout.v2 else "/sys/fs/cgroup/freezer" + paths["freezer"]

    def common(self, images):
        return ["--images-dir", images, "--work-dir", work_of(images), "-v4", "--manage-cgroups=ignore", "--root", self.maker.rootfs]

    def checkpoint(self, pid, images, *more):
        self.restoring = self.externals(pid, True)
        command = [self.program, "dump", "--tree", str(pid), *self.common(images), "--log-file", "dump.log",
                   "--freeze-cgroup", self.freezer(pid), *self.externals(pid, False)]
        return self.timed([*command, *more])

    def restore(self, bundle, images, *_):
        # CRIU wants the root to be a mount point
        bind = f'mount --bind {self.maker.rootfs} {self.maker.rootfs} && exec "$@"'
        criu = [self.program, "restore", *self.common(images), "--log-file", "restore.log", "--restore-detached",
                "--pidfile", os.path.join(work_of(images), "pid"), *self.restoring]
        usage = self.timed(["unshare", "--mount", "sh", "-c", bind, "sh", *criu])
        with open(os.path.join(work_of(images), "pid")) as file:
            return usage, int(file.read())

    def clear(self):
        self.maker.clear()


class ByRuntime:
    """A runtime's own commands."""

    def __init__(self, runtime):
        self.runtime, self.name = runtime, runtime.name
        self.id = f"{runtime.id}-checkpoint"
        runtime.ids += [self.id, f"{self.id}-there"]

    def start(self, bundle):
        self.runtime.command("run", "--detach", "--bundle", bundle, "--pid-file", self.runtime.pid_file(), self.id)
        return self.runtime.pid()

    def checkpoint(self, _pid, images, *more):
        options = ["--image-path", images, "--work-path", work_of(images), *CGROUPS]
        return self.runtime.command("checkpoint", *options, *more, self.id)

    def restore(self, bundle, images, *more):
        options = ["--image-path", images, "--work-path", work_of(images), *CGROUPS, "--bundle", bundle]
        usage = self.runtime.command("restore", "--detach", "--pid-file", self.runtime.pid_file(), *options, *more, self.id)
        return usage, self.runtime.pid()

    def wait_memory(self):
        self.runtime.command("wait-memory", self.id)

    def depart(self, images, port):
        """Begins a checkpoint whose memory is fetched later; the command, which ends with the last page. Returns when it serves."""
        ready, told = os.pipe()
        command = self.runtime.arguments("checkpoint", "--image-path", images, "--work-path", work_of(images), *CGROUPS, "--lazy-pages",
                                         "--page-server", f"127.0.0.1:{port}", "--status-fd", str(told), self.id)
        process = subprocess.Popen(command, pass_fds=[told], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        os.close(told)
        if not os.read(ready, 1):
            raise Failed("checkpoint --lazy-pages: it ends before it serves pages")
        os.close(ready)
        return process

    def arrive(self, bundle, images, port):
        """Restores it with another id, and what else runs meanwhile."""
        work = f"{work_of(images)}-there"
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        options = ["--image-path", images, "--work-path", work, *CGROUPS, "--bundle", bundle, "--lazy-pages", "--detach", "--pid-file",
                   self.runtime.pid_file()]
        daemon = None
        if self.name == "hiber":
            options += ["--page-server", f"127.0.0.1:{port}"]
        else:
            daemon = subprocess.Popen(["criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", str(port),
                                       "--images-dir", images, "--work-dir", work], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for_file(os.path.join(work, "lazy-pages.socket"))
        self.runtime.command("restore", *options, f"{self.id}-there")
        return self.runtime.pid(), daemon

    def clear(self):
        self.runtime.clear()


@dataclass
class Case:
    """A container to save, and where to. Its quantities have `label` in their names."""

    label: str = ""
    mib: int = 0
    processes: int = 1
    place: str = ""
    disk: bool = False
    rate: int = 0  # MiB that are written each second
    flags: tuple = ()  # of hiber's checkpoint

    @property
    def payload(self):
        return [HOLDER, "hold", str(self.mib), str(self.processes), HELD, str(self.rate)]

    @property
    def name(self):
        return f"hold-{self.mib}-{self.processes}-{self.rate}"


class Saving:
    """Checkpoints and restores by all tools."""

    def __init__(self, bench, runtimes):
        self.bench, self.runtimes = bench, runtimes
        self.tools = [Bare(runtimes[0]), *map(ByRuntime, runtimes)]

    def bundle(self, tool, name, payload):
        # crun cannot restore masked paths: it gives CRIU no key for them
        change = (lambda config: config["linux"].update(maskedPaths=[])) if tool.name == "crun" else None
        maker = next((r for r in self.runtimes if r.name == tool.name), self.runtimes[0])
        return maker.bundle(name, *payload, change=change)

    def cycle(self, tool, case):
        """Checkpoint and restore; whoever cannot restore still has a checkpoint that counts."""
        bundle = self.bundle(tool, case.name, case.payload)
        try:
            before, held, images = self.save(tool, case, bundle)
            self.bench.attempt(f"restore{case.label.replace(' to ', ' from ')}", tool,
                               lambda tool: self.wake(tool, case, bundle, images, before, held))
        finally:
            tool.clear()

    def save(self, tool, case, bundle, *options, noted=True):
        """Checkpoints a new container; what it was, what it held, and where the images are."""
        noted = noted and not options
        if tool.name == "hiber":
            options += case.flags
        images, label, note = fresh(case.place or self.bench.work), case.label, self.bench.note
        pid = tool.start(bundle)
        held, before = wait_held(pid), look(pid)
        if case.disk:
            synced(images)
        usage = tool.checkpoint(pid, images, *options)
        if os.path.exists(f"/proc/{pid}/root/bin"):
            raise Failed("the container runs on after its checkpoint")
        if noted:
            stats = dump_stats(os.path.join(work_of(images), "stats-dump"))
            note(f"checkpoint{label}", tool.name, usage.wall_ms)
            note(f"checkpoint{label}: CPU time", tool.name, usage.cpu_ms)
            note(f"checkpoint{label}: frozen (CRIU's count)", tool.name, (stats[1] + stats[2]) / 1e3)
            note(f"checkpoint{label}: KiB", tool.name, size(images) / 1024)
        if case.disk and noted:
            note(f"checkpoint{label}, then synced", tool.name, usage.wall_ms + synced(images))
        if case.disk and (not noted or tool.name != "hiber"):
            note(f"checkpoint{label}, not synced", tool.name, usage.wall_ms)
        return before, held, images

    def wake(self, tool, case, bundle, images, before, held):
        usage, pid = tool.restore(bundle, images)
        after = look(pid)
        if before != after:
            end(pid)
            raise Failed(f"the restored container differs: {before} and {after}")
        end_holding(pid, held)
        label = case.label.replace(" to ", " from ")
        self.bench.note(f"restore{label}", tool.name, usage.wall_ms)
        self.bench.note(f"restore{label}: CPU time", tool.name, usage.cpu_ms)

    def answers(self, tool, case):
        """How long it takes until a restored container answers, and until all of its memory is there."""
        bundle = self.bundle(tool, case.name, case.payload)
        try:
            _, held, images = self.save(tool, case, bundle, noted=False)
            background = ["--background"] if tool.name == "hiber" else []
            began = time.monotonic()
            _, pid = tool.restore(bundle, images, *background)
            os.kill(pid, signal.SIGUSR2)
            wait_for_file(f"{held_path(pid)}.answer")
            answered = time.monotonic()
            if background:
                tool.wait_memory()
            label = case.label.replace(" to ", " from ")
            self.bench.note(f"restore{label}, to its first answer", tool.name, (answered - began) * 1e3)
            self.bench.note(f"restore{label}, until all memory is there", tool.name, (time.monotonic() - began) * 1e3)
            end_holding(pid, held)
        finally:
            tool.clear()

    def moved(self, tool, case):
        """How long it takes until the last page of a container has come over loopback, which runs at the other end by then."""
        bundle, images = self.bundle(tool, case.name, case.payload), fresh(case.place)
        left = []
        try:
            held, port = wait_held(tool.start(bundle)), free_port()
            began = time.monotonic()
            left.append(tool.depart(images, port))
            pid, daemon = tool.arrive(bundle, images, port)
            left += [daemon] if daemon else []
            if left[0].wait(timeout=120):
                raise Failed("checkpoint --lazy-pages fails")
            self.bench.note(f"lazy migration{case.label}, to the last page", tool.name, (time.monotonic() - began) * 1e3)
            end_holding(pid, held)
        finally:
            for process in left:
                process.kill()
                process.wait()
            tool.clear()

    def served(self, tool):
        """How many requests a redis serves while its memory is copied, beside as long a time without that."""
        bundle = tool.runtime.bundle("redis", "redis-server", "--save", "", change=redis_root)
        images = fresh(os.environ["BENCH_STATE"])
        pid = tool.start(bundle)
        load = None
        try:
            ask = lambda *words: run_quiet(["nsenter", "-t", str(pid), "-n", "-m", "redis-cli", *words]).strip()
            wait_until(lambda: ask("ping") == "PONG", "redis answers")
            ask("eval", "for i=1,256*1024 do redis.call('set','k'..i,string.rep('x',3000)) end", "0")
            load = subprocess.Popen(["nsenter", "-t", str(pid), "-n", "-m", "redis-benchmark", "-l", "-q", "-t", "set", "-r", "262144", "-d", "64"],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            requests = lambda: int(re.search(r"total_commands_processed:(\d+)", ask("info", "stats")).group(1))
            time.sleep(1)
            first = requests()
            usage = tool.checkpoint(pid, images, "--leave-running", "--tcp-established")
            second = requests()
            time.sleep(usage.wall_ms / 1e3)
            served = (second - first) / (requests() - second)
            self.bench.note("redis: requests served during a checkpoint, of undisturbed", tool.name, served)
            self.bench.note("redis: requests lost during a checkpoint, of undisturbed", tool.name, max(0, 1 - served))
            end(pid)
        finally:
            if load:
                load.kill()
                load.wait()
            tool.clear()

    def pause(self, tool):
        """How long a process inside stands still while its memory is saved."""
        bundle, images = self.bundle(tool, "tick", [HOLDER, "tick", "/dev/shm/pause"]), fresh(self.bench.work)
        pid = tool.start(bundle)
        try:
            time.sleep(0.05)
            tool.checkpoint(pid, images, "--leave-running")
            with open(f"/proc/{pid}/root/dev/shm/pause") as file:
                self.bench.note("checkpoint: pause seen inside", tool.name, int(file.read()) / 1e3)
            end(pid)
        finally:
            tool.clear()

    def unsynced(self, tool, case):
        """What hiber does beyond the others is left out: to wait for the disk."""
        if tool.name == "hiber":
            try:
                self.save(tool, case, self.bundle(tool, case.name, case.payload), "--no-sync")
            finally:
                tool.clear()

    # --- what hack/bench measures ---

    def small(self):
        self.bench.each_round({"checkpoint": lambda tool: self.cycle(tool, Case()), "pause": self.pause}, self.tools)

    def trees(self):
        cases = [Case(f" of {count} processes", processes=count) for count in (10, 100)]
        self.bench.each_round(self.cycles(cases), self.tools, most=5)

    def large(self):
        places = {"tmpfs": os.environ["BENCH_STATE"], "disk": self.bench.work}
        tmpfs = places["tmpfs"]
        memory = [Case(" of 1 GiB to tmpfs, 64 MiB/s of it written", 1024, 1, tmpfs, rate=64),
                  Case(" of 1 GiB to tmpfs, --pre-copy off", 1024, 1, tmpfs, flags=("--pre-copy", "off"))]
        one = Case(" of 1 GiB to tmpfs", 1024, 1, tmpfs)
        for mib, amount in (256, "256 MiB"), (1024, "1 GiB"):
            cases = [Case(f" of {amount} to {name}", mib, 1, place, name == "disk") for name, place in places.items()]
            unsynced = {f"checkpoint{case.label}, not synced": lambda tool, case=case: self.unsynced(tool, case)
                        for case in cases if case.disk}
            self.bench.each_round(self.cycles(cases) | unsynced, self.tools, most=3)
        self.bench.each_round(self.cycles(memory) | {"first answer": lambda tool: self.answers(tool, one)}, self.tools, most=3)

    def live(self):
        """What happens to memory while the container runs: it is copied, or follows."""
        tmpfs = os.environ["BENCH_STATE"]
        one = Case(" of 1 GiB over loopback", 1024, 1, tmpfs)
        busy = Case(" of 1 GiB over loopback, 64 busy tasks beside", 1024, 1, tmpfs)
        movers = [tool for tool in self.tools[1:] if tool.name != "crun"]  # which knows no lazy pages
        self.bench.each_round({"served": self.served}, self.tools[1:], most=3)
        with large_pipes():
            self.bench.each_round({"lazy migration": lambda tool: self.moved(tool, one)}, movers, most=3)
            with busy_tasks(64):
                self.bench.each_round({"busy lazy migration": lambda tool: self.moved(tool, busy)}, movers, most=3)
        sizes = [Case(f" of {gib} GiB to disk, 16 MiB/s of it written", gib << 10, 1, self.bench.work, rate=16) for gib in (1, 10)]
        self.bench.each_round(self.cycles(sizes), self.tools[1:2], most=2)

    def cycles(self, cases):
        return {f"checkpoint{case.label}": lambda tool, case=case: self.cycle(tool, case) for case in cases}


def held_path(pid):
    return f"/proc/{pid}/root{HELD}"


def wait_held(pid):
    """What the container says that it holds, when it does."""
    wait_for_file(held_path(pid))
    with open(held_path(pid)) as file:
        return file.read()


def end_holding(pid, held):
    """Ends a container that has been restored, and fails unless it still held this."""
    os.remove(held_path(pid))
    os.kill(pid, signal.SIGUSR1)
    now = wait_held(pid)
    end(pid)
    if held != now:
        raise Failed(f"the restored container holds {now}, not {held}")


def wait_for_file(path):
    for _ in range(60000):
        if os.path.exists(path):
            return
        time.sleep(0.001)
    raise Failed(f"{os.path.basename(path)} does not appear in the container")


def synced(directory):
    """Waits until the disk has a directory's filesystem; for how long, in ms."""
    began = time.monotonic()
    run_quiet(["sync", "-f", directory])
    return (time.monotonic() - began) * 1e3


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, what):
    for _ in range(600):
        try:
            if condition():
                return
        except Failed:
            pass
        time.sleep(0.1)
    raise Failed(f"it never happens that {what}")


def redis_root(config):
    config["root"] = {"path": os.environ["BENCH_REDIS"], "readonly": False}
    config["linux"]["maskedPaths"] = []


@contextlib.contextmanager
def large_pipes():
    """CRIU wants pipes of 4 MiB for lazy pages; root without CAP_SYS_RESOURCE gets what this setting allows."""
    setting, wanted = "/proc/sys/fs/pipe-max-size", 4 << 20
    with open(setting) as file:
        before = file.read()
    with open(setting, "w") as file:
        file.write(str(max(wanted, int(before))))
    try:
        yield
    finally:
        with open(setting, "w") as file:
            file.write(before)


@contextlib.contextmanager
def busy_tasks(count):
    """So many processes that do nothing but calculate."""
    tasks = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.kill()
            task.wait()


def work_of(images):
    """Where logs and statistics go."""
    return f"{images}-work"


def fresh(place):
    """An empty image directory."""
    images = os.path.join(place, "images")
    for directory in images, work_of(images):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
    return images


def look(pid):
    """What a container must have again: its program, mounts and capabilities."""
    with open(f"/proc/{pid}/mountinfo") as file:
        mounts = sorted(line.split(" ")[4] for line in file)
    with open(f"/proc/{pid}/status") as file:
        caps = [line for line in file if line.startswith(("Cap", "NoNewPrivs"))]
    with open(f"/proc/{pid}/cmdline") as file:
        return json.dumps([mounts, caps, file.read()])


def end(pid):
    os.kill(pid, signal.SIGKILL)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def size(directory):
    return sum(entry.stat().st_size for entry in os.scandir(directory) if entry.name.endswith(".img"))


def dump_stats(path):
    """stats-dump: magic numbers, a length, and the message stats_entry (criu/images/stats.proto): field 1 is dump_stats,
    of which 1 is freezing_time, 2 frozen_time, 3 memdump_time, 4 memwrite_time, in microseconds."""
    with open(path, "rb") as file:
        data = file.read()[12:]
    (_, dump), = fields(data)
    return dict(fields(dump))


def fields(data):
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 2:
            length = varint()
            yield key >> 3, data[at:at + length]
            at += length
        else:
            yield key >> 3, varint()
