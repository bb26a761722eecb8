#!/usr/bin/env bash
# A TCP connection that CRIU has restored sends segments of 524 bytes.
#
# Guess: CRIU saves the peer's limit (mss_clamp of its image) and sets it again, so that segments are as long as before.
# Seen: the limit is set (TCP_REPAIR_OPTIONS) after the kernel has computed the segment size from its default of 536 bytes, less
# 12 for timestamps. The kernel computes anew only when the path's MTU changes or the peer's window grows beyond the largest
# that was saved: on a connection whose windows are full-grown that never comes, and so it stays slow.
# Where hiber's users meet it: they do not: hiber has the kernel compute anew (crates/runtime/src/checkpoint/kept/sockets.rs).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need forky criu-4.2.1 criu=4.2.1-1

compiled pair <<'C'
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	close_range(3, ~0U, 0);
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof name;
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), server;
	bind(listener, (void *)&name, sizeof name);
	listen(listener, 1);
	getsockname(listener, (void *)&name, &length);
	connect(client, (void *)&name, sizeof name);
	server = accept(listener, NULL, NULL);
	/* some traffic both ways: the windows have been told */
	for (int i = 0; i < 100; i++) {
		static char block[100000];
		int got = 0;
		write(client, block, 1000);
		while (got < 1000)
			got += read(server, block, 1000);
		write(server, block, 1000);
		for (got = 0; got < 1000;)
			got += read(client, block, 1000);
	}
	for (;;) {
		struct tcp_info info = { 0 };
		length = sizeof info;
		getsockopt(server, IPPROTO_TCP, TCP_INFO, &info, &length);
		FILE *file = fopen("mss.new", "w");
		fprintf(file, "%u\n", info.tcpi_snd_mss);
		fclose(file);
		rename("mss.new", "mss");
		usleep(50000);
	}
}
C

cd "$WORK"
mkdir images
cat >inside <<'SH'
set -eu
ip link set lo up
setsid ./pair </dev/null >/dev/null 2>&1 &
pid=$!
sleep 1
cp mss before
for round in 1 2; do
    criu dump --tree "$pid" --images-dir images --tcp-established --network-lock skip >/dev/null 2>&1
    criu restore --images-dir images --tcp-established --restore-detached >/dev/null 2>&1
    sleep 1
done
cp mss after
kill -KILL "$pid"
SH
unshare --net --mount-proc --pid --fork --kill-child sh ./inside
saw "the segments were longer than 1000 bytes" yes "$(awk '{ print ($1 > 1000) ? "yes" : "no" }' before)"
saw "bytes of a segment after two restores" 524 "$(cat after)"
