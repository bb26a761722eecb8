"""Which functions the common commands call, as a linker script: order.py SCRIPT WORK (see hack/order)."""

import os
import re
import subprocess
import sys

from measure import filtered
from tools import Failed, Floor, Runtime, layout_of, run_quiet

HEAD = """/* Written by hack/order: functions that the common commands call, those that most call first. */
SECTIONS
{
  .text.used :
  {
"""
TAIL = """  }
}
INSERT BEFORE .text;
"""


class Traced:
    """A runtime whose functions are watched."""

    def __init__(self, tool, tracer):
        self.tool, self.tracer = tool, tracer
        self.names = {}
        for line in run_quiet(["nm", tool.program]).splitlines():
            fields = line.split()
            if fields[-2] in "tT":
                self.names.setdefault(int(fields[0], 16), []).append(fields[-1])
        self.addresses = os.path.join(tool.dir, "addresses")
        with open(self.addresses, "w") as file:
            file.writelines(f"{address:x}\n" for address in self.names)
        # function -> set of (command, is init)
        self.callers = {}

    def watch(self, name, *arguments):
        output = os.path.join(self.tool.dir, "functions")
        run_quiet([self.tracer, self.tool.program, self.addresses, output, *self.tool.arguments(*arguments)], timeout=60)
        with open(output) as file:
            for line in file:
                address, role = line.split()
                self.callers.setdefault(int(address, 16), set()).add((name, role))

    def script(self):
        """One pattern for each function. Hashes of crates, and distances that depend on their length, are left open."""
        order = sorted(self.callers.items(), key=lambda item: (-len(item[1]), sorted(item[1])))
        patterns = {}
        for address, _ in order:
            for name in self.names[address]:
                if name.startswith("_R"):
                    name, suffix, _ = name.partition(".")
                    name = re.sub(r"Cs[0-9A-Za-z]+_(?=\d)", "Cs*_", name) + ("*" if suffix else "")
                    name = re.sub(r"B[0-9A-Za-z]{1,2}_", "B*_", name)
                elif name != "_start":
                    # what is written in assembler has a file of its own, not a section
                    patterns[f"*:{name}.*o(.text)"] = None
                else:
                    patterns["*crt1.o(.text)"] = None
                patterns[f"*(.text*.{name})"] = None
        return HEAD + "".join(f"    {pattern}\n" for pattern in patterns) + TAIL


def watch_all(traced):
    tool = traced.tool
    true, sleep = tool.bundle("true"), tool.bundle("sleep", "/bin/sleep", "100000")
    traced.watch("run", "run", "--bundle", true, tool.id)
    traced.watch("seccomp", "run", "--bundle", tool.bundle("filtered", "/bin/true", change=filtered), tool.id)
    traced.watch("create", "create", "--bundle", true, tool.id)
    tool.command("delete", "--force", tool.id)
    tool.command("create", "--bundle", sleep, tool.resident)
    traced.watch("start", "start", tool.resident)
    traced.watch("exec", "exec", tool.resident, "/bin/true")
    for command in ["state", tool.resident], ["list"], ["pause", tool.resident], ["resume", tool.resident]:
        traced.watch(command[0], *command)
    traced.watch("kill", "kill", tool.resident, "KILL")
    traced.watch("delete", "delete", "--force", tool.resident)


def main():
    path, work = sys.argv[1:3]
    floor = Floor(os.environ["BENCH_FLOOR"], os.environ["BENCH_ROOTFS"], layout_of(), work)
    tool = Runtime("hiber", os.environ["BENCH_HIBER"], floor, work)
    tracer = os.path.join(work, "tracer")
    source = os.path.join(os.path.dirname(__file__), "functions.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-o", tracer, source], check=True)
    traced = Traced(tool, tracer)
    try:
        watch_all(traced)
    finally:
        tool.clear()
    with open(path, "w") as file:
        file.write(traced.script())
    print(f"{len(traced.callers)} of {len(traced.names)} functions")


if __name__ == "__main__":
    try:
        main()
    except Failed as e:
        sys.exit(f"order: {e}")
