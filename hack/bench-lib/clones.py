"""Many containers from one checkpoint: by hiber's clone, and by runc's restore, one after the other or two at a time."""

import os
import shutil
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from checkpoint import CGROUPS, fresh, redis_root, wait_for_file, wait_until
from streams import java_root
from tools import Failed, run_quiet

MIB = 256  # of the redis
MANY = 100
RESTORED = 20  # by runc, two at a time: a hundred would need 25 GiB
SINGLE = 5
SERVER = "/dev/shm/redis.sock"  # in the container; each has its own, whatever network it is in
JAVA = """import java.io.File;
import java.util.*;
public class Warm {
    static long work(int seed) {
        var random = new Random(seed);
        var words = new ArrayList<String>();
        for (int n = 0; n < 50_000; n++) words.add(Long.toString(random.nextLong(), 36));
        Collections.sort(words);
        long sum = 0;
        for (String word : words) sum = sum * 31 + word.hashCode();
        return sum;
    }
    public static void main(String[] args) throws Exception {
        long sum = 0;
        for (int n = 0; n < 40; n++) sum += work(n);
        new File("/dev/shm/held").createNewFile();
        for (File ask = new File("/dev/shm/ask"); ; Thread.sleep(1))
            if (ask.exists() && ask.delete() && work(1) != sum) new File("/dev/shm/answer").createNewFile();
    }
}
"""


def inside(pid, path):
    return f"/proc/{pid}/root{path}"


def answers(pid):
    """Whether the redis of that process has replied, which is waited for."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(inside(pid, SERVER))
                server.sendall(b"PING\r\n")
                if server.recv(16).startswith(b"+PONG"):
                    return
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        time.sleep(0.0005)
    raise Failed("the redis of a clone does not answer")


def available_kib():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))


class Clones:
    """A redis, and a JVM, of which there are to be many."""

    def __init__(self, saving):
        self.saving, self.bench = saving, saving.bench
        self.place = os.environ["BENCH_STATE"]

    def redis(self, tool):
        """A checkpoint of one with so much memory: its bundle and images."""
        args = ["redis-server", "--save", "", "--unixsocket", SERVER]
        bundle = tool.runtime.bundle("redis-many", *args, change=redis_root)
        pid = tool.start(bundle)
        answers(pid)
        fill = "for i = 1, ARGV[1] * 16 do redis.call('set', 'k' .. i, string.rep(string.char(64 + i % 26), 65536)) end"
        run_quiet(["nsenter", "-t", str(pid), "-n", "-m", "redis-cli", "eval", fill, "0", str(MIB)])
        images = fresh(self.place)
        tool.checkpoint(pid, images)
        tool.clear()
        return bundle, images

    def ids(self, tool, count):
        ids = [f"{tool.id}-{number}" for number in range(1, count + 1)]
        tool.runtime.ids += [id for id in ids if id not in tool.runtime.ids]
        return ids

    def pid_of(self, path):
        wait_for_file(path)
        with open(path) as file:
            return int(file.read())

    def file_of(self, id):
        return os.path.join(self.bench.work, f"{id}.pid")

    def make(self, tool, bundle, images, id):
        """One more, to its first reply."""
        began = time.monotonic()
        pid_file = self.file_of(id)
        if tool.name == "hiber":
            command = ["clone"]
        else:
            work = os.path.join(self.bench.work, f"{id}.work")
            os.makedirs(work, exist_ok=True)
            command = ["restore", "--detach", "--work-path", work]
        command = tool.runtime.arguments(*command, *CGROUPS, "--image-path", images, "--bundle", bundle, "--pid-file", pid_file, id)
        # Without the clock, which is for one at a time.
        log = os.path.join(self.bench.work, f"{id}.log")
        command[1:1] = ["--log", log]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            with open(log) as file:
                raise Failed(f"{' '.join(command)}: {file.read()}")
        answers(self.pid_of(pid_file))
        return (time.monotonic() - began) * 1e3

    def forget(self, tool, ids):
        tool.clear()
        for id in ids:
            shutil.rmtree(os.path.join(self.bench.work, f"{id}.work"), ignore_errors=True)
            if os.path.exists(self.file_of(id)):
                os.unlink(self.file_of(id))

    def one_by_one(self, tool):
        bundle, images = self.redis(tool)
        ids = self.ids(tool, SINGLE)
        try:
            # The first records which pages are touched first.
            self.make(tool, bundle, images, ids[0])
            tool.runtime.clear()
            times = [self.make(tool, bundle, images, id) for id in ids]
            self.bench.note(f"one more of a redis with {MIB} MiB, to its first reply", tool.name, statistics.median(times))
        finally:
            self.forget(tool, ids)
            shutil.rmtree(images, ignore_errors=True)

    def many(self, tool):
        bundle, images = self.redis(tool)
        quantity = f"{MANY} of a redis with {MIB} MiB, to the last one's first reply"
        ids = self.ids(tool, MANY if tool.name == "hiber" else RESTORED)
        try:
            if tool.name == "hiber":
                self.make(tool, bundle, images, ids[0])
                tool.runtime.clear()
                os.unlink(self.file_of(ids[0]))
                time.sleep(1)
                before, began = available_kib(), time.monotonic()
                pattern = os.path.join(self.bench.work, "%s.pid")
                tool.runtime.command("clone", *CGROUPS, "--image-path", images, "--bundle", bundle, "--pid-file", pattern, "--count", str(MANY),
                                     f"{tool.id}-%d")
                for id in ids:
                    answers(self.pid_of(self.file_of(id)))
                self.bench.note(quantity, tool.name, (time.monotonic() - began) * 1e3)
                time.sleep(1)
                self.bench.note(f"memory of a clone of a redis with {MIB} MiB: MiB", tool.name, (before - available_kib()) / MANY / 1024)
            else:
                began = time.monotonic()
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(lambda id: self.make(tool, bundle, images, id), ids))
                self.bench.note(quantity, tool.name, (time.monotonic() - began) * 1e3 * MANY / RESTORED)
        finally:
            self.forget(tool, ids)
            shutil.rmtree(images, ignore_errors=True)

    def java(self, tool):
        """A warmed-up program: its cold start, and a clone of it, each to the first answer."""

        def root(config):
            java_root(config)
            with open(os.path.join(os.environ["BENCH_JAVA"], "app/Warm.java"), "w") as file:
                file.write(JAVA)
            os.makedirs(os.path.join(os.environ["BENCH_JAVA"], "run"), exist_ok=True)

        def asked(pid):
            with open(inside(pid, "/dev/shm/ask"), "w"):
                pass
            wait_for_file(inside(pid, "/dev/shm/answer"))

        words = ["/usr/bin/java", "-XX:-UsePerfData", "-Xmx256m", "/app/Warm.java"]
        bundle, ids = tool.runtime.bundle("java-many", *words, change=root), self.ids(tool, SINGLE)
        images = fresh(self.place)
        try:
            began = time.monotonic()
            pid = tool.start(bundle)
            wait_for_file(inside(pid, "/dev/shm/held"))
            asked(pid)
            self.bench.note("a JVM, warmed up: cold start, to its first answer", tool.name, (time.monotonic() - began) * 1e3)
            os.unlink(inside(pid, "/dev/shm/answer"))
            tool.checkpoint(pid, images)
            tool.clear()
            times = []
            for id in ids:
                began = time.monotonic()
                tool.runtime.command("clone", *CGROUPS, "--image-path", images, "--bundle", bundle, "--pid-file", self.file_of(id), id)
                asked(self.pid_of(self.file_of(id)))
                times.append((time.monotonic() - began) * 1e3)
            self.bench.note("one more of a JVM, warmed up, to its first answer", tool.name, statistics.median(times))
        finally:
            self.forget(tool, ids)
            shutil.rmtree(images, ignore_errors=True)

    def all(self):
        tools = [tool for tool in self.saving.tools if tool.name in ("hiber", "runc")]
        ours = [tool for tool in tools if tool.name == "hiber"]
        self.bench.each_round({"one clone": self.one_by_one, "clones": self.many}, tools, most=3)
        self.bench.each_round({"clones of a JVM": self.java}, ours, most=3)
