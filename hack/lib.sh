# shellcheck shell=bash
# What the scripts in hack/ share. Source it after `set -euo pipefail`.

HACK=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(dirname "$HACK")
# Everything that the scripts download or build, apart from cargo's target directory.
CACHE=${HIBER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hiber}
export HACK REPO CACHE

# Each script's head is its help.
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
fi

say() { printf '%s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

need_root() { [[ $EUID == 0 ]] || die "needs root: $1"; }

# locked NAME: holds the cache's lock NAME from here to the end of the process.
locked() {
    mkdir -p "$CACHE/locks"
    local fd
    exec {fd}>"$CACHE/locks/${1//\//_}"
    flock -w 900 "$fd" || die "another run has held $CACHE/locks/$1 for 15 minutes"
}

# quiet WHAT COMMAND...: runs a command whose output matters only when it fails.
quiet() {
    local what=$1 log
    shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "$what failed: $*"
    fi
    rm -f "$log"
}

# missing_packages NAME...: prints those that the host's dpkg does not have installed.
missing_packages() {
    local have name
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for name; do
        grep -qx "installed $name" <<<"$have" || printf '%s\n' "$name"
    done
}

# host_codename: the Debian suite of this host, such as bookworm.
host_codename() (
    . /etc/os-release
    printf '%s\n' "${VERSION_CODENAME:?/etc/os-release has no VERSION_CODENAME}"
)

# host_mirror: "URI KEYRING" of the archive that this host takes its suite from; KEYRING may be empty.
# Reads both formats of sources.list(5); security and other third archives carry other suites.
host_mirror() {
    local suite files=()
    suite=$(host_codename)
    mapfile -t files < <(find /etc/apt -maxdepth 2 \( -name '*.sources' -o -name 'sources.list' -o -path '*/sources.list.d/*.list' \))
    ((${#files[@]})) || return 1
    awk -v suite="$suite" '
        function flush() {
            if (suites ~ ("(^| )" suite "( |$)") && components ~ /(^| )main( |$)/ && enabled) { print uri, key; found = 1; exit }
            uri = key = suites = components = ""; enabled = 1
        }
        BEGIN { enabled = 1 }
        FNR == 1 { flush() }
        /^#/ { next }
        /^[ \t]*$/ { flush(); next }
        /^deb[ \t]/ {
            line = $0; k = ""
            if (match(line, /signed-by=[^] ]*/)) k = substr(line, RSTART + 10, RLENGTH - 10)
            sub(/\[[^]]*\]/, "", line); n = split(line, w, /[ \t]+/)
            if (w[3] == suite) for (i = 4; i <= n; i++) if (w[i] == "main") { print w[2], k; found = 1; exit }
            next
        }
        { name = tolower($1); value = $2; for (i = 3; i <= NF; i++) value = value " " $i }
        name == "uris:" { split(value, u, " "); uri = u[1] }
        name == "signed-by:" { key = value }
        name == "suites:" { suites = value }
        name == "components:" { components = value }
        name == "enabled:" { enabled = (tolower(value) !~ /^(no|false|0)$/) }
        END { if (!found) flush(); exit !found }
    ' "${files[@]}"
}

# fetch_debs SUITE DIR PACKAGE...: downloads the packages of a Debian suite and all that they depend
# on into DIR. apt is given a state of its own, so that the host's packages, lists and sources are
# neither read nor changed; proxies and the like in the host's apt.conf still count.
fetch_debs() {
    local suite=$1 dir=$2 state="$CACHE/apt/$1" mirror uri key option=()
    shift 2
    command -v apt-get >/dev/null || die "needs apt-get (Debian or a derivative)"
    mirror=$(host_mirror) || die "no source of Debian's $(host_codename) main in /etc/apt to take the mirror from"
    read -r uri key <<<"$mirror"
    : "${key:=/usr/share/keyrings/debian-archive-keyring.gpg}"
    [[ -e $key ]] || key=
    mkdir -p "$state/lists/partial" "$dir/partial"
    : >"$state/status"
    printf 'deb %s%s %s main\n' "${key:+[signed-by=$key] }" "$uri" "$suite" >"$state/sources.list"
    option=(-q -o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::State::Lists=$state/lists"
        -o "Dir::Cache=$state" -o "Dir::Cache::archives=$dir" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache="
        -o "Dir::Etc::sourcelist=$state/sources.list" -o "Dir::Etc::sourceparts=/dev/null"
        -o "Dir::Etc::preferencesparts=/dev/null" -o "Dir::Etc::preferences=/dev/null"
        -o "APT::Sandbox::User=root" -o "Acquire::Languages=none" -o "Acquire::Retries=3"
        -o "APT::Install-Recommends=false" -o "APT::Get::List-Cleanup=false" -o "Debug::NoLocking=true")
    (
        locked "apt-$suite"
        quiet "reading the package lists of Debian $suite" apt-get "${option[@]}" update
        quiet "downloading from Debian $suite" apt-get "${option[@]}" --download-only --yes install "$@"
    ) || exit 1
    rmdir "$dir/partial"
    rm -f "$dir/lock"
}

# unpack_debs DIR ROOT: unpacks every package of DIR below ROOT, with Debian's merged /usr.
unpack_debs() {
    local deb link
    for link in bin sbin lib lib64; do
        mkdir -p "$2/usr/$link"
        ln -sfn "usr/$link" "$2/$link"
    done
    for deb in "$1"/*.deb; do
        # through tar: dpkg-deb -x would replace the links by directories
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$2" --keep-directory-symlink
    done
}

# cargo_static TARGET COMMAND ARGUMENT...: cargo for statically linked programs. An explicit --target keeps the
# flag away from proc-macros and build scripts, which cannot be static; so it is not in
# .cargo/config.toml, where a plain `cargo build` would trip over it. Relative relocations are packed: 20,000
# of them are a tenth of the file otherwise, which every start would read. C's objects that go into it need no C
# library, and so no compiler of musl's. More of rustc's flags are taken from the array `static_flags`.
static_flags=(-C target-feature=+crt-static -C "link-arg=-Wl,-z,pack-relative-relocs")
cargo_static() {
    local target=$1 command=$2 variable
    shift 2
    variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS
    (cd "$REPO" && env "$variable=${static_flags[*]}" \
        "CC_${target//-/_}=${CC:-cc}" cargo "$command" --locked --target "$target" "$@")
}
# commit: the one that is checked out, with a mark if files differ from it; nothing where there is no git.
commit() {
    git -C "$REPO" describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null || true
}
# static_with_names: has cargo_static give functions names that tell all, by which hack/order.ld knows them.
static_with_names() { static_flags+=(-C symbol-mangling-version=v0); }
host_target() { rustc -vV | sed -n 's/^host: //p'; }
# release_target: that of musl, if Rust's standard library for it is there or can be had, else the host's. A program of
# glibc starts later: it asks the processor for all that it can do, which a virtual machine's has to ask its host for.
release_target() {
    local host musl
    host=$(host_target)
    musl=${host%-*}-musl
    if [[ -d $(rustc --print target-libdir --target "$musl") ]] || timeout 120 rustup target add "$musl" >/dev/null 2>&1; then
        printf '%s\n' "$musl"
    else
        say "building for $host, whose programs start later: Rust's standard library for $musl is missing (rustup target add $musl)"
        printf '%s\n' "$host"
    fi
}

# as_read_from_disk PROGRAM...: has them in the page cache as programs are that were read from a disk; a linker leaves
# pages that are mapped otherwise.
as_read_from_disk() {
    local program
    for program; do
        program=$(realpath "$program")
        sync "$program"
        dd of="$program" oflag=nocache conv=notrunc,fdatasync count=0 status=none
        cat "$program" >/dev/null
    done
}
