"""Checkpoints in archives and in a store: by hiber in one pass, and by runc with what people do around it."""

import json
import os
import shutil
import subprocess
import time

from checkpoint import Case, dump_stats, end, end_holding, fresh, held_path, redis_root, wait_for_file, wait_held, wait_until, work_of
from tools import Failed, run_quiet

MIB = 1024
KEYS = 400_000  # of a redis, each with a kilobyte of which zstd leaves half
FILL = """math.randomseed(ARGV[1])
for key = tonumber(ARGV[2]), tonumber(ARGV[3]) do
    local words = {}
    for n = 1, 128 do words[n] = string.char(math.random(0,255), math.random(0,255), math.random(0,255), math.random(0,255)) end
    redis.call('SET', 'key:' .. (ARGV[4] == 'any' and math.random(0, ARGV[5] - 1) or key), table.concat(words) .. string.rep('x', 512))
end"""


# Half a gigabyte of objects; it answers to a file.
JAVA = """import java.io.File;
public class Hold {
    public static void main(String[] args) throws Exception {
        byte[][] held = new byte[8192][65536];
        var random = new java.util.Random(1);
        for (int n = 0; n < held.length; n += 2) random.nextBytes(held[n]);
        new File("/dev/shm/held").createNewFile();
        for (File ask = new File("/dev/shm/ask"); ; Thread.sleep(1))
            if (ask.exists() && ask.delete() && held[4000][1] == held[4000][1]) new File("/dev/shm/answer").createNewFile();
    }
}
"""


def java_root(config):
    """The host's Java, in a root of its own."""
    root = os.environ["BENCH_JAVA"]
    if not os.path.isdir(root):
        for name in "usr", "etc", "proc", "dev", "sys", "tmp", "app":
            os.makedirs(os.path.join(root, name))
        for name in "lib", "lib64", "bin":
            os.symlink(f"usr/{name}", os.path.join(root, name))
        with open(os.path.join(root, "app/Hold.java"), "w") as file:
            file.write(JAVA)
    config["root"] = {"path": root, "readonly": False}
    bind = lambda path: {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
    config["mounts"] += [bind("/usr"), bind("/etc")]


class Streams:
    """What goes out, and by whom."""

    def __init__(self, saving):
        self.saving, self.bench = saving, saving.bench
        self.place = os.environ["BENCH_STATE"]
        self.archive = os.path.join(self.place, "archive.tar.zst")
        self.key = os.path.join(self.bench.work, "key")
        if not os.path.exists(self.key):
            run_quiet(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key])

    def case(self, rate=0):
        return Case(" of 1 GiB", MIB, 1, self.place, rate=rate)

    def started(self, tool, rate=0):
        case = self.case(rate)
        bundle = self.saving.bundle(tool, f"{case.name}-half", [*case.payload, "half"])
        return bundle, wait_held(tool.start(bundle))

    def goes_out_and_in(self, tool):
        """To an archive, and from there to the first answer."""
        bundle, held = self.started(tool)
        try:
            wall, usage = self.export(tool)
            self.bench.note("archive of 1 GiB, half-compressible", tool.name, wall)
            if usage:
                self.bench.note("archive of 1 GiB: peak memory", tool.name, usage.peak_mib)
            began = time.monotonic()
            pid = self.bring_back(tool, bundle)
            os.kill(pid, 12)  # SIGUSR2
            wait_for_file(f"{held_path(pid)}.answer")
            self.bench.note("restore of 1 GiB from an archive, to its first answer", tool.name, (time.monotonic() - began) * 1e3)
            end_holding(pid, held)
        finally:
            tool.clear()

    def export(self, tool, *more):
        began = time.monotonic()
        if tool.name == "hiber":
            usage = tool.runtime.command("checkpoint", "--export", self.archive, "--no-sync", *more, tool.id)
            return usage.wall_ms, usage
        images = fresh(self.place)
        tool.checkpoint(tool.runtime.pid(), images)
        subprocess.run(f"tar --create --directory {images} . | zstd -1 -T0 -q -f -o {self.archive}", shell=True, check=True)
        return (time.monotonic() - began) * 1e3, None

    def bring_back(self, tool, bundle):
        if tool.name == "hiber":
            runtime = tool.runtime
            runtime.command("restore", "--detach", "--background", "--pid-file", runtime.pid_file(), "--import", self.archive, "--bundle", bundle,
                            tool.id)
            return runtime.pid()
        images = fresh(self.place)
        subprocess.run(f"zstd -d -q -c {self.archive} | tar --extract --directory {images}", shell=True, check=True)
        return tool.restore(bundle, images)[1]

    def stands_still(self, tool):
        """How long, while 64 MiB a second are written: of a container that runs on, and of one that ends when the archive is there."""
        for more, label in [(["--leave-running"], ""), ([], ", which ends")]:
            self.started(tool, rate=64)
            try:
                frozen = self.frozen(tool, *more)
                self.bench.note(f"archive of 1 GiB, 64 MiB/s of it written{label}: frozen (CRIU's count)", tool.name, frozen)
            finally:
                tool.clear()

    def frozen(self, tool, *more):
        if tool.name == "hiber":
            self.export(tool, "--pre-copy", "on", *more)
            stats = json.loads(run_quiet([tool.runtime.program, "inspect", "--format", "json", self.archive]))["statistics"]
            return (stats["freezingTime"] + stats["frozenTime"]) / 1e3
        images = fresh(self.place)
        tool.checkpoint(tool.runtime.pid(), images, *more)
        stats = dump_stats(os.path.join(work_of(images), "stats-dump"))
        return (stats[1] + stats[2]) / 1e3

    def java(self, tool):
        """A JVM with half a gigabyte of objects: to an archive, and from there to the first answer."""
        words = ["/usr/bin/java", "-XX:-UsePerfData", "-Xmx1g", "/app/Hold.java"]
        bundle = tool.runtime.bundle("java", *words, change=java_root)
        try:
            shm = lambda pid, name: f"/proc/{pid}/root/dev/shm/{name}"
            wait_for_file(shm(tool.start(bundle), "held"))
            wall, _ = self.export(tool)
            self.bench.note("archive of a JVM", tool.name, wall)
            began = time.monotonic()
            pid = self.bring_back(tool, bundle)
            with open(shm(pid, "ask"), "w"):
                pass
            wait_for_file(shm(pid, "answer"))
            self.bench.note("restore of a JVM from an archive, to its first answer", tool.name, (time.monotonic() - began) * 1e3)
            end(pid)
        finally:
            tool.clear()

    def encrypted(self, tool):
        self.started(tool)
        try:
            wall, _ = self.export(tool, "--encrypt-to", f"{self.key}.pub")
            self.bench.note("archive of 1 GiB, encrypted", tool.name, wall)
        finally:
            tool.clear()

    def stored(self, tool):
        """The first checkpoint of a redis in a store, and the second after a twentieth of its keys was changed, whichever they are."""
        runtime, store = tool.runtime, os.path.join(self.place, "store")
        shutil.rmtree(store, ignore_errors=True)
        pid = tool.start(runtime.bundle("redis", "redis-server", "--save", "", change=redis_root))
        try:
            ask = lambda *words: run_quiet(["nsenter", "-t", str(pid), "-n", "-m", "redis-cli", *words]).strip()
            wait_until(lambda: ask("ping") == "PONG", "redis answers")
            for first in range(0, KEYS, 10_000):
                ask("eval", FILL, "0", str(first), str(first), str(first + 9_999), "each", str(KEYS))
            for name in "first", "second":
                usage = runtime.command("checkpoint", "--store", store, "--no-sync", "--leave-running", "--checkpoint", name, tool.id)
                self.bench.note(f"redis into a store, {name} time", tool.name, usage.wall_ms)
                ask("eval", FILL, "0", "1", "1", str(KEYS // 20), "any", str(KEYS))
            listed = json.loads(run_quiet([runtime.program, "store", "ls", "--format", "json", store]))
            for one in listed:
                self.bench.note(f"redis into a store, {one['name']} time: KiB", tool.name, one["added"] / 1024)
            end(pid)
        finally:
            tool.clear()
            shutil.rmtree(store, ignore_errors=True)

    def all(self):
        tools = [tool for tool in self.saving.tools if tool.name in ("hiber", "runc")]
        ours = [tool for tool in tools if tool.name == "hiber"]
        self.bench.each_round({"archive": self.goes_out_and_in, "archive: frozen": self.stands_still, "JVM": self.java}, tools, most=5)
        self.bench.each_round({"archive, encrypted": self.encrypted, "store": self.stored}, ours, most=3)
