"""The tools that are measured: OCI runtimes with runc's command line, and the floor."""

import json
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

CAPABILITIES = "0000000020000420"  # CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE: those of `spec`
MOUNTS = {"/": "ext4|xfs|btrfs|overlay|tmpfs", "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs",
          "/dev/mqueue": "mqueue", "/sys": "sysfs", "/sys/fs/cgroup": "cgroup2|tmpfs"}
NODES = ["full", "null", "random", "tty", "urandom", "zero"]
# What a container can see of itself, for Runtime.check
LOOK = """
for n in pid net ipc uts mnt cgroup; do echo "ns $n $(readlink /proc/self/ns/$n)"; done
sed 's/^/mount /' /proc/self/mountinfo
grep -E '^(Cap|NoNewPrivs)' /proc/self/status | sed 's/^/status /'
echo "hostname $(hostname)"
echo "files $(ulimit -n)"
for n in /dev/*; do [ -c $n ] && echo "node ${n#/dev/}"; done
while read -r c; do echo "cgroup $c"; done </proc/self/cgroup
[ -e /sys/fs/cgroup/cgroup.type ] && echo "below yes"
touch /written 2>/dev/null && echo "writable yes"
head -c 1 /dev/zero >/dev/null || echo "unusable /dev/zero"
mknod /dev/shm/disk b 254 0 2>/dev/null && head -c 1 /dev/shm/disk 2>/dev/null && echo "reaches a disk"
exit 0
"""


class Failed(Exception):
    """A tool did not do what it was asked for."""


@dataclass
class Usage:
    wall_ms: float
    cpu_ms: float
    peak_mib: float


@dataclass
class Layout:
    """Where a container's cgroups are: hierarchy directories; one alone is cgroup v2."""

    name: str
    hierarchies: list

    @property
    def v2(self):
        return len(self.hierarchies) == 1


def layout_of():
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split(" ") for line in file]
    found = [m for m in mounts if m[m.index("-") + 1] in ("cgroup", "cgroup2") and m[4].startswith("/sys/fs/cgroup")]
    if any(m[4] == "/sys/fs/cgroup" for m in found):
        return Layout("cgroup v2", ["/sys/fs/cgroup"])
    return Layout("cgroup v1 and hybrid", sorted({m[4] for m in found}))


def run_quiet(command, **options):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:6])}: status {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


class Tool:
    """What the floor and the runtimes share."""

    def __init__(self, name, program, clock, work):
        self.name, self.program, self.clock = name, program, clock
        self.dir = os.path.join(work, name)
        os.makedirs(self.dir, exist_ok=True)

    def timed(self, command):
        """Runs a command under the clock. Its streams are /dev/null: a detached container keeps those that it is given,
        a pipe would be waited for until the container ends, and a file of the host could not be checkpointed."""
        result, errors = os.path.join(self.dir, "usage"), os.path.join(self.dir, "errors")
        open(result, "w").close()
        silent = ["--log", errors] if isinstance(self, Runtime) else []
        command = [command[0], *silent, *command[1:]]
        if os.path.exists(errors):
            os.remove(errors)
        subprocess.run([self.clock, "time", result, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True, timeout=120)
        with open(result) as file:
            wall, user, system, peak, status = map(int, file.read().split())
        if status != 0:
            why = open(errors).read().strip()[-600:] if os.path.exists(errors) else ""
            raise Failed(f"{' '.join(command[1:])}: status {status}: {why}")
        return Usage(wall / 1e6, (user + system) / 1e3, peak / 1024)

    def count_of(self, command, end=lambda: None):
        """System calls of a command with all its children. strace stays as long as one of them lives: `end` ends what
        the command leaves behind."""
        counts = os.path.join(self.dir, "counts")
        with open(os.path.join(self.dir, "output"), "w") as out:
            strace = subprocess.Popen(["strace", "-f", "-c", "-o", counts, *command], stdin=subprocess.DEVNULL, stdout=out,
                                      stderr=out)
            try:
                end()
                status = strace.wait(timeout=60)
            finally:
                strace.kill()
        if status != 0:
            raise Failed(f"strace {' '.join(command[1:])}: status {status}")
        with open(counts) as file:
            total = re.search(r"^\s*100\.00\s+\S+\s+\S+\s+(\d+).*total$", file.read(), re.M)
        return int(total.group(1))

    def check_complete(self):
        """Fails unless a container of this tool is set up as `spec` says."""
        output = run_quiet(self.look_arguments())
        check(output, self.cgroup_namespace, self.clock_layout())


def check(output, cgroup_namespace, layout):
    facts = {}
    for line in output.splitlines():
        kind, _, rest = line.partition(" ")
        facts.setdefault(kind, []).append(rest)

    def need(condition, what):
        if not condition:
            raise Failed(f"the container is incomplete: {what}")

    for line in facts["ns"]:
        kind, inode = line.split(" ")
        new = kind != "cgroup" or cgroup_namespace
        need((inode != os.readlink(f"/proc/self/ns/{kind}")) == new, f"{kind} namespace {inode}")
    mounts = {}
    for line in facts["mount"]:
        fields = line.split(" ")
        mounts[fields[4]] = (fields[5], fields[fields.index("-") + 1])
    for point, fstype in MOUNTS.items():
        need(point in mounts and re.fullmatch(fstype, mounts[point][1]), f"no {fstype} on {point}")
    with open(os.environ["BENCH_SPEC"]) as file:
        linux = json.load(file)["linux"]
    for path in linux["readonlyPaths"]:
        need(not os.path.exists(path) or "ro" in mounts.get(path, ("",))[0].split(","), f"{path} can be written")
    for path in linux["maskedPaths"]:
        need(not os.path.exists(path) or path in mounts, f"{path} is not masked")
    need("ro" in mounts["/"][0].split(","), "the root can be written")
    status = dict(line.split(":\t") for line in facts["status"])
    for name in "CapBnd", "CapEff", "CapPrm":
        need(status[name] == CAPABILITIES, f"{name} {status[name]}")
    need(status["NoNewPrivs"] == "1", "new privileges can be had")
    need(facts["hostname"] == ["hiber"], "host name")
    need(facts["files"] == ["1024"], f"limit of open files {facts['files']}")
    need(sorted(set(NODES) & set(facts["node"])) == NODES, f"device nodes {facts['node']}")
    if layout.v2:
        need("below" in facts, "no cgroup of its own")
    else:
        paths = dict(line.split(":", 2)[1:] for line in facts["cgroup"])
        alone = [name for name, path in paths.items() if name and path == "/"]
        need(not alone, f"no cgroup of its own in {alone}")
    for wrong in "writable", "unusable", "reaches":
        need(wrong not in facts, f"{wrong} {facts.get(wrong)}")


class Floor(Tool):
    """The C program that makes the container and nothing else."""

    def __init__(self, program, rootfs, layout, work):
        super().__init__("floor", program, program, work)
        self.rootfs, self.layout, self.cgroup_namespace = rootfs, layout, layout.v2
        self.id = f"hiber-bench-floor-{os.getpid()}"

    def clock_layout(self):
        return self.layout

    def run_arguments(self, *payload):
        cgroups = ",".join(f"{hierarchy}/{self.id}" for hierarchy in self.layout.hierarchies)
        return [self.program, "run", self.rootfs, cgroups, *(payload or ("/bin/true",))]

    def look_arguments(self):
        return self.run_arguments("/bin/sh", "-c", LOOK)

    def run_true(self):
        return self.timed(self.run_arguments())

    def count(self, arguments):
        return self.count_of(arguments)


class Runtime(Tool):
    """An OCI runtime."""

    def __init__(self, name, program, floor, work):
        super().__init__(name, program, floor.program, work)
        self.layout, self.rootfs = floor.layout, floor.rootfs
        self.root = os.path.join(os.environ["BENCH_STATE"], name)
        self.id = f"hiber-bench-{name}-{os.getpid()}"
        self.resident = f"{self.id}-resident"
        self.ids = [self.id, self.resident]
        self.others = 0
        self.config = spec(work)
        self.cgroup_namespace = any(n["type"] == "cgroup" for n in self.config["linux"]["namespaces"])

    def clock_layout(self):
        return self.layout

    def arguments(self, *arguments):
        return [self.program, "--root", self.root, *arguments]

    def command(self, *arguments):
        return self.timed(self.arguments(*arguments))

    def count(self, arguments):
        return self.count_of(self.arguments(*arguments))

    def count_create(self, name):
        """Of `create`, with the container's first process up to its wait for `start`, and its death."""

        def end():
            for _ in range(3000):
                time.sleep(0.02)
                shown = subprocess.run(self.arguments("state", self.id), stdin=subprocess.DEVNULL, capture_output=True)
                if shown.returncode == 0 and json.loads(shown.stdout)["status"] == "created":
                    break
            self.command("delete", "--force", self.id)

        return self.count_of(self.arguments("create", "--bundle", self.bundle(name), self.id), end)

    def bundle(self, name, *args, change=None):
        """A directory with the configuration of `spec` for another program."""
        path = os.path.join(self.dir, f"bundle-{name}")
        if not os.path.isdir(path):
            os.makedirs(path)
            config = json.loads(json.dumps(self.config))
            config["process"]["args"] = list(args) or [f"/bin/{name}"]
            if change:
                change(config)
            with open(os.path.join(path, "config.json"), "w") as file:
                json.dump(config, file)
        return path

    def look_arguments(self):
        bundle = self.bundle("look", "/bin/sh", "-c", LOOK)
        return self.arguments("run", "--bundle", bundle, self.id)

    def run_true(self):
        return self.command("run", "--bundle", self.bundle("true"), self.id)

    def create(self, name):
        return self.command("create", "--bundle", self.bundle(name), "--pid-file", self.pid_file(), self.id)

    def pid_file(self):
        return os.path.join(self.dir, "pid")

    def pid(self):
        with open(self.pid_file()) as file:
            return int(file.read())

    def start_resident(self, id=None):
        bundle = self.bundle("sleep", "/bin/sleep", "100000")
        self.command("run", "--detach", "--bundle", bundle, id or self.resident)

    def start_others(self, count):
        """Starts more, until there are so many."""
        for number in range(self.others, count):
            id = f"{self.id}-other-{number}"
            self.ids.append(id)
            self.start_resident(id)
            self.others += 1

    def clear(self):
        """Removes all containers of this tool."""

        def delete(id):
            subprocess.run(self.arguments("delete", "--force", id), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)

        # runc looks every 100 ms whether a container has ended
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(delete, [id for id in self.ids if os.path.isdir(os.path.join(self.root, id))]))
        time.sleep(0.1)


def spec(work):
    """`hiber spec` without a terminal, for the shared root filesystem."""
    path = os.path.join(work, "config.json")
    if not os.path.exists(path):
        run_quiet([os.environ["BENCH_HIBER"], "spec"], cwd=work)
        with open(path) as file:
            config = json.load(file)
        config["process"]["terminal"] = False
        config["hostname"] = "hiber"
        config["root"]["path"] = os.environ["BENCH_ROOTFS"]
        # one that every runtime knows
        config["ociVersion"] = "1.0.2"
        with open(path, "w") as file:
            json.dump(config, file)
    os.environ["BENCH_SPEC"] = path
    with open(path) as file:
        return json.load(file)
