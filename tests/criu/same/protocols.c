/* Sockets of rarer protocols, keys of TCP, errors that wait, and what is told beside data. */
#include "same.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int fds[4];

#define NUMBER(name, sock, level, number, value) \
	static void make_##name(void) \
	{ \
		fds[0] = must(socket sock); \
		must(setsockopt(fds[0], level, number, &(int){ value }, sizeof(int))); \
	} \
	static void show_##name(void) \
	{ \
		say_option(fds[0], level, number, sizeof(int)); \
	}

NUMBER(icmp_filter, (AF_INET, SOCK_RAW, IPPROTO_ICMP), SOL_RAW, 1 /* ICMP_FILTER */, ~0x100)
NUMBER(ip_nodefrag, (AF_INET, SOCK_RAW, 253), IPPROTO_IP, 22 /* IP_NODEFRAG */, 1)
NUMBER(ipv6_hdrincl, (AF_INET6, SOCK_RAW, 253), IPPROTO_IPV6, 36 /* IPV6_HDRINCL */, 1)
NUMBER(so_buf_lock, (AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, 72 /* SO_BUF_LOCK */, 1)
NUMBER(so_dontroute, (AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_DONTROUTE, 1)
NUMBER(packet_vnet, (AF_PACKET, SOCK_RAW, 0), SOL_PACKET, PACKET_VNET_HDR, 1)
NUMBER(packet_reserve, (AF_PACKET, SOCK_RAW, 0), SOL_PACKET, PACKET_RESERVE, 64)
NUMBER(packet_timestamp, (AF_PACKET, SOCK_RAW, 0), SOL_PACKET, PACKET_TIMESTAMP, 64)

/* A packet socket that gets what is not for the device. The kernel counts who asks for that. */
static void make_promiscuous(void)
{
	struct packet_mreq all = { .mr_ifindex = 1, .mr_type = PACKET_MR_PROMISC };
	fds[0] = must(socket(AF_PACKET, SOCK_RAW, 0));
	must(setsockopt(fds[0], SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all));
}

static void show_promiscuous(void)
{
	struct packet_mreq all = { .mr_ifindex = 1, .mr_type = PACKET_MR_PROMISC };
	say_result(setsockopt(fds[0], SOL_PACKET, PACKET_DROP_MEMBERSHIP, &all, sizeof all));
	say_result(setsockopt(fds[0], SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all));
}

/* One whose packets lie in mapped memory. */
static void *ring;

static void make_ring(void)
{
	struct tpacket_req size = { 4096, 2, 2048, 4 };
	fds[0] = must(socket(AF_PACKET, SOCK_RAW, 0));
	must(setsockopt(fds[0], SOL_PACKET, PACKET_RX_RING, &size, sizeof size));
	ring = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	must(ring == MAP_FAILED ? -1 : 0);
}

static void show_ring(void)
{
	say("%d ", *(int *)ring);
}

/* Keys of TCP, as the kernel tells them to those who may know. */
static void say_keys(int fd)
{
	struct stat is;
	struct { struct nlmsghdr head; struct inet_diag_req_v2 ask; } request = {
		{ sizeof request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 },
		{ .sdiag_protocol = IPPROTO_TCP, .idiag_ext = 1 << (INET_DIAG_INFO - 1), .idiag_states = -1 },
	};
	socklen_t length = sizeof(int);
	int family, done = 0;
	static char answer[1 << 16];
	must(fstat(fd, &is));
	must(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length));
	request.ask.sdiag_family = family;
	int diag = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
	must(send(diag, &request, sizeof request, 0));
	while (!done) {
		unsigned left = must(recv(diag, answer, sizeof answer, 0));
		for (struct nlmsghdr *m = (void *)answer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
			struct inet_diag_msg *socket = NLMSG_DATA(m);
			if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR) {
				done = 1;
				break;
			}
			if (socket->idiag_inode != is.st_ino)
				continue;
			int rest = m->nlmsg_len - NLMSG_LENGTH(sizeof *socket);
			for (struct nlattr *a = (void *)(socket + 1); rest >= (int)sizeof *a; rest -= NLA_ALIGN(a->nla_len), a = (void *)((char *)a + NLA_ALIGN(a->nla_len))) {
				if (a->nla_type != 18 /* INET_DIAG_MD5SIG */)
					continue;
				unsigned char *key = (void *)(a + 1);
				for (int at = 0; at + 100 <= a->nla_len - 4; at += 100)
					say("%d/%d %02x%02x%02x%02x %.*s ", key[at], key[at + 1], key[at + 4], key[at + 5], key[at + 6], key[at + 7],
					    *(unsigned short *)(key + at + 2), key + at + 20);
			}
		}
	}
	close(diag);
}

static void set_key(int fd, const char *address, int prefix, const char *text)
{
	struct tcp_md5sig key = { .tcpm_flags = TCP_MD5SIG_FLAG_PREFIX, .tcpm_prefixlen = prefix, .tcpm_keylen = strlen(text) };
	struct sockaddr_in *four = (void *)&key.tcpm_addr;
	struct sockaddr_in6 *six = (void *)&key.tcpm_addr;
	if (inet_pton(AF_INET, address, &four->sin_addr) == 1)
		four->sin_family = AF_INET;
	else {
		must(inet_pton(AF_INET6, address, &six->sin6_addr) - 1);
		six->sin6_family = AF_INET6;
	}
	memcpy(key.tcpm_key, text, strlen(text));
	must(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG_EXT, &key, sizeof key));
}

static void make_signed_listener(void)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	fds[0] = must(socket(AF_INET, SOCK_STREAM, 0));
	must(bind(fds[0], (void *)&name, sizeof name));
	set_key(fds[0], "10.0.0.0", 8, "a key for a network");
	set_key(fds[0], "127.0.0.1", 32, "key");
	must(listen(fds[0], 5));
}

static void show_signed_listener(void)
{
	say_keys(fds[0]);
}

static void make_signed_listener6(void)
{
	struct sockaddr_in6 name = { .sin6_family = AF_INET6 };
	fds[0] = must(socket(AF_INET6, SOCK_STREAM, 0));
	must(bind(fds[0], (void *)&name, sizeof name));
	set_key(fds[0], "::ffff:10.9.0.0", 16, "one of IPv4");
	set_key(fds[0], "fd00::", 8, "0123456789012345678901234567890123456789012345678901234567890123456789012345678");
	must(listen(fds[0], 5));
}

static void make_signed(void)
{
	struct sockaddr_in name;
	socklen_t length = sizeof name;
	make_signed_listener();
	must(getsockname(fds[0], (void *)&name, &length));
	fds[1] = must(socket(AF_INET, SOCK_STREAM, 0));
	set_key(fds[1], "127.0.0.1", 32, "key");
	must(connect(fds[1], (void *)&name, length));
	fds[2] = must(accept(fds[0], NULL, NULL));
}

static void show_signed(void)
{
	for (int i = 1; i <= 2; i++) {
		int word = 0;
		say_keys(fds[i]);
		must(send(fds[i], "word", 4, MSG_DONTWAIT));
		struct pollfd other = { fds[3 - i], POLLIN, 0 };
		must(poll(&other, 1, 2000));
		say_result(recv(fds[3 - i], &word, 4, MSG_DONTWAIT));
	}
}

/* A connection that the kernel encrypts. */
static void make_encrypted(void)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof name;
	fds[0] = must(socket(AF_INET, SOCK_STREAM, 0));
	must(bind(fds[0], (void *)&name, length));
	must(listen(fds[0], 5));
	must(getsockname(fds[0], (void *)&name, &length));
	fds[1] = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(fds[1], (void *)&name, length));
	fds[2] = must(accept(fds[0], NULL, NULL));
	must(setsockopt(fds[1], IPPROTO_TCP, TCP_ULP, "tls", 4));
}

static void show_ulp(void)
{
	char name[16] = "";
	socklen_t length = sizeof name;
	must(getsockopt(fds[1], IPPROTO_TCP, TCP_ULP, name, &length));
	say("%s", name);
}

/* One that signs by TCP-AO: struct tcp_ao_add of linux/tcp.h. */
static void make_authenticated(void)
{
	struct {
		struct sockaddr_storage address;
		char algorithm[64];
		int device;
		unsigned flags;
		unsigned short reserved;
		unsigned char prefix, send, receive, length, key_flags, key_length, key[80];
	} __attribute__((aligned(8))) add = { .prefix = 32, .send = 100, .receive = 100, .key_length = 3, .key = "key" };
	struct sockaddr_in *peer = (void *)&add.address;
	peer->sin_family = AF_INET;
	peer->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	strcpy(add.algorithm, "hmac(sha1)");
	fds[0] = must(socket(AF_INET, SOCK_STREAM, 0));
	must(setsockopt(fds[0], IPPROTO_TCP, 38 /* TCP_AO_ADD_KEY */, &add, sizeof add));
	must(listen(fds[0], 5));
}

static void show_authenticated(void)
{
	char info[64] = { 0 };
	socklen_t length = sizeof info;
	say_result(getsockopt(fds[0], IPPROTO_TCP, 40 /* TCP_AO_INFO */, info, &length));
}

/* An error of which the program has not heard: nobody listens where it sends to. */
static void make_udp_error(void)
{
	struct sockaddr_in nobody = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9) };
	fds[0] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(connect(fds[0], (void *)&nobody, sizeof nobody));
	must(send(fds[0], "x", 1, 0));
	struct pollfd error = { fds[0], 0, 0 };
	must(poll(&error, 1, 2000));
}

static void show_error(void)
{
	struct pollfd error = { fds[0], 0, 0 };
	must(poll(&error, 1, 0));
	say("%s", error.revents & POLLERR ? "error" : "none");
}

/* The same, told by the queue of errors (IP_RECVERR). */
static void make_error_queue(void)
{
	struct sockaddr_in nobody = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9) };
	fds[0] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(setsockopt(fds[0], IPPROTO_IP, IP_RECVERR, &(int){ 1 }, sizeof(int)));
	must(sendto(fds[0], "x", 1, 0, (void *)&nobody, sizeof nobody));
	struct pollfd error = { fds[0], 0, 0 };
	must(poll(&error, 1, 2000));
}

/* Unix sockets: a byte out of band, senders of datagrams, and one that hears nothing any more. */
static void make_unix_urgent(void)
{
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	must(send(fds[0], "ab", 2, 0));
	must(send(fds[0], "!", 1, MSG_OOB));
	must(send(fds[0], "cd", 2, 0));
}

static void show_unix_urgent(void)
{
	char text[8] = "";
	int at = 0;
	say_result(recv(fds[1], text, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT));
	say("%s ", text);
	say_result(recv(fds[1], text, 5, MSG_PEEK | MSG_DONTWAIT));
	say("%s ", text);
	ioctl(fds[1], SIOCATMARK, &at);
	say("%d", at);
}

static int bound(const char *name)
{
	struct sockaddr_un is = { .sun_family = AF_UNIX };
	int fd = must(socket(AF_UNIX, SOCK_DGRAM, 0));
	strcpy(is.sun_path + 1, name);
	must(bind(fd, (void *)&is, sizeof(sa_family_t) + 1 + strlen(name)));
	return fd;
}

static void make_senders(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	socklen_t length = sizeof to;
	fds[0] = bound("same-receiver");
	fds[1] = bound("same-sender-1");
	fds[2] = bound("same-sender-2");
	must(getsockname(fds[0], (void *)&to, &length));
	for (int i = 1; i <= 2; i++)
		must(sendto(fds[i], "hello", 5, 0, (void *)&to, length));
}

static void show_senders(void)
{
	for (int i = 1; i <= 2; i++) {
		struct sockaddr_un from = { 0 }, to = { 0 };
		socklen_t length = sizeof from, to_length = sizeof to;
		char text[8] = "";
		must(recvfrom(fds[0], text, 5, MSG_DONTWAIT, (void *)&from, &length));
		say("%s from %s ", text, length > 3 ? from.sun_path + 1 : "nobody");
		/* as before, for the next round */
		must(getsockname(fds[0], (void *)&to, &to_length));
		must(sendto(fds[i], "hello", 5, 0, (void *)&to, to_length));
	}
}

/* The sender is connected, as a client of syslog is. */
static void make_sender(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	socklen_t length = sizeof to;
	fds[0] = bound("same-connected-to");
	fds[1] = bound("same-connected");
	must(getsockname(fds[0], (void *)&to, &length));
	must(connect(fds[1], (void *)&to, length));
	must(send(fds[1], "hello", 5, 0));
}

static void show_sender(void)
{
	struct sockaddr_un from = { 0 };
	socklen_t length = sizeof from;
	char text[8] = "";
	must(recvfrom(fds[0], text, 5, MSG_DONTWAIT, (void *)&from, &length));
	say("%s from %s", text, length > 3 ? from.sun_path + 1 : "nobody");
	must(send(fds[1], "hello", 5, 0));
}

/* A name that was removed, and one that was given in another working directory. */
static void listen_at(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	strcpy(name.sun_path, path);
	fds[0] = must(socket(AF_UNIX, SOCK_STREAM, 0));
	must(bind(fds[0], (void *)&name, sizeof name));
	must(listen(fds[0], 5));
}

static void make_removed_name(void)
{
	listen_at("/removed.socket");
	must(unlink("/removed.socket"));
}

static void show_removed_name(void)
{
	struct sockaddr_un name = { 0 };
	socklen_t length = sizeof name;
	must(getsockname(fds[0], (void *)&name, &length));
	say("%s ", name.sun_path);
	say_result(access("/removed.socket", F_OK));
}

static void make_relative_name(void)
{
	must(mkdir("/relative", 0755));
	must(chdir("/relative"));
	listen_at("a.socket");
	must(chdir("/"));
}

static void show_relative_name(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "/relative/a.socket" };
	int client = must(socket(AF_UNIX, SOCK_STREAM, 0));
	say_result(connect(client, (void *)&name, sizeof name));
	close(must(accept(fds[0], NULL, NULL)));
	close(client);
}

static void make_deaf(void)
{
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	must(shutdown(fds[1], SHUT_RD));
}

static void show_deaf(void)
{
	say_result(send(fds[0], "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL));
}

/* A netlink socket with a usual receiver, and one of ICMP with a number of its own. */
static void make_netlink_peer(void)
{
	struct sockaddr_nl peer = { .nl_family = AF_NETLINK, .nl_groups = 2 };
	fds[0] = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK));
	must(connect(fds[0], (void *)&peer, sizeof peer));
}

static void show_netlink_peer(void)
{
	struct sockaddr_nl peer;
	socklen_t length = sizeof peer;
	must(getpeername(fds[0], (void *)&peer, &length));
	say("%d %x", peer.nl_pid, peer.nl_groups);
}

static void make_ping(void)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(77) };
	write_file("/proc/sys/net/ipv4/ping_group_range", "0 2000");
	fds[0] = must(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
	must(bind(fds[0], (void *)&name, sizeof name));
}

static void show_ping(void)
{
	struct sockaddr_in name;
	socklen_t length = sizeof name;
	must(getsockname(fds[0], (void *)&name, &length));
	say("%d", ntohs(name.sin_port));
}

/* The socket of a daemon that routes multicast: there is one of them. */
static void make_router(void)
{
	fds[0] = must(socket(AF_INET, SOCK_RAW, IPPROTO_IGMP));
	must(setsockopt(fds[0], IPPROTO_IP, 200 /* MRT_INIT */, &(int){ 1 }, sizeof(int)));
}

static void show_router(void)
{
	int version = 0;
	socklen_t length = sizeof version;
	say_result(getsockopt(fds[0], IPPROTO_IP, 206 /* MRT_VERSION */, &version, &length));
	int second = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_IGMP));
	say_result(setsockopt(second, IPPROTO_IP, 200, &(int){ 1 }, sizeof(int)));
	close(second);
}

#define ENTRY(text, name) { text, make_##name, show_##name }
const struct property protocols[] = {
	ENTRY("icmp-filter", icmp_filter),
	ENTRY("ip-nodefrag", ip_nodefrag),
	ENTRY("ipv6-hdrincl", ipv6_hdrincl),
	ENTRY("so-buf-lock", so_buf_lock),
	ENTRY("so-dontroute", so_dontroute),
	ENTRY("packet-vnet-header", packet_vnet),
	ENTRY("packet-reserve", packet_reserve),
	ENTRY("packet-timestamp", packet_timestamp),
	ENTRY("packet-promiscuous", promiscuous),
	ENTRY("packet-ring", ring),
	ENTRY("signed-listener", signed_listener),
	{ "signed-listener6", make_signed_listener6, show_signed_listener },
	ENTRY("signed-connection", signed),
	{ "encrypted-connection", make_encrypted, show_ulp },
	ENTRY("authenticated-listener", authenticated),
	{ "udp-error-untold", make_udp_error, show_error },
	{ "queue-of-errors", make_error_queue, show_error },
	ENTRY("unix-urgent-byte", unix_urgent),
	ENTRY("unix-datagram-senders", senders),
	ENTRY("unix-datagram-sender-connected", sender),
	ENTRY("unix-name-removed", removed_name),
	ENTRY("unix-name-relative", relative_name),
	ENTRY("unix-datagrams-unheard", deaf),
	ENTRY("netlink-peer", netlink_peer),
	ENTRY("ping-number", ping),
	ENTRY("multicast-router", router),
	{ 0 },
};
