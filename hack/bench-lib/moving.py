"""A container that moves from one network namespace to another: by `hiber migrate`, and as runc can do it, by stopping, copying and
restoring."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

from checkpoint import Case, end_holding, fresh, wait_held
from tools import Failed, run_quiet

# In the receiving namespace: a program for each connection, which has it as its standard streams.
SERVE = """
import os, socket, subprocess, sys
listener = socket.create_server(("10.77.0.2", 7077))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    subprocess.Popen(sys.argv[1:], stdin=connection, stdout=connection)
    connection.close()
"""
# In the sending one: from and to standard streams.
REACH = """
import os, socket, threading
connection = socket.create_connection(("10.77.0.2", 7077))
def back():
    while data := connection.recv(1 << 20):
        os.write(1, data)
    os.close(1)
reader = threading.Thread(target=back, daemon=True)
reader.start()
while data := os.read(0, 1 << 20):
    connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
reader.join()
"""


@contextlib.contextmanager
def link(rate):
    """Two network namespaces and the link between them; the prefixes of commands in each."""
    here, there = (f"hiber-bench-{end}-{os.getpid()}" for end in ("here", "there"))
    ip = lambda *words: run_quiet(["ip", *words])
    try:
        for name in here, there:
            ip("netns", "add", name)
        ip("link", "add", "veth0", "netns", here, "type", "veth", "peer", "name", "veth0", "netns", there)
        for name, address in (here, "10.77.0.1/24"), (there, "10.77.0.2/24"):
            ip("-n", name, "addr", "add", address, "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            run_quiet(["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "veth0", "root", "tbf", "rate", rate,
                       "burst", "4mb", "latency", "50ms"])
        # Mounts of /sys and /etc of `ip netns exec` are not wanted.
        yield [["nsenter", f"--net=/run/netns/{name}"] for name in (here, there)]
    finally:
        for name in here, there:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def serving(prefix, program):
    """Something that answers at the other end of the link; standard error is kept for messages."""
    server = subprocess.Popen([*prefix, sys.executable, "-c", SERVE, *program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        server.stdout.readline()
        yield
    finally:
        server.kill()
        server.wait()


class Moving:
    """What moves, and by whom."""

    def __init__(self, saving):
        self.saving, self.bench = saving, saving.bench

    def moves(self, tool, case, rate):
        bundle = self.saving.bundle(tool, case.name, case.payload)
        there = f"{tool.id}-there"
        try:
            with link(rate) as (here, away):
                held = wait_held(tool.start(bundle))
                time.sleep(0.5)
                began = time.monotonic()
                how = self.by_hiber if tool.name == "hiber" else self.by_copying
                pid, stopped = how(tool, bundle, there, case, here, away)
                whole = (time.monotonic() - began) * 1e3
                self.check(pid, held)
            self.bench.note(f"move{case.label} over {rate}: stands still", tool.name, stopped)
            self.bench.note(f"move{case.label} over {rate}", tool.name, whole)
        finally:
            tool.clear()

    def by_hiber(self, tool, bundle, there, case, here, away):
        root = f"{tool.runtime.root}-there"
        # A bundle of its own there: the cgroup is named in it.
        other = f"{bundle}-there"
        shutil.copytree(bundle, other, dirs_exist_ok=True)
        with serving(away, [tool.runtime.program, "--root", root, "receive", "--stdio"]):
            reach = " ".join([*here, sys.executable, "-c", f"'{REACH}'"])
            command = tool.runtime.arguments("migrate", "--format", "json", *(case.flags or ("--on-miss", "force")), "--bundle", other, "--id", there,
                                             tool.id, f"exec:{reach}")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"hiber migrate: {done.stderr}")
            last = json.loads(done.stdout.splitlines()[-1])
        state = json.loads(subprocess.run([tool.runtime.program, "--root", root, "state", there], capture_output=True, check=True).stdout)
        self.left = [tool.runtime.program, "--root", root, "delete", "--force", there]
        return state["pid"], last["downtimeMilliseconds"]

    def by_copying(self, tool, bundle, there, case, here, away):
        images, arrived = fresh(case.place), os.path.join(case.place, "arrived")
        shutil.rmtree(arrived, ignore_errors=True)
        os.makedirs(arrived)
        began = time.monotonic()
        tool.checkpoint(tool.runtime.pid(), images)
        with serving(away, ["tar", "--extract", "--directory", arrived]):
            send = f"tar --create --directory {images} . | {' '.join(here)} {sys.executable} -c '{REACH}'"
            subprocess.run(send, shell=True, check=True)
        _, pid = tool.restore(bundle, arrived)
        stopped = (time.monotonic() - began) * 1e3
        self.left = None
        return pid, stopped

    def check(self, pid, held):
        try:
            end_holding(pid, held)
        finally:
            if self.left:
                subprocess.run(self.left, stdin=subprocess.DEVNULL, capture_output=True)

    def all(self):
        tmpfs = os.environ["BENCH_STATE"]
        label = " of 1 GiB, 64 MiB/s of it written,"
        follows = Case(f"{label} by post-copy", 1024, 1, tmpfs, rate=64, flags=("--post-copy",))
        cases = [Case(label, 1024, 1, tmpfs, rate=64), Case(" of a small container", place=tmpfs)]
        tools = [tool for tool in self.saving.tools if tool.name in ("hiber", "runc")]
        for rate in "10gbit", "1gbit":
            quantities = {f"move{case.label} over {rate}": lambda tool, case=case, rate=rate: self.moves(tool, case, rate)
                          for case in cases[: 2 if rate == "10gbit" else 1]}
            self.bench.each_round(quantities, tools, most=3)
            self.bench.each_round({f"move{follows.label} over {rate}": lambda tool, rate=rate: self.moves(tool, follows, rate)},
                                  [tool for tool in tools if tool.name == "hiber"], most=3)
