"""Counts of hiber's commands, compared with those on record: counts.py RECORD TARGET WORK NOTE (see hack/bench-check)."""

import json
import os
import re
import subprocess
import sys

from tools import Failed, Floor, Runtime, layout_of, run_quiet

TOLERANCE = 1.05
# The kernel maps a program in windows of 64 KiB: a function that moves may be one more.
MEMORY_TOLERANCE = 1.15
ALLOCATORS = tuple(f"__rustc::__rust_{name}" for name in ("alloc", "alloc_zeroed", "realloc"))


def strace(tool, name, command):
    """System calls and program starts of a command with its children."""
    log = os.path.join(tool.dir, "trace")
    run_quiet(["strace", "-f", "-qq", "-o", log, *command], timeout=120)
    with open(log) as file:
        lines = file.read().splitlines()
    # a call that another process interrupts takes two lines
    calls = [line for line in lines if re.match(r"\d+ +\w+\(", line)]
    # a restart is a matter of timing
    calls = [line for line in calls if "restart_syscall(" not in line]
    # a program that is searched for along PATH is started once
    starts = [line for line in lines if re.search(r"execve(at)?(\(.*| resumed.*)= 0$", line)]
    return {f"{name}: system calls": len(calls), f"{name}: programs started": len(starts)}


def callgrind(tool, program, arguments, status):
    """Instructions and calls of the allocator, of a command that ends with this status."""
    out = os.path.join(tool.dir, "callgrind")
    quiet = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}", program]
    done = subprocess.run([*quiet, "--root", tool.root, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120)
    if done.returncode != status:
        raise Failed(f"{' '.join(arguments)} under callgrind: status {done.returncode}: {done.stderr[-600:]}")
    instructions, allocations, names, called = 0, 0, {}, None
    with open(out) as file:
        for line in file:
            if line.startswith("totals:"):
                instructions = int(line.split()[1])
            elif match := re.match(r"cfn=\((\d+)\)(?: (.*))?", line):
                called = names[match[1]] = match[2] or names[match[1]]
            elif match := re.match(r"fn=\((\d+)\) (.*)", line):
                names[match[1]] = match[2]
            elif line.startswith("calls=") and called in ALLOCATORS:
                allocations += int(line[len("calls="):].split()[0])
    return instructions, allocations


def measure(tool):
    counts = {}
    images = os.path.join(tool.dir, "images")
    true = tool.bundle("true")
    counts |= strace(tool, "run", tool.arguments("run", "--bundle", true, tool.id))
    # grows when hack/order.ld no longer names what is used, too
    counts["run: peak memory, KiB"] = round(tool.run_true().peak_mib * 1024)
    tool.start_resident()
    counts |= strace(tool, "exec", tool.arguments("exec", tool.resident, "/bin/true"))
    for command in ["state", tool.resident], ["list"], ["kill", tool.resident, "0"]:
        counts |= strace(tool, command[0], tool.arguments(*command))
    # Debian 12's valgrind knows no pidfds. A creation that is refused because the id is taken has read, checked and
    # planned the whole configuration.
    planned = ["create", "--bundle", true, tool.resident]
    for name, command, status in ("features", ["features"], 0), ("configuration", planned, 1):
        instructions, _ = callgrind(tool, os.environ["BENCH_HIBER"], command, status)
        _, allocations = callgrind(tool, os.environ["BENCH_DEBUG"], command, status)
        counts |= {f"{name}: instructions": instructions, f"{name}: allocations": allocations}
    # CRIU's system calls are its own affair, and depend on the moment; what it starts depends on what it is asked
    checkpoint = tool.arguments("checkpoint", "--leave-running", "--image-path", images, tool.resident)
    # what CRIU finds out about the kernel it cannot find out under strace; it keeps that in /run
    run_quiet(checkpoint)
    key = "checkpoint: programs started"
    counts[key] = strace(tool, "checkpoint", checkpoint)[key]
    return counts


def compare(counts, record):
    grown = []
    print(f"{'':34} {'now':>9} {'on record':>9}")
    for name, count in counts.items():
        known = record["counts"].get(name)
        tolerance = MEMORY_TOLERANCE if "memory" in name else TOLERANCE
        mark = ""
        if known is None or count > known * tolerance:
            grown.append(name)
            mark = "  GROWN" if known else "  NOT ON RECORD"
        elif count * tolerance < known:
            mark = "  better"
        print(f"{name:34} {count:9} {known or '':>9}{mark}")
    return grown


def main():
    path, target, work, note = sys.argv[1:5]
    layout = layout_of()
    floor = Floor(os.environ["BENCH_FLOOR"], os.environ["BENCH_ROOTFS"], layout, work)
    tool = Runtime("hiber", os.environ["BENCH_HIBER"], floor, work)
    try:
        counts = measure(tool)
    finally:
        tool.clear()
    rustc = run_quiet(["rustc", "--version"]).strip()
    with open(path) as file:
        records = json.load(file)
    if note:
        records[target] = {"note": note, "rustc": rustc, "counts": counts}
        with open(path, "w") as file:
            json.dump(records, file, indent=2, sort_keys=True)
            file.write("\n")
        print(f"recorded {len(counts)} counts of {target}")
        return 0
    record = records.get(target)
    if not record:
        raise Failed(f"{target} is not on record: hack/bench-check --record NOTE")
    grown = compare(counts, record)
    if grown:
        print(f"\nabove the record of {record['rustc']} ({record['note']}) by more than 5 % (memory: 15 %): {', '.join(grown)}")
        print("if that is worth it: hack/bench-check --record NOTE")
        return 1
    # a line that hack/test counts
    print(f"\n{len(counts)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"bench-check: {e}")
