"""A still of a terminal as SVG: still.py TITLE <TEXT >SVG."""

import sys
from xml.sax.saxutils import escape

SIZE, ADVANCE, LINE, MARGIN = 13, 7.85, 19, 18


def still(title, lines):
    width = round(max(len(line) for line in lines) * ADVANCE + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d8dee9;white-space:pre}}"
        ".bar{fill:#8b95a5}.prompt{fill:#8fbcbb}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#1f2430"/>',
        *(f'<circle cx="{MARGIN + 4 + 18 * i}" cy="18" r="5" fill="{colour}"/>' for i, colour in enumerate(("#c2564b", "#e8a33d", "#5f9e6e"))),
        f'<text class="bar" x="{MARGIN + 64}" y="22">{escape(title)}</text>',
    ]
    for number, line in enumerate(lines):
        kind = ' class="prompt"' if line.startswith("# ") else ""
        # textLength keeps columns in step where another monospaced font stands in
        length = f' textLength="{len(line) * ADVANCE:.1f}"' if line else ""
        parts.append(f'<text xml:space="preserve" x="{MARGIN}" y="{MARGIN + 26 + LINE * (number + 1) - 6}"{kind}{length}>{escape(line)}</text>')
    return "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    sys.stdout.write(still(sys.argv[1], [line.rstrip() for line in sys.stdin.read().rstrip("\n").split("\n")]))
