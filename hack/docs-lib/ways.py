"""Draws the ways of create, checkpoint and restore: ways.py DIRECTORY writes create.svg, checkpoint.svg and restore.svg there.

A way has lanes and steps. A step is (from, to, text): an arrow between two lanes, or work in one lane if they are the same; or
("note", text): a line over all lanes, for what holds from there on.
"""

import os
import sys
from xml.sax.saxutils import escape

WAYS = {
    "create": (["hiber create", "init, in the new namespaces", "ROOT/ID on disk"], [
        (0, 0, "config.json becomes a plan; a mistake ends here"),
        (0, 2, "claim the id, lock; facts before each step"),
        (0, 0, "make the cgroup's directories"),
        (0, 1, "clone3, execute the own binary"),
        (0, 1, "the plan"),
        (1, 1, "join namespaces, mount the root, run hooks"),
        (0, 0, "meanwhile: limits, device rules"),
        (1, 0, "sources of binds, where init may not open them"),
        (1, 1, "become the user, find the program"),
        (1, 0, "Ready"),
        ("note", "created: init waits on the container's socket"),
        (0, 1, "hiber start: Start"),
        (1, 1, "seccomp filter, execve"),
        (1, 0, "end of file: the program runs. Else the reason"),
    ]),
    "checkpoint": (["hiber checkpoint", "criu swrk", "the container", "the image path"], [
        (0, 0, "lock, look at mounts and network"),
        (0, 3, "a hidden directory beside the image path; a guard process watches from here on"),
        (0, 1, "dump"),
        (1, 0, "PreDump"),
        (0, 2, "copy memory in rounds, from 32 MiB on"),
        (0, 2, "freeze the cgroup"),
        (1, 2, "copy state, and the rest of the memory"),
        (1, 3, "images; threads of hiber hash memory meanwhile"),
        (1, 0, "PostDump: all images are written"),
        (0, 0, "--prove: restore on trial"),
        (0, 3, "kept.json, hiber.json, sync"),
        ("note", "a failure up to here: no checkpoint, the container runs on"),
        (0, 3, "rename: the checkpoint appears, whole"),
        (0, 1, "go on"),
        (1, 2, "kill the processes, but for --leave-running"),
        (0, 0, "remove cgroup and state"),
    ]),
    "restore": (["hiber restore", "criu swrk", "the container", "the images"], [
        (0, 3, "open the directory once: owner, hashes, rights against config.json"),
        (0, 0, "plan from config.json, claim the id, cgroup"),
        (0, 0, "the root, in a mount namespace of a thread"),
        (0, 1, "restore"),
        (1, 2, "fork the processes"),
        (1, 0, "PostSetupNamespaces: hiber completes the network"),
        (1, 2, "memory, files, sockets"),
        (1, 0, "PostRestore: the pid is written down"),
        (0, 2, "properties that CRIU forgets"),
        (1, 0, "PreResume"),
        ("note", "--prove ends here: everything is killed. A failure up to here leaves nothing"),
        (0, 2, "freeze, where a process must make calls itself"),
        (1, 2, "let the processes go"),
        (0, 2, "make those calls, thaw: the program runs"),
    ]),
}
LANE, STEP, TOP, LEFT = 250, 34, 64, 130
STYLE = ("text{font:12px sans-serif;fill:#333}.lane{font-weight:bold}.line{stroke:#c5ccd6;stroke-dasharray:3 3}"
         ".arrow{stroke:#0b7285;stroke-width:1.5;marker-end:url(#head)}.work{fill:#0b7285}.note{fill:#fdf3dc;stroke:#e8a33d}")


def draw(lanes, steps):
    width, height = LEFT * 2 + LANE * (len(lanes) - 1) + 40, TOP + STEP * len(steps) + 24
    x = [LEFT + LANE * i for i in range(len(lanes))]
    parts = [f'<line class="line" x1="{at}" y1="44" x2="{at}" y2="{height - 10}"/>' for at in x]
    parts += [f'<text class="lane" x="{at}" y="30" text-anchor="middle">{escape(name)}</text>' for at, name in zip(x, lanes)]
    for number, step in enumerate(steps):
        y = TOP + STEP * number + 10
        if step[0] == "note":
            parts.append(f'<rect class="note" x="20" y="{y - 15}" width="{width - 40}" height="22" rx="4"/>')
            parts.append(f'<text x="{width / 2}" y="{y}" text-anchor="middle">{escape(step[1])}</text>')
            continue
        start, end, text = x[step[0]], x[step[1]], escape(step[2])
        if start == end:
            parts.append(f'<circle class="work" cx="{start}" cy="{y - 4}" r="4"/><text x="{start + 12}" y="{y}">{text}</text>')
            continue
        tip = end - 5 if end > start else end + 5
        parts.append(f'<line class="arrow" x1="{start}" y1="{y + 4}" x2="{tip}" y2="{y + 4}"/>')
        parts.append(f'<text x="{min(start, end) + 12}" y="{y - 2}">{text}</text>')
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#0b7285"/></marker>'
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">\n<style>{STYLE}</style>\n'
            f'<defs>{head}</defs>\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n')


if __name__ == "__main__":
    for way, (lanes, steps) in WAYS.items():
        with open(os.path.join(sys.argv[1], f"{way}.svg"), "w") as file:
            file.write(draw(lanes, steps))
