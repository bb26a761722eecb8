"""Checkpoints and restores of one small container: by each runtime, and by CRIU itself as runc would ask it."""

import json
import os
import shutil
import signal
import time

from tools import Failed, Tool

# CRIU sees the cgroups of the whole machine: crun cannot restore where those are of both versions, and others that come
# and go meanwhile would fail the dump. The runtimes make the container's own cgroup themselves.
CGROUPS = ["--manage-cgroups-mode", "ignore"]
TICKER = "/bin/bench-tick"  # bench-floor in the root filesystem


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

    def checkpoint(self, pid, images, leave_running):
        self.restoring = self.externals(pid, True)
        command = [self.program, "dump", "--tree", str(pid), *self.common(images), "--log-file", "dump.log",
                   "--freeze-cgroup", self.freezer(pid), *self.externals(pid, False)]
        return self.timed(command + ["--leave-running"] * leave_running)

    def restore(self, bundle, images):
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
        runtime.ids.append(self.id)

    def start(self, bundle):
        self.runtime.command("run", "--detach", "--bundle", bundle, "--pid-file", self.runtime.pid_file(), self.id)
        return self.runtime.pid()

    def checkpoint(self, _pid, images, leave_running):
        options = ["--image-path", images, "--work-path", work_of(images), *CGROUPS]
        return self.runtime.command("checkpoint", *options, *["--leave-running"] * leave_running, self.id)

    def restore(self, bundle, images):
        options = ["--image-path", images, "--work-path", work_of(images), *CGROUPS, "--bundle", bundle]
        usage = self.runtime.command("restore", "--detach", "--pid-file", self.runtime.pid_file(), *options, self.id)
        return usage, self.runtime.pid()

    def clear(self):
        self.runtime.clear()


def measure(bench, runtimes):
    tools = [Bare(runtimes[0]), *map(ByRuntime, runtimes)]

    def bundle_of(tool, *arguments):
        # crun cannot restore masked paths: it gives CRIU no key for them
        change = (lambda config: config["linux"].update(maskedPaths=[])) if tool.name == "crun" else None
        maker = next((r for r in runtimes if r.name == tool.name), runtimes[0])
        return maker.bundle(f"saved-{arguments[0]}", *arguments[1:], change=change)

    def cycle(tool):
        """Checkpoint and restore; whoever cannot restore still has a checkpoint that counts."""
        bundle, images = bundle_of(tool, "sleep", "/bin/sleep", "100000"), fresh(bench)
        pid = tool.start(bundle)
        try:
            before = look(pid)
            usage = tool.checkpoint(pid, images, False)
            if os.path.exists(f"/proc/{pid}/root/bin"):
                raise Failed("the container runs on after its checkpoint")
            bench.note("checkpoint", tool.name, usage.wall_ms)
            bench.note("checkpoint: CPU time", tool.name, usage.cpu_ms)
            stats = dump_stats(os.path.join(work_of(images), "stats-dump"))
            bench.note("checkpoint: frozen (CRIU's count)", tool.name, (stats[1] + stats[2]) / 1e3)
            bench.note("checkpoint: KiB", tool.name, size(images) / 1024)
            bench.attempt("restore", tool, lambda tool: wake(tool, bundle, images, before))
        finally:
            tool.clear()

    def wake(tool, bundle, images, before):
        usage, pid = tool.restore(bundle, images)
        after = look(pid)
        end(pid)
        if before != after:
            raise Failed(f"the restored container differs: {before} and {after}")
        bench.note("restore", tool.name, usage.wall_ms)
        bench.note("restore: CPU time", tool.name, usage.cpu_ms)

    def pause(tool):
        """How long a process inside stands still while its memory is saved."""
        bundle, images = bundle_of(tool, "tick", TICKER, "tick", "/dev/shm/pause"), fresh(bench)
        pid = tool.start(bundle)
        try:
            time.sleep(0.05)
            tool.checkpoint(pid, images, True)
            with open(f"/proc/{pid}/root/dev/shm/pause") as file:
                bench.note("checkpoint: pause seen inside", tool.name, int(file.read()) / 1e3)
            end(pid)
        finally:
            tool.clear()

    bench.each_round({"checkpoint": cycle, "pause": pause}, tools)


def work_of(images):
    """Where logs and statistics go."""
    return f"{images}-work"


def fresh(bench):
    """An empty image directory."""
    images = os.path.join(bench.work, "images")
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
