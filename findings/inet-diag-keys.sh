#!/usr/bin/env bash
# The kernel tells the keys of TCP_MD5SIG only to those who ask for something else.
#
# Guess: sock_diag(7) gives a reader with CAP_NET_ADMIN the attribute INET_DIAG_MD5SIG of each TCP socket with keys, as it gives such a
# reader INET_DIAG_MARK: the attribute's number, 18, has no place among the 8 bits by which a request asks for extensions.
# Seen: it comes beside INET_DIAG_INFO alone. A request without that extension gets the mark, and no word of keys.
# Where hiber's users meet it: keys of BGP daemons, which hiber keeps (crates/sandbox/src/network/signatures.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
printf 'Linux %s\n' "$(uname -r)"

cat >"$WORK/ask" <<'PY'
import os, socket, struct
MD5SIG, BY_FAMILY, DUMP = 14, 20, 0x301
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
address = struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton("127.0.0.1")).ljust(128, b"\0")
listener.setsockopt(socket.IPPROTO_TCP, MD5SIG, address + struct.pack("=BBHi", 0, 0, 3, 0) + b"key".ljust(80, b"\0"))
listener.listen(5)
inode = os.fstat(listener.fileno()).st_ino

def kinds(extensions):
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    ask = struct.pack("=BBBBI48s", socket.AF_INET, socket.IPPROTO_TCP, extensions, 0, 0xffffffff, b"")
    diag.send(struct.pack("=IHHII", 16 + len(ask), BY_FAMILY, DUMP, 1, 0) + ask)
    found = set()
    while True:
        packet, at = diag.recv(1 << 16), 0
        while at < len(packet):
            length, kind = struct.unpack_from("=IH", packet, at)
            if kind in (2, 3):
                return found
            message = packet[at + 16:at + length]
            rest = message[72:] if struct.unpack_from("=I", message, 68)[0] == inode else b""
            while len(rest) >= 4:
                size, name = struct.unpack_from("=HH", rest)
                found.add(name)
                rest = rest[(size + 3) & ~3:]
            at += (length + 3) & ~3

MARK, KEYS, INFO = 15, 18, 1 << 1
for extensions in (0, 0xff & ~INFO, INFO):
    print(*(int(kind in kinds(extensions)) for kind in (MARK, KEYS)))
PY
mapfile -t told < <(python3 "$WORK/ask")
saw "mark and keys, without extensions" "1 0" "${told[0]}"
saw "mark and keys, with all but INET_DIAG_INFO" "1 0" "${told[1]}"
saw "mark and keys, with INET_DIAG_INFO alone" "1 1" "${told[2]}"
