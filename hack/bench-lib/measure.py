"""Measures runtimes against each other: measure.py LAYOUT ROUNDS PARTS WORK RESULT.json, started by hack/bench.

Every quantity is a list with one number per round and tool; rounds are interleaved, so that what else the machine does
hits all tools alike. A tool that fails an operation is reported once and has no number for it.
"""

import ctypes
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import time

from checkpoint import Saving
from clones import Clones
from moving import Moving
from streams import Streams
from tools import Failed, Floor, Runtime, layout_of, run_quiet

OTHERS = [0, 100, 250, 500]  # live containers of each tool beside the one that is measured


# fails where no filter is
IS_FILTERED = ["/bin/grep", "-q", "^Seccomp:.2", "/proc/self/status"]


class Bench:
    """One layout's measurements."""

    def __init__(self, rounds, work):
        self.rounds, self.work = rounds, work
        self.layout = layout_of()
        env = os.environ
        self.floor = Floor(env["BENCH_FLOOR"], env["BENCH_ROOTFS"], self.layout, work)
        programs = {"hiber": env["BENCH_HIBER"], "crun": shutil.which("crun"), "runc": shutil.which("runc")}
        self.runtimes = [Runtime(name, program, self.floor, work) for name, program in programs.items()]
        self.results, self.problems, self.failures, self.checks = {}, {}, {}, 0

    def note(self, quantity, tool, value):
        self.results.setdefault(quantity, {}).setdefault(tool, []).append(value)

    def attempt(self, quantity, tool, work):
        """Runs `work` unless the tool has failed in this quantity twice."""
        if self.failures.get((quantity, tool.name), 0) == 2:
            return
        try:
            work(tool)
        except Failed as failed:
            self.failures[quantity, tool.name] = self.failures.get((quantity, tool.name), 0) + 1
            self.problems[quantity, tool.name] = str(failed)
            print(f"  {tool.name}: {quantity}: {failed}", file=sys.stderr)

    def each_round(self, quantities, tools, most=None):
        """quantities: name -> function of a tool. The order of tools rotates from round to round."""
        for number in range(min(self.rounds, most or self.rounds)):
            turn = number % len(tools)
            for quantity, work in quantities.items():
                for tool in tools[turn:] + tools[:turn]:
                    self.attempt(quantity, tool, work)

    # --- quantities ---

    def run(self, tool):
        usage = tool.run_true()
        self.note("run", tool.name, usage.wall_ms)
        self.note("run: CPU time", tool.name, usage.cpu_ms)
        self.note("run: peak memory", tool.name, usage.peak_mib)

    def check(self, tool):
        tool.check_complete()
        self.checks += 1

    def cycle(self, tool):
        """create, start, delete of a container that runs true; its end, and what this program does between, is nobody's."""
        create = tool.create("true")
        pidfd = os.pidfd_open(tool.pid())
        start = tool.command("start", tool.id)
        select.select([pidfd], [], [])
        os.close(pidfd)
        reap()
        delete = tool.command("delete", tool.id)
        self.note("create + start + delete", tool.name, create.wall_ms + start.wall_ms + delete.wall_ms)
        for name, usage in ("create", create), ("start", start), ("delete", delete):
            self.note(name, tool.name, usage.wall_ms)
        self.note("create: peak memory", tool.name, create.peak_mib)

    def commands(self, tool):
        """Commands on a container that is there."""
        for name, arguments in {
            "exec": ["exec", tool.resident, "/bin/true"],
            "state": ["state", tool.resident],
            "kill": ["kill", tool.resident, "WINCH"],
            "list, 1 container": ["list"],
        }.items():
            self.note(name, tool.name, tool.command(*arguments).wall_ms)

    def syscalls(self, tool):
        """System calls are counted once: they hardly vary."""
        if isinstance(tool, Floor):
            self.note("run: system calls", tool.name, tool.count(tool.run_arguments()))
            return
        self.note("run: system calls", tool.name, tool.count(["run", "--bundle", tool.bundle("true"), tool.id]))
        self.note("create: system calls", tool.name, tool.count_create("true"))
        self.note("exec: system calls", tool.name, tool.count(["exec", tool.resident, "/bin/true"]))
        self.note("state: system calls", tool.name, tool.count(["state", tool.resident]))
        self.note("list: system calls", tool.name, tool.count(["list"]))

    def filtered(self, tool):
        """With podman's default seccomp profile, and without."""
        bundle = tool.bundle("filtered", "/bin/true", change=filtered)
        tool.command("run", "--bundle", tool.bundle("is-filtered", *IS_FILTERED, change=filtered), tool.id)
        plain, with_filter = tool.run_true(), tool.command("run", "--bundle", bundle, tool.id)
        self.note("run: podman's seccomp profile adds", tool.name, with_filter.wall_ms - plain.wall_ms)
        self.note("run: podman's seccomp profile adds CPU time", tool.name, with_filter.cpu_ms - plain.cpu_ms)

    def company(self, tool, others):
        """With others alive in the same root."""
        self.note(f"run, {others} others alive", tool.name, tool.run_true().wall_ms)
        if isinstance(tool, Floor):
            return
        self.note(f"create, {others} others alive", tool.name, tool.create("true").wall_ms)
        tool.command("delete", "--force", tool.id)
        reap()
        self.note(f"state, {others} others alive", tool.name, tool.command("state", tool.resident).wall_ms)
        if others:
            self.note(f"list, {others} containers", tool.name, tool.command("list").wall_ms)

    # --- parts ---

    def commands_part(self):
        tools = [self.floor, *self.runtimes]
        self.each_round({"complete": self.check, "run": self.run}, tools)
        self.each_round({"create": self.cycle, "commands": self.commands}, self.runtimes)
        for tool in tools:
            self.attempt("system calls", tool, self.syscalls)
        for tool in self.runtimes:
            self.note("binary, MiB", tool.name, os.stat(os.path.realpath(tool.program)).st_size / 2**20)

    def seccomp_part(self):
        self.each_round({"seccomp": self.filtered}, self.runtimes)

    def growth_part(self):
        for others in OTHERS:
            for tool in self.runtimes:
                self.attempt(f"{others} containers", tool, lambda tool: tool.start_others(others))
            quantity = {f"{others} others alive": lambda tool: self.company(tool, others)}
            self.each_round(quantity, [self.floor, *self.runtimes], most=20)
        for tool in self.runtimes:
            tool.clear()

    def measure(self, parts):
        reap_orphans()
        for tool in self.runtimes:
            self.attempt("run --detach", tool, lambda tool: tool.start_resident())
        # crun refuses hosts whose v1 and v2 hierarchies both have controllers
        self.runtimes = [tool for tool in self.runtimes if ("run --detach", tool.name) not in self.problems]
        saving = Saving(self, self.runtimes)
        every = {
            "commands": (self.commands_part, "run, create, start, delete, exec, state, kill, list"),
            "seccomp": (self.seccomp_part, "run with a seccomp profile"),
            "growth": (self.growth_part, f"with up to {OTHERS[-1]} others alive"),
            "checkpoint": (saving.small, "checkpoint and restore"),
            "trees": (saving.trees, "checkpoint and restore of many processes"),
            "large": (saving.large, "checkpoint and restore of much memory"),
            "moving": (Moving(saving).all, "a container that moves over a network"),
            "streams": (Streams(saving).all, "checkpoints in archives and in a store"),
            "clones": (Clones(saving).all, "many containers from one checkpoint"),
            "live": (saving.live, "memory that is copied or follows while the container runs"),
        }
        for part, (work, what) in every.items():
            if part in parts:
                say(f"{self.layout.name}: {what}")
                work()


def filtered(config):
    """Adds podman's default seccomp profile, as podman hands it to a runtime."""
    with open(os.environ["BENCH_PODMAN"]) as file:
        config["linux"]["seccomp"] = json.load(file)["linux"]["seccomp"]


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def reap_orphans():
    """Containers that outlive their runtime become our children, not those of an unknown init."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap():
    """Buries dead orphans. Nothing that subprocess waits for is running when this is called."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*:\s*(.*)$", file.read(), re.M)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def main():
    layout, rounds, parts, work, result = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(int(rounds), work)
    try:
        bench.measure(parts.split(","))
    finally:
        for tool in bench.runtimes:
            tool.clear()
    versions = {t.name: run_quiet([t.program, "--version"]).splitlines()[0] for t in bench.runtimes}
    versions["criu"] = run_quiet(["criu", "--version"]).splitlines()[0]
    with open(result, "w") as file:
        json.dump({
            "layout": layout, "rounds": bench.rounds, "machine": machine(), "versions": versions, "checks": bench.checks,
            "results": bench.results, "problems": [[*key, why] for key, why in bench.problems.items()],
        }, file)


if __name__ == "__main__":
    main()
