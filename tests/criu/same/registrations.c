/* What sockets have the kernel do for them: queues of a firewall, groups of sockets, labels, addresses. */
#include "same.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <grp.h>
#include <sys/un.h>

static int fds[3];

/* nfnetlink: a queue of packets, and a log. */

static void bind_netfilter(int subsystem, int number)
{
	struct {
		struct nlmsghdr head;
		struct nfgenmsg generic;
		struct nlattr attribute;
		unsigned char command, pad;
		unsigned short family;
	} bind = {
		{ sizeof bind, subsystem << 8 | (subsystem == 3 ? 2 : 1), NLM_F_REQUEST | NLM_F_ACK, 1, 0 },
		{ AF_INET, 0, htons(number) },
		{ 8, 1 },
		1,
		0,
		htons(AF_INET),
	};
	struct {
		struct nlmsghdr head;
		int error;
		char rest[64];
	} answer;
	fds[0] = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
	if (subsystem == 4)
		bind.attribute.nla_len = 5;
	must(send(fds[0], &bind, sizeof bind, 0));
	must(recv(fds[0], &answer, sizeof answer, 0));
	errno = -answer.error;
	must(answer.error ? -1 : 0);
}

static void make_queue(void)
{
	bind_netfilter(3 /* NFNL_SUBSYS_QUEUE */, 77);
}

static void say_first_words(const char *path)
{
	char *text = file(path), *rest = text, *line;
	while ((line = strsep(&rest, "\n")))
		say("%.6s ", line);
	free(text);
}

static void show_queue(void)
{
	say_first_words("/proc/net/netfilter/nfnetlink_queue");
}

static void make_log(void)
{
	bind_netfilter(4 /* NFNL_SUBSYS_ULOG */, 78);
}

static void show_log(void)
{
	say_first_words("/proc/net/netfilter/nfnetlink_log");
}

/* Packet sockets that share what comes. */
static void make_fanout(void)
{
	for (int i = 0; i < 2; i++) {
		struct sockaddr_ll any = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = 1 };
		int fanout = 7 | 2 /* PACKET_FANOUT_CPU */ << 16;
		fds[i] = must(socket(AF_PACKET, SOCK_RAW, 0));
		must(bind(fds[i], (void *)&any, sizeof any));
		must(setsockopt(fds[i], SOL_PACKET, PACKET_FANOUT, &fanout, sizeof fanout));
	}
}

static void show_fanout(void)
{
	say_option(fds[0], SOL_PACKET, PACKET_FANOUT, 4);
	say_option(fds[1], SOL_PACKET, PACKET_FANOUT, 4);
}

static void make_packet_options(void)
{
	static const int options[] = { PACKET_ORIGDEV, PACKET_LOSS };
	fds[0] = must(socket(AF_PACKET, SOCK_RAW, 0));
	for (size_t i = 0; i < COUNT(options); i++)
		must(setsockopt(fds[0], SOL_PACKET, options[i], &(int){ 1 }, sizeof(int)));
}

static void show_packet_options(void)
{
	say_option(fds[0], SOL_PACKET, PACKET_ORIGDEV, 4);
	say_option(fds[0], SOL_PACKET, PACKET_LOSS, 4);
}

/* Which version of a ring's headers, and how long they are with it. */
static void make_version(void)
{
	fds[0] = must(socket(AF_PACKET, SOCK_RAW, 0));
	must(setsockopt(fds[0], SOL_PACKET, PACKET_VERSION, &(int){ TPACKET_V2 }, sizeof(int)));
}

static void show_version(void)
{
	say_option(fds[0], SOL_PACKET, PACKET_VERSION, 4);
}

/* A label of flows that this socket alone may use (RFC 6437). */
static void make_label(void)
{
	struct {
		struct in6_addr to;
		unsigned label;
		unsigned char action, share;
		unsigned short flags, expires, linger;
		unsigned pad;
	} request = { IN6ADDR_LOOPBACK_INIT, htonl(0x12345), 0 /* IPV6_FL_A_GET */, 1 /* IPV6_FL_S_EXCL */, 1 /* IPV6_FL_F_CREATE */, 600, 60, 0 };
	fds[0] = must(socket(AF_INET6, SOCK_DGRAM, 0));
	must(setsockopt(fds[0], IPPROTO_IPV6, 32 /* IPV6_FLOWLABEL_MGR */, &request, sizeof request));
}

static void show_label(void)
{
	char *text = file("/proc/net/ip6_flowlabel");
	say("%s", strstr(text, "12345") ? "leased" : "free");
	free(text);
}

static void make_anycast(void)
{
	struct ipv6_mreq group = { .ipv6mr_interface = 1 };
	must(system("ip -6 address add fd55::1/64 dev lo") ? -1 : 0);
	must(inet_pton(AF_INET6, "fd55::5", &group.ipv6mr_multiaddr) == 1 ? 0 : -1);
	fds[0] = must(socket(AF_INET6, SOCK_DGRAM, 0));
	must(setsockopt(fds[0], IPPROTO_IPV6, IPV6_JOIN_ANYCAST, &group, sizeof group));
}

static void show_anycast(void)
{
	char *text = file("/proc/net/anycast6");
	say("%s", strstr(text, "fd550000") ? "joined" : "left");
	free(text);
}

/* A socket of UDP whose packets are taken for IPsec's. */
static void make_encapsulation(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(4500) };
	fds[0] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(bind(fds[0], (void *)&any, sizeof any));
	must(setsockopt(fds[0], IPPROTO_UDP, 100 /* UDP_ENCAP */, &(int){ 2 /* UDP_ENCAP_ESPINUDP */ }, sizeof(int)));
}

static void show_encapsulation(void)
{
	say_option(fds[0], IPPROTO_UDP, 100, 4);
}

/* How many connections may wait. */
static struct sockaddr_un name;
static socklen_t name_length = sizeof name;

static void make_backlog(void)
{
	fds[0] = must(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	name.sun_family = AF_UNIX;
	must(bind(fds[0], (void *)&name, sizeof name.sun_family));
	must(listen(fds[0], 3));
	must(getsockname(fds[0], (void *)&name, &name_length));
}

static void show_backlog(void)
{
	int connected[16], count = 0, one;
	do
		connected[count] = must(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	while (!connect(connected[count++], (void *)&name, name_length) && count < 16);
	say("%d", count - 1);
	while (count--)
		close(connected[count]);
	while ((one = accept(fds[0], NULL, NULL)) >= 0)
		close(one);
}

/* A connection whose near end was closed while much of what it had sent was on its way. */
static long sent;

static void make_closing(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof at;
	static char many[1 << 16];
	int listener = must(socket(AF_INET, SOCK_STREAM, 0)), near;
	must(bind(listener, (void *)&at, sizeof at));
	must(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &(int){ 4096 }, sizeof(int)));
	must(listen(listener, 1));
	must(getsockname(listener, (void *)&at, &length));
	near = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(near, (void *)&at, length));
	fds[0] = must(accept(listener, NULL, NULL));
	fcntl(near, F_SETFL, O_NONBLOCK);
	for (long now; (now = send(near, many, sizeof many, 0)) > 0;)
		sent += now;
	close(near);
	close(listener);
	usleep(100000);
}

static void show_closing(void)
{
	static char many[1 << 16];
	struct timeval patience = { 1, 0 };
	long got = 0, now;
	/* what was got is not there the next time */
	static int asked;
	if (!asked++) {
		say("all");
		return;
	}
	must(setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
	while ((now = recv(fds[0], many, sizeof many, 0)) > 0)
		got += now;
	sent -= got;
	say("%s", sent ? "a part" : "all");
}

static void make_bound_by_scope(void)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons(4713), .sin6_scope_id = 1 };
	must(inet_pton(AF_INET6, "fe80::4", &at.sin6_addr) == 1 ? 0 : -1);
	fds[0] = must(socket(AF_INET6, SOCK_DGRAM, 0));
	must(setsockopt(fds[0], IPPROTO_IPV6, 78 /* IPV6_FREEBIND */, &(int){ 1 }, sizeof(int)));
	must(bind(fds[0], (void *)&at, sizeof at));
}

static void show_bound_by_scope(void)
{
	struct sockaddr_in6 at;
	socklen_t length = sizeof at;
	must(getsockname(fds[0], (void *)&at, &length));
	say("%d %u", ntohs(at.sin6_port), at.sin6_scope_id);
}

/* Groups of the process that made a connection. */
static void make_peer_groups(void)
{
	gid_t groups[] = { 5, 7 };
	must(setgroups(2, groups));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static void show_peer_groups(void)
{
	say_option(fds[0], SOL_SOCKET, 59 /* SO_PEERGROUPS */, 16);
}

static void make_peer_pidfd(void)
{
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static void show_peer_pidfd(void)
{
	int pidfd;
	char path[64];
	socklen_t length = sizeof pidfd;
	must(getsockopt(fds[0], SOL_SOCKET, 77 /* SO_PEERPIDFD */, &pidfd, &length));
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	char *text = file(path), *pid = strstr(text, "Pid:");
	say("%s", pid && atoi(pid + 4) == getpid() ? "own" : "another's");
	free(text);
	close(pidfd);
}

const struct property registrations[] = {
	{ "queue-of-packets", make_queue, show_queue },
	{ "log-of-packets", make_log, show_log },
	{ "packet-fanout", make_fanout, show_fanout },
	{ "packet-origdev-and-loss", make_packet_options, show_packet_options },
	{ "packet-version", make_version, show_version },
	{ "flow-label", make_label, show_label },
	{ "anycast-address", make_anycast, show_anycast },
	{ "udp-encapsulation", make_encapsulation, show_encapsulation },
	{ "unix-backlog", make_backlog, show_backlog },
	{ "tcp-closing", make_closing, show_closing },
	{ "bound-by-scope", make_bound_by_scope, show_bound_by_scope },
	{ "unix-peer-groups", make_peer_groups, show_peer_groups },
	{ "unix-peer-pidfd", make_peer_pidfd, show_peer_pidfd },
	{ 0 },
};
