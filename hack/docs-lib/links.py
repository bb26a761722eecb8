"""Checks the links of the Markdown files: a file that a link names must be there, and so must a heading that it names in one.

links.py REPOSITORY: prints each broken link as FILE:LINE: TARGET: REASON; exit status 1 if there is one. Links to other hosts are not
followed. Pages of docs/ must be listed in docs/SUMMARY.md, else the book would not have them. A path in backquotes, such as
`state/store.rs`, must lead to a file, from the repository or from one of the directories in BASES.
"""

import os
import re
import sys

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
PATH = re.compile(r"`((?:[a-z][\w-]*/[\w./-]*(?:\.(?:rs|md|svg|8)|/))|(?:hack/[\w-]+))`")
CRATES = [f"crates/{name}" for name in ("runtime", "cli", "sandbox", "sys", "memory", "store", "criu", "shim")]
BASES = ["", "crates", "tests", "tests/youki", *CRATES, *(f"{crate}/src" for crate in CRATES)]
# It tells of files that are gone.
HISTORY = "CHANGELOG.md"
FENCE = re.compile(r"^\s*(```|~~~)")


def lines_of(path):
    """Numbers and lines that are prose, without blocks of code."""
    fenced = False
    with open(path) as file:
        for number, line in enumerate(file, 1):
            if FENCE.match(line):
                fenced = not fenced
            elif not fenced and not line.startswith("    "):
                yield number, line


def anchors(path):
    """The anchors that the headings of a page have, by the rule that forges and mdBook share."""
    found, fenced = set(), False
    with open(path) as file:
        for line in file:
            if FENCE.match(line):
                fenced = not fenced
            elif not fenced and (heading := re.match(r"#{1,6}\s+(.*)", line)):
                text = re.sub(r"[^\w\- ]", "", heading[1].strip().lower())
                found.add(text.replace(" ", "-"))
    return found


def problem(repository, page, target):
    """Why a link of a page is broken; None if it is not."""
    if re.match(r"(https?|mailto):", target):
        return None
    path, _, anchor = target.partition("#")
    if path.startswith("/"):
        return "an absolute path"
    file = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    if file.startswith(".."):
        return "leads out of the repository"
    full = os.path.join(repository, file)
    if not os.path.exists(full):
        return "no such file"
    if anchor and anchor not in anchors(full):
        return f"{file} has no such heading"
    return None


def check(repository):
    pages = []
    for directory, below, files in os.walk(repository):
        below[:] = [name for name in below if name not in ("target", ".git")]
        pages += [os.path.relpath(os.path.join(directory, name), repository) for name in files if name.endswith(".md")]
    pages.sort()
    broken, count, in_book = [], 0, set()
    for page in pages:
        for number, line in lines_of(os.path.join(repository, page)):
            for path in PATH.findall(line) if page != HISTORY else []:
                count += 1
                if not any(os.path.exists(os.path.join(repository, base, path)) for base in BASES):
                    broken.append(f"{page}:{number}: `{path}`: no such file")
            for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
                count += 1
                if page == "docs/SUMMARY.md":
                    in_book.add(os.path.normpath(os.path.join("docs", target)))
                why = problem(repository, page, target)
                if why:
                    broken.append(f"{page}:{number}: {target}: {why}")
    missing = [page for page in pages if page.startswith("docs/") and page not in in_book | {"docs/SUMMARY.md"}]
    broken += [f"{page}: not listed in docs/SUMMARY.md" for page in missing]
    print("\n".join(broken) if broken else f"{count} links and paths in {len(pages)} pages")
    return 1 if broken or not count else 0


if __name__ == "__main__":
    sys.exit(check(sys.argv[1]))
