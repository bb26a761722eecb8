"""Prints the tables of measure.py's results; with --docs DIRECTORY writes performance.md and performance.svg there."""

import json
import os
import re
import statistics
import sys

TOOLS = ["floor", "criu", "hiber", "crun", "runc"]
COLOURS = {"floor": "#9aa5b1", "criu": "#9aa5b1", "hiber": "#0b7285", "crun": "#e8a33d", "runc": "#c2564b"}
ABSOLUTE = {"MiB", "ms", "in all"}  # goals that are no ratio
# quantity -> (against, at most): goals on cgroup v2, as ratios of medians to another tool's or to another quantity of hiber's
GOALS = {
    "run": [("floor", 1.35), ("crun", 0.55)],
    "create + start + delete": [("crun", 0.45)],
    "exec": [("crun", 0.5)],
    "state": [("crun", 0.25)],
    "kill": [("crun", 0.25)],
    "list, 100 containers": [("crun", 0.3)],
    "run: CPU time": [("crun", 0.5)],
    "run: peak memory": [("MiB", 2.5)],
    "create: peak memory": [("MiB", 2.5)],
    "checkpoint": [("runc", 0.3), ("crun", 0.3)],
    "checkpoint: frozen (CRIU's count)": [("runc", 0.2)],
    "checkpoint: pause seen inside": [("runc", 0.2)],
    "restore": [("runc", 0.35)],
    "run: podman's seccomp profile adds": [("ms", 1)],
    "checkpoint of 100 processes: frozen (CRIU's count)": [("runc", 0.4)],
    "checkpoint of 1 GiB to tmpfs": [("criu", 1.0), ("runc", 1.0)],
    "checkpoint of 1 GiB to tmpfs: CPU time": [("runc", 1.3)],
    "checkpoint of 1 GiB to tmpfs: frozen (CRIU's count)": [("runc", 0.2)],
    "checkpoint of 1 GiB to tmpfs, 64 MiB/s of it written: frozen (CRIU's count)": [("runc", 0.25)],
    "checkpoint of 1 GiB to tmpfs, --pre-copy off: frozen (CRIU's count)": [("runc", 0.35)],
    "checkpoint of 1 GiB to disk": [("criu", 1.0)],
    "checkpoint of 1 GiB to disk, then synced": [("criu", 1.0), ("runc", 0.8)],
    "checkpoint of 10 GiB to disk, 16 MiB/s of it written: frozen (CRIU's count)":
        [("checkpoint of 1 GiB to disk, 16 MiB/s of it written: frozen (CRIU's count)", 2.0)],
    "redis: requests lost during a checkpoint, of undisturbed": [("in all", 0.2)],
    "restore of 1 GiB from tmpfs": [("runc", 0.7)],
    "restore of 1 GiB from tmpfs, to its first answer": [("runc", 0.12)],
    "restore of 1 GiB from tmpfs, until all memory is there": [("runc", 1.2)],
    "lazy migration of 1 GiB over loopback, to the last page": [("runc", 0.5)],
    "lazy migration of 1 GiB over loopback, 64 busy tasks beside, to the last page": [("runc", 0.3)],
    "move of 1 GiB, 64 MiB/s of it written, over 10gbit: stands still": [("runc", 0.15)],
    "move of 1 GiB, 64 MiB/s of it written, over 10gbit": [("runc", 1.5)],
    "move of 1 GiB, 64 MiB/s of it written, over 1gbit: stands still": [("runc", 0.1)],
    "move of 1 GiB, 64 MiB/s of it written, over 1gbit": [("runc", 1.5)],
    "archive of 1 GiB, half-compressible": [("runc", 0.6)],
    "archive of 1 GiB, 64 MiB/s of it written: frozen (CRIU's count)": [("runc", 0.35)],
    "restore of 1 GiB from an archive, to its first answer": [("runc", 0.5)],
    "archive of a JVM": [("runc", 0.6)],
    "restore of a JVM from an archive, to its first answer": [("runc", 0.5)],
    "archive of 1 GiB, encrypted": [("archive of 1 GiB, half-compressible", 1.3)],
    "archive of 1 GiB: peak memory": [("MiB", 48)],
    "redis into a store, second time: KiB": [("redis into a store, first time: KiB", 0.12)],
    "one more of a redis with 256 MiB, to its first reply": [("runc", 0.15)],
    "100 of a redis with 256 MiB, to the last one's first reply": [("runc", 0.1)],
    "memory of a clone of a redis with 256 MiB: MiB": [("MiB", 8)],
    "one more of a JVM, warmed up, to its first answer": [("a JVM, warmed up: cold start, to its first answer", 0.1)],
    "run, 500 others alive": [("run, 0 others alive", 1.1)],
    "create, 500 others alive": [("create, 0 others alive", 1.1)],
}
PICTURE = ["run", "create + start + delete", "exec", "state", "kill", "list, 100 containers", "checkpoint",
           "checkpoint: pause seen inside", "restore", "checkpoint of 100 processes: frozen (CRIU's count)",
           "checkpoint of 1 GiB to tmpfs", "restore of 1 GiB from tmpfs", "run, 500 others alive"]
UNITS = {"run: peak memory": "MiB", "create: peak memory": "MiB", "archive of 1 GiB: peak memory": "MiB", "redis: requests served during a checkpoint, of undisturbed": "ratio",
         "redis: requests lost during a checkpoint, of undisturbed": "ratio"}


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(values):
    if not values:
        return ""
    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}–{number(max(values))})"


def ratio(tools, against):
    if "hiber" not in tools or against not in tools:
        return None
    return statistics.median(tools["hiber"]) / statistics.median(tools[against])


def table(result):
    """Lines of one layout's table."""
    lines = ["| ms unless it says otherwise: median (minimum–maximum) | " + " | ".join(TOOLS) + " | to floor or criu | to crun | to runc |",
             "|---" + "|---:" * (len(TOOLS) + 3) + "|"]
    for quantity, tools in result["results"].items():
        unit = UNITS.get(quantity)
        name = f"{quantity}, {unit}" if unit else quantity
        lowest = ratio(tools, "floor") or ratio(tools, "criu")
        ratios = [lowest, ratio(tools, "crun"), ratio(tools, "runc")]
        cells = [cell(tools.get(t)) for t in TOOLS] + [f"{r:.2f}" if r else "" for r in ratios]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for quantity, tool, why in result["problems"]:
        lines.append("")
        lines.append(f"{tool} failed at `{quantity}`: {why.splitlines()[-1][-200:] if why else why}")
    return lines


def achieved(results, tools, against):
    """What hiber has where a goal wants at most something; None if it was not measured."""
    if against in ABSOLUTE:
        return statistics.median(tools["hiber"]) if "hiber" in tools else None
    if against in TOOLS:
        return ratio(tools, against)
    other = results.get(against, {}).get("hiber")
    return statistics.median(tools["hiber"]) / statistics.median(other) if other and "hiber" in tools else None


def goals(result):
    lines = ["| goal | wanted | measured | |", "|---|---:|---:|---|"]
    for quantity, wanted in GOALS.items():
        tools = result["results"].get(quantity, {})
        for against, most in wanted:
            value = achieved(result["results"], tools, against)
            unit = against if against in ABSOLUTE else f"× {against}"
            measured, verdict = ("", "not measured") if value is None else (f"{value:.2f}", "met" if value <= most else "missed")
            lines.append(f"| {quantity} | ≤ {most} {unit} | {measured} | {verdict} |")
    return lines


def picture(result):
    """Bars, one group for each quantity, as parts of the slowest."""
    groups = [(q, result["results"][q]) for q in PICTURE if q in result["results"]]
    # 7.5: more than a character of any font that a viewer may take for 12px sans-serif
    left = round(max(len(q) for q, _ in groups) * 7.5) + 26
    bar, gap, width = 13, 16, 420
    layout = "cgroup v2" if result["layout"] == "v2" else "the host's cgroups"
    head = [("h", f"How long each tool takes, in ms: medians on {layout}; shorter is faster"),
            ("n", "hiber, crun, runc: the whole command, on the container of hiber spec. floor: a C program that makes the same container and does"),
            ("n", "nothing else. criu: CRIU driven by its own command line. Each group of bars is scaled to its slowest.")]
    parts = [f'<text x="16" y="{22 + 16 * i}" class="{kind}">{text}</text>' for i, (kind, text) in enumerate(head)]
    y = 76
    for quantity, tools in groups:
        shown = [t for t in TOOLS if t in tools]
        medians = {t: statistics.median(tools[t]) for t in shown}
        parts.append(f'<text x="{left - 10}" y="{y + bar * len(shown) / 2 + 4}" text-anchor="end">{quantity}</text>')
        for tool in shown:
            length = max(1, width * medians[tool] / max(medians.values()))
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLOURS[tool]}"/>')
            parts.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 4}" class="n">{tool} {number(medians[tool])} ms</text>')
            y += bar
        y += gap
    style = "text{font:12px sans-serif;fill:#333}.n{font-size:10px}.h{font-size:14px}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 110} {y}" width="{left + width + 110}">'
            f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')


def tables(results):
    lines = []
    for result in results:
        m = result["machine"]
        lines += [f"## {'cgroup v2 alone' if result['layout'] == 'v2' else 'the cgroup layout of the host'}", ""]
        lines += [f"{m['date']}, {m['cpu']}, {m['cpus']} CPUs, {m['memory']}, Linux {m['kernel']}, load {m['load']:.1f} at the end; "
                  f"{result['rounds']} rounds, {result['checks']} containers looked at from inside and found complete. "
                  + "; ".join(result["versions"].values()) + ".", ""]
        lines += table(result) + [""]
        if result["layout"] == "v2":
            lines += goals(result) + [""]
    return "\n".join(lines)


def main():
    arguments = sys.argv[1:]
    docs = arguments[1] if arguments[0] == "--docs" else None
    results = [json.load(open(path)) for path in arguments[2 if docs else 0:]]
    text = tables(results)
    print(text)
    if not docs:
        return
    page = os.path.join(docs, "performance.md")
    # What people wrote stays; only what is between the marks is replaced.
    with open(page) as file:
        old = file.read()
    new = re.sub(r"(<!-- hack/bench -->\n).*(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", old, flags=re.S)
    with open(page, "w") as file:
        file.write(new)
    with open(os.path.join(docs, "performance.svg"), "w") as file:
        file.write(picture(results[0]))


if __name__ == "__main__":
    main()
