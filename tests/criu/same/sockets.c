/* Sockets, what is in them, and their options. */
#include "same.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/net_tstamp.h>
#include <linux/netlink.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

/* The sockets of this property's process. */
static int fds[4];

/* What a libc may not know yet: asm-generic/socket.h, linux/{in,in6,tcp,udp}.h. */
enum {
	busy_poll = 46,
	max_pacing_rate = 47,
	incoming_cpu = 49,
	zerocopy = 60,
	txtime = 61,
	prefer_busy_poll = 69,
	txrehash = 74,
	passpidfd = 76,
	passrights = 83,
	recverr_rfc4884 = 26,
	multicast_all = 49,
	local_port_range = 51,
	ipv6_dontfrag = 62,
	ipv6_autoflowlabel = 70,
	ipv6_addr_preferences = 72,
	ipv6_minhopcount = 73,
	ipv6_freebind = 78,
	tcp_save_syn = 27,
	tcp_fastopen_key = 33,
	tcp_inq = 36,
	tcp_tx_delay = 37,
	udp_no_check6_tx = 101,
	udp_segment = 103,
	udp_gro = 104,
	netlink_cap_ack = 10,
	netlink_ext_ack = 11,
	netlink_get_strict_chk = 12,
	packet_qdisc_bypass = 20,
	packet_ignore_outgoing = 23,
};

static void bound(int family, int type)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	fds[0] = must(socket(family, type, 0));
	if (family == AF_INET)
		must(bind(fds[0], (void *)&four, sizeof four));
	else
		must(bind(fds[0], (void *)&six, sizeof six));
	if (type == SOCK_STREAM)
		must(listen(fds[0], 5));
}

static void listener(void)
{
	bound(AF_INET, SOCK_STREAM);
}

static void listener6(void)
{
	bound(AF_INET6, SOCK_STREAM);
}

static void datagram(void)
{
	bound(AF_INET, SOCK_DGRAM);
}

static void datagram6(void)
{
	bound(AF_INET6, SOCK_DGRAM);
}

static void local(void)
{
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static void local_listener(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	fds[0] = must(socket(AF_UNIX, SOCK_STREAM, 0));
	must(bind(fds[0], (void *)&name, sizeof name.sun_family)); /* the kernel chooses one */
	must(listen(fds[0], 5));
}

static void raw6(void)
{
	fds[0] = must(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
}

static void raw6_of_no_protocol(void)
{
	fds[0] = must(socket(AF_INET6, SOCK_RAW, 253 /* for experiments */));
}

/* Not bound yet: then it can be set. */
static void unbound6(void)
{
	fds[0] = must(socket(AF_INET6, SOCK_DGRAM, 0));
}

static void packet(void)
{
	fds[0] = must(socket(AF_PACKET, SOCK_RAW, 0));
}

static void netlink(void)
{
	fds[0] = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
}

static void connection(void)
{
	struct sockaddr_in name;
	socklen_t length = sizeof name;
	listener();
	must(getsockname(fds[0], (void *)&name, &length));
	fds[1] = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(fds[1], (void *)&name, length));
	fds[2] = must(accept(fds[0], NULL, NULL));
}

static void set(int fd, int level, int number, int value)
{
	must(setsockopt(fd, level, number, &value, sizeof value));
}

/* An option that is a number, of the socket that `sock` makes. */
#define NUMBER(name, sock, level, number, value) \
	static void make_##name(void) \
	{ \
		sock(); \
		set(fds[0], level, number, value); \
	} \
	static void show_##name(void) \
	{ \
		say_option(fds[0], level, number, sizeof(int)); \
	}
/* One that is not; `...` is what it is set to, in braces. */
#define BYTES(name, sock, level, number, type, ...) \
	static void make_##name(void) \
	{ \
		type value = __VA_ARGS__; \
		sock(); \
		must(setsockopt(fds[0], level, number, &value, sizeof value)); \
	} \
	static void show_##name(void) \
	{ \
		say_option(fds[0], level, number, sizeof(type)); \
	}

NUMBER(so_reuseport, listener, SOL_SOCKET, SO_REUSEPORT, 1)
NUMBER(so_priority, datagram, SOL_SOCKET, SO_PRIORITY, 5)
NUMBER(so_mark, datagram, SOL_SOCKET, SO_MARK, 77)
NUMBER(so_rcvlowat, listener, SOL_SOCKET, SO_RCVLOWAT, 9)
NUMBER(so_rcvbuf, datagram, SOL_SOCKET, SO_RCVBUF, 40000)
NUMBER(so_broadcast, datagram, SOL_SOCKET, SO_BROADCAST, 1)
NUMBER(so_oobinline, listener, SOL_SOCKET, SO_OOBINLINE, 1)
NUMBER(so_timestamp, datagram, SOL_SOCKET, SO_TIMESTAMP, 1)
NUMBER(so_timestampns, datagram, SOL_SOCKET, SO_TIMESTAMPNS, 1)
NUMBER(so_timestamping, datagram, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE)
NUMBER(so_rxq_ovfl, datagram, SOL_SOCKET, SO_RXQ_OVFL, 1)
NUMBER(so_peek_off, local, SOL_SOCKET, SO_PEEK_OFF, 3)
NUMBER(so_select_err_queue, datagram, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1)
NUMBER(so_busy_poll, datagram, SOL_SOCKET, busy_poll, 50)
NUMBER(so_prefer_busy_poll, datagram, SOL_SOCKET, prefer_busy_poll, 1)
NUMBER(so_incoming_cpu, listener, SOL_SOCKET, incoming_cpu, 1)
NUMBER(so_zerocopy, listener, SOL_SOCKET, zerocopy, 1)
NUMBER(so_txrehash, listener, SOL_SOCKET, txrehash, 0)
BYTES(so_linger, listener, SOL_SOCKET, SO_LINGER, struct linger, { 1, 7 })
BYTES(so_rcvtimeo, datagram, SOL_SOCKET, SO_RCVTIMEO, struct timeval, { 3, 500000 })
BYTES(so_max_pacing_rate, listener, SOL_SOCKET, max_pacing_rate, unsigned long, 123456)
BYTES(so_txtime, datagram, SOL_SOCKET, txtime, struct sock_txtime, { CLOCK_MONOTONIC, SOF_TXTIME_REPORT_ERRORS })
BYTES(so_bindtodevice, datagram, SOL_SOCKET, SO_BINDTODEVICE, struct { char name[16]; }, { "lo" })

NUMBER(ip_tos, datagram, IPPROTO_IP, IP_TOS, 0x10)
NUMBER(ip_ttl, datagram, IPPROTO_IP, IP_TTL, 33)
NUMBER(ip_freebind, datagram, IPPROTO_IP, IP_FREEBIND, 1)
NUMBER(ip_pktinfo, datagram, IPPROTO_IP, IP_PKTINFO, 1)
NUMBER(ip_transparent, datagram, IPPROTO_IP, IP_TRANSPARENT, 1)
NUMBER(ip_recverr, datagram, IPPROTO_IP, IP_RECVERR, 1)
NUMBER(ip_recverr_rfc4884, datagram, IPPROTO_IP, recverr_rfc4884, 1)
NUMBER(ip_mtu_discover, datagram, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
NUMBER(ip_recvttl, datagram, IPPROTO_IP, IP_RECVTTL, 1)
NUMBER(ip_recvtos, datagram, IPPROTO_IP, IP_RECVTOS, 1)
NUMBER(ip_recvorigdstaddr, datagram, IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
NUMBER(ip_minttl, listener, IPPROTO_IP, IP_MINTTL, 254)
NUMBER(ip_local_port_range, datagram, IPPROTO_IP, local_port_range, 40000 << 16 | 30000)
BYTES(ip_options, datagram, IPPROTO_IP, IP_OPTIONS, struct { unsigned char bytes[4]; }, { { IPOPT_NOP, IPOPT_NOP, IPOPT_NOP, IPOPT_END } })

NUMBER(ipv6_v6only, unbound6, IPPROTO_IPV6, IPV6_V6ONLY, 1)
NUMBER(ipv6_recvpktinfo, datagram6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
NUMBER(ipv6_freebind, datagram6, IPPROTO_IPV6, ipv6_freebind, 1)
NUMBER(ipv6_recvhoplimit, datagram6, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
NUMBER(ipv6_unicast_hops, datagram6, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44)
NUMBER(ipv6_tclass, datagram6, IPPROTO_IPV6, IPV6_TCLASS, 0x20)
NUMBER(ipv6_recvtclass, datagram6, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
NUMBER(ipv6_recverr, datagram6, IPPROTO_IPV6, IPV6_RECVERR, 1)
NUMBER(ipv6_mtu_discover, datagram6, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
NUMBER(ipv6_dontfrag, datagram6, IPPROTO_IPV6, ipv6_dontfrag, 1)
NUMBER(ipv6_autoflowlabel, datagram6, IPPROTO_IPV6, ipv6_autoflowlabel, 0)
NUMBER(ipv6_addr_preferences, datagram6, IPPROTO_IPV6, ipv6_addr_preferences, 2)
NUMBER(ipv6_minhopcount, listener6, IPPROTO_IPV6, ipv6_minhopcount, 254)
NUMBER(ip_tos_of_ipv6, datagram6, IPPROTO_IP, IP_TOS, 0x10)
NUMBER(ipv6_checksum, raw6_of_no_protocol, IPPROTO_IPV6, IPV6_CHECKSUM, 2)

NUMBER(tcp_nodelay, listener, IPPROTO_TCP, TCP_NODELAY, 1)
NUMBER(tcp_cork, listener, IPPROTO_TCP, TCP_CORK, 1)
NUMBER(tcp_keepidle, listener, IPPROTO_TCP, TCP_KEEPIDLE, 100)
NUMBER(tcp_defer_accept, listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 10)
NUMBER(tcp_fastopen, listener, IPPROTO_TCP, TCP_FASTOPEN, 5)
NUMBER(tcp_user_timeout, listener, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000)
NUMBER(tcp_notsent_lowat, listener, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384)
NUMBER(tcp_maxseg, listener, IPPROTO_TCP, TCP_MAXSEG, 1000)
NUMBER(tcp_syncnt, listener, IPPROTO_TCP, TCP_SYNCNT, 3)
NUMBER(tcp_linger2, listener, IPPROTO_TCP, TCP_LINGER2, 11)
NUMBER(tcp_window_clamp, listener, IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000)
NUMBER(tcp_quickack, listener6, IPPROTO_TCP, TCP_QUICKACK, 0)
NUMBER(tcp_save_syn, listener, IPPROTO_TCP, tcp_save_syn, 1)
NUMBER(tcp_inq, listener, IPPROTO_TCP, tcp_inq, 1)
NUMBER(tcp_tx_delay, listener, IPPROTO_TCP, tcp_tx_delay, 1000)
BYTES(tcp_fastopen_key, listener, IPPROTO_TCP, tcp_fastopen_key, struct { int key[4]; }, { { 1, 2, 3, 4 } })
BYTES(tcp_congestion, listener, IPPROTO_TCP, TCP_CONGESTION, struct { char name[16]; }, { "reno" })

NUMBER(udp_segment, datagram, IPPROTO_UDP, udp_segment, 500)
NUMBER(udp_gro, datagram, IPPROTO_UDP, udp_gro, 1)
NUMBER(udp_no_check6_tx, datagram6, IPPROTO_UDP, udp_no_check6_tx, 1)

NUMBER(unix_passcred, local, SOL_SOCKET, SO_PASSCRED, 1)
NUMBER(unix_passsec, local_listener, SOL_SOCKET, SO_PASSSEC, 1)
NUMBER(unix_passpidfd, local, SOL_SOCKET, passpidfd, 1)
NUMBER(unix_passrights, local_listener, SOL_SOCKET, passrights, 0)

BYTES(icmp6_filter, raw6, IPPROTO_ICMPV6, ICMP6_FILTER, struct icmp6_filter, { { ~1u, ~2u, ~3u, ~4u, ~0u, ~5u, ~6u, ~7u } } /* and nothing that comes by itself */)
NUMBER(packet_auxdata, packet, SOL_PACKET, PACKET_AUXDATA, 1)
NUMBER(packet_qdisc_bypass, packet, SOL_PACKET, packet_qdisc_bypass, 1)
NUMBER(packet_ignore_outgoing, packet, SOL_PACKET, packet_ignore_outgoing, 1)
NUMBER(netlink_pktinfo, netlink, SOL_NETLINK, NETLINK_PKTINFO, 1)
NUMBER(netlink_no_enobufs, netlink, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
NUMBER(netlink_cap_ack, netlink, SOL_NETLINK, netlink_cap_ack, 1)
NUMBER(netlink_ext_ack, netlink, SOL_NETLINK, netlink_ext_ack, 1)
NUMBER(netlink_strict, netlink, SOL_NETLINK, netlink_get_strict_chk, 1)

/* A filter that lets all through, and that nobody can change. */
static void make_filter(void)
{
	struct sock_filter all[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog program = { COUNT(all), all };
	datagram();
	must(setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}

static void show_filter(void)
{
	struct sock_filter filter[8];
	socklen_t length = COUNT(filter);
	must(getsockopt(fds[0], SOL_SOCKET, SO_GET_FILTER, filter, &length));
	for (socklen_t i = 0; i < length; i++)
		say("%x:%x ", filter[i].code, filter[i].k);
}

static void make_lock_filter(void)
{
	make_filter();
	set(fds[0], SOL_SOCKET, SO_LOCK_FILTER, 1);
}

static void show_lock_filter(void)
{
	say_result(setsockopt(fds[0], SOL_SOCKET, SO_DETACH_FILTER, &(int){ 0 }, sizeof(int)));
}

/* Both set the priority: the later one stays. */
static void make_tos_and_priority(void)
{
	datagram6();
	set(fds[0], IPPROTO_IP, IP_TOS, 0x10);
	set(fds[0], SOL_SOCKET, SO_PRIORITY, 3);
}

static void show_tos_and_priority(void)
{
	say_option(fds[0], IPPROTO_IP, IP_TOS, sizeof(int));
	say_option(fds[0], SOL_SOCKET, SO_PRIORITY, sizeof(int));
}

/* Groups. Of each the socket says how it is in it; then it leaves, as it has come, and comes again. */
static struct ip_mreq any = { .imr_interface.s_addr = 0x0100007f };
static struct ip_mreqn by_index = { .imr_ifindex = 1 };
static struct ip_mreq_source source = { .imr_interface.s_addr = 0x0100007f };
static struct ipv6_mreq six = { .ipv6mr_interface = 1 };

static void make_group(void)
{
	inet_pton(AF_INET, "239.1.2.3", &any.imr_multiaddr);
	datagram();
	must(setsockopt(fds[0], IPPROTO_IP, IP_ADD_MEMBERSHIP, &any, sizeof any));
}

static void show_group(void)
{
	say_result(setsockopt(fds[0], IPPROTO_IP, IP_DROP_MEMBERSHIP, &any, sizeof any));
	say_result(setsockopt(fds[0], IPPROTO_IP, IP_ADD_MEMBERSHIP, &any, sizeof any));
}

static void make_group_by_index(void)
{
	inet_pton(AF_INET, "239.1.2.4", &by_index.imr_multiaddr);
	datagram();
	must(setsockopt(fds[0], IPPROTO_IP, IP_ADD_MEMBERSHIP, &by_index, sizeof by_index));
}

static void show_group_by_index(void)
{
	say_result(setsockopt(fds[0], IPPROTO_IP, IP_DROP_MEMBERSHIP, &by_index, sizeof by_index));
	say_result(setsockopt(fds[0], IPPROTO_IP, IP_ADD_MEMBERSHIP, &by_index, sizeof by_index));
}

static void show_sources(void)
{
	struct { struct ip_msfilter head; struct in_addr more[7]; } filter = { { .imsf_numsrc = 8 } };
	socklen_t length = sizeof filter;
	filter.head.imsf_multiaddr = source.imr_multiaddr;
	filter.head.imsf_interface = source.imr_interface;
	must(getsockopt(fds[0], IPPROTO_IP, 41 /* IP_MSFILTER */, &filter, &length));
	say("%s", filter.head.imsf_fmode == MCAST_INCLUDE ? "include" : "exclude");
	for (unsigned i = 0; i < filter.head.imsf_numsrc; i++)
		say(" %s", inet_ntoa((&filter.head.imsf_slist[0])[i]));
}

static void make_source_group(void)
{
	inet_pton(AF_INET, "232.1.2.5", &source.imr_multiaddr);
	datagram();
	for (int i = 1; i <= 2; i++) {
		source.imr_sourceaddr.s_addr = htonl(0x0a000000 + i);
		must(setsockopt(fds[0], IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &source, sizeof source));
	}
}

static void make_blocked_source(void)
{
	make_group();
	source.imr_multiaddr = any.imr_multiaddr;
	source.imr_sourceaddr.s_addr = htonl(0x0a000009);
	must(setsockopt(fds[0], IPPROTO_IP, IP_BLOCK_SOURCE, &source, sizeof source));
}

static void make_group6(void)
{
	inet_pton(AF_INET6, "ff05::123", &six.ipv6mr_multiaddr);
	datagram6();
	must(setsockopt(fds[0], IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &six, sizeof six));
}

static void show_group6(void)
{
	say_result(setsockopt(fds[0], IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &six, sizeof six));
	say_result(setsockopt(fds[0], IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &six, sizeof six));
}

static void make_multicast(void)
{
	struct in_addr lo = { htonl(INADDR_LOOPBACK) };
	datagram();
	must(setsockopt(fds[0], IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo));
	set(fds[0], IPPROTO_IP, IP_MULTICAST_TTL, 7);
	set(fds[0], IPPROTO_IP, IP_MULTICAST_LOOP, 0);
	set(fds[0], IPPROTO_IP, multicast_all, 0);
}

static void show_multicast(void)
{
	say_option(fds[0], IPPROTO_IP, IP_MULTICAST_IF, sizeof(struct in_addr));
	say_option(fds[0], IPPROTO_IP, IP_MULTICAST_TTL, sizeof(int));
	say_option(fds[0], IPPROTO_IP, IP_MULTICAST_LOOP, sizeof(int));
	say_option(fds[0], IPPROTO_IP, multicast_all, sizeof(int));
}

static void make_multicast6(void)
{
	datagram6();
	set(fds[0], IPPROTO_IPV6, IPV6_MULTICAST_IF, 1);
	set(fds[0], IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 12);
	set(fds[0], IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0);
}

static void show_multicast6(void)
{
	say_option(fds[0], IPPROTO_IPV6, IPV6_MULTICAST_IF, sizeof(int));
	say_option(fds[0], IPPROTO_IPV6, IPV6_MULTICAST_HOPS, sizeof(int));
	say_option(fds[0], IPPROTO_IPV6, IPV6_MULTICAST_LOOP, sizeof(int));
}

/* A connection: options that it has since it was made, and those of its accepted end. */
static void make_connection_options(void)
{
	connection();
	for (int i = 1; i <= 2; i++) {
		set(fds[i], IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);
		set(fds[i], IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384);
		set(fds[i], IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000);
		must(setsockopt(fds[i], IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
		set(fds[i], IPPROTO_TCP, tcp_inq, 1);
		set(fds[i], SOL_SOCKET, SO_TIMESTAMP, 1);
		set(fds[i], IPPROTO_IP, IP_RECVTTL, 1);
	}
}

static void show_connection_options(void)
{
	for (int i = 1; i <= 2; i++) {
		say_option(fds[i], IPPROTO_TCP, TCP_USER_TIMEOUT, sizeof(int));
		say_option(fds[i], IPPROTO_TCP, TCP_NOTSENT_LOWAT, sizeof(int));
		say_option(fds[i], IPPROTO_TCP, TCP_WINDOW_CLAMP, sizeof(int));
		say_option(fds[i], IPPROTO_TCP, TCP_CONGESTION, 4);
		say_option(fds[i], IPPROTO_TCP, tcp_inq, sizeof(int));
		say_option(fds[i], SOL_SOCKET, SO_TIMESTAMP, sizeof(int));
		say_option(fds[i], IPPROTO_IP, IP_RECVTTL, sizeof(int));
	}
}

static void show_connection_reuse(void)
{
	for (int i = 1; i <= 2; i++) {
		say_option(fds[i], SOL_SOCKET, SO_REUSEADDR, sizeof(int));
		say_option(fds[i], SOL_SOCKET, SO_REUSEPORT, sizeof(int));
	}
}

/* How long the segments are that either end sends. */
static void make_segments(void)
{
	connection();
	for (int i = 1; i <= 2; i++) {
		must(write(fds[i], "word", 4));
		must(read(fds[3 - i], &(int){ 0 }, 4));
	}
}

static void show_segments(void)
{
	for (int i = 1; i <= 2; i++) {
		struct tcp_info info;
		socklen_t length = sizeof info;
		must(getsockopt(fds[i], IPPROTO_TCP, TCP_INFO, &info, &length));
		say("%s ", info.tcpi_snd_mss > 10000 ? "long" : "short");
	}
}

/* One socket in two processes and under two numbers. */
static void make_shared(void)
{
	listener();
	fds[1] = must(dup(fds[0]));
	child(forever);
	set(fds[0], IPPROTO_TCP, TCP_DEFER_ACCEPT, 10);
}

static void show_shared(void)
{
	say_option(fds[1], IPPROTO_TCP, TCP_DEFER_ACCEPT, sizeof(int));
	set(fds[0], IPPROTO_TCP, TCP_USER_TIMEOUT, 1234);
	say_option(fds[1], IPPROTO_TCP, TCP_USER_TIMEOUT, sizeof(int));
}

/* Made by another user than who has it. */
static void make_peer_credentials(void)
{
	must(seteuid(1000));
	local();
	must(seteuid(0));
}

static void show_peer_credentials(void)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	must(getsockopt(fds[0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
	say("user %d", peer.uid);
}

#define ENTRY(text, name) { text, make_##name, show_##name }
const struct property sockets[] = {
	ENTRY("so-reuseport", so_reuseport),
	ENTRY("so-priority", so_priority),
	ENTRY("so-mark", so_mark),
	ENTRY("so-rcvlowat", so_rcvlowat),
	ENTRY("so-rcvbuf", so_rcvbuf),
	ENTRY("so-broadcast", so_broadcast),
	ENTRY("so-oobinline", so_oobinline),
	ENTRY("so-linger", so_linger),
	ENTRY("so-rcvtimeo", so_rcvtimeo),
	ENTRY("so-bindtodevice", so_bindtodevice),
	ENTRY("so-attach-filter", filter),
	ENTRY("so-lock-filter", lock_filter),
	ENTRY("so-timestamp", so_timestamp),
	ENTRY("so-timestampns", so_timestampns),
	ENTRY("so-timestamping", so_timestamping),
	ENTRY("so-rxq-ovfl", so_rxq_ovfl),
	ENTRY("so-peek-off", so_peek_off),
	ENTRY("so-select-err-queue", so_select_err_queue),
	ENTRY("so-busy-poll", so_busy_poll),
	ENTRY("so-prefer-busy-poll", so_prefer_busy_poll),
	ENTRY("so-incoming-cpu", so_incoming_cpu),
	ENTRY("so-zerocopy", so_zerocopy),
	ENTRY("so-txrehash", so_txrehash),
	ENTRY("so-max-pacing-rate", so_max_pacing_rate),
	ENTRY("so-txtime", so_txtime),
	ENTRY("ip-tos", ip_tos),
	ENTRY("ip-ttl", ip_ttl),
	ENTRY("ip-freebind", ip_freebind),
	ENTRY("ip-pktinfo", ip_pktinfo),
	ENTRY("ip-transparent", ip_transparent),
	ENTRY("ip-recverr", ip_recverr),
	ENTRY("ip-recverr-rfc4884", ip_recverr_rfc4884),
	ENTRY("ip-mtu-discover", ip_mtu_discover),
	ENTRY("ip-recvttl", ip_recvttl),
	ENTRY("ip-recvtos", ip_recvtos),
	ENTRY("ip-recvorigdstaddr", ip_recvorigdstaddr),
	ENTRY("ip-minttl", ip_minttl),
	ENTRY("ip-local-port-range", ip_local_port_range),
	ENTRY("ip-options", ip_options),
	ENTRY("ipv6-v6only", ipv6_v6only),
	ENTRY("ipv6-recvpktinfo", ipv6_recvpktinfo),
	ENTRY("ipv6-freebind", ipv6_freebind),
	ENTRY("ipv6-recvhoplimit", ipv6_recvhoplimit),
	ENTRY("ipv6-unicast-hops", ipv6_unicast_hops),
	ENTRY("ipv6-tclass", ipv6_tclass),
	ENTRY("ipv6-recvtclass", ipv6_recvtclass),
	ENTRY("ipv6-recverr", ipv6_recverr),
	ENTRY("ipv6-mtu-discover", ipv6_mtu_discover),
	ENTRY("ipv6-dontfrag", ipv6_dontfrag),
	ENTRY("ipv6-autoflowlabel", ipv6_autoflowlabel),
	ENTRY("ipv6-addr-preferences", ipv6_addr_preferences),
	ENTRY("ipv6-minhopcount", ipv6_minhopcount),
	ENTRY("ipv6-checksum", ipv6_checksum),
	ENTRY("ip-tos-of-ipv6", ip_tos_of_ipv6),
	ENTRY("ip-tos-and-priority", tos_and_priority),
	ENTRY("tcp-nodelay", tcp_nodelay),
	ENTRY("tcp-cork", tcp_cork),
	ENTRY("tcp-keepidle", tcp_keepidle),
	ENTRY("tcp-defer-accept", tcp_defer_accept),
	ENTRY("tcp-fastopen", tcp_fastopen),
	ENTRY("tcp-fastopen-key", tcp_fastopen_key),
	ENTRY("tcp-user-timeout", tcp_user_timeout),
	ENTRY("tcp-notsent-lowat", tcp_notsent_lowat),
	ENTRY("tcp-congestion", tcp_congestion),
	ENTRY("tcp-maxseg", tcp_maxseg),
	ENTRY("tcp-syncnt", tcp_syncnt),
	ENTRY("tcp-linger2", tcp_linger2),
	ENTRY("tcp-window-clamp", tcp_window_clamp),
	ENTRY("tcp-quickack", tcp_quickack),
	ENTRY("tcp-save-syn", tcp_save_syn),
	ENTRY("tcp-inq", tcp_inq),
	ENTRY("tcp-tx-delay", tcp_tx_delay),
	ENTRY("udp-segment", udp_segment),
	ENTRY("udp-gro", udp_gro),
	ENTRY("udp-no-check6-tx", udp_no_check6_tx),
	ENTRY("unix-passcred", unix_passcred),
	ENTRY("unix-passsec", unix_passsec),
	ENTRY("unix-passpidfd", unix_passpidfd),
	ENTRY("unix-passrights", unix_passrights),
	ENTRY("icmp6-filter", icmp6_filter),
	ENTRY("packet-auxdata", packet_auxdata),
	ENTRY("packet-qdisc-bypass", packet_qdisc_bypass),
	ENTRY("packet-ignore-outgoing", packet_ignore_outgoing),
	ENTRY("netlink-pktinfo", netlink_pktinfo),
	ENTRY("netlink-no-enobufs", netlink_no_enobufs),
	ENTRY("netlink-cap-ack", netlink_cap_ack),
	ENTRY("netlink-ext-ack", netlink_ext_ack),
	ENTRY("netlink-strict", netlink_strict),
	ENTRY("multicast-group", group),
	ENTRY("multicast-group-by-index", group_by_index),
	{ "multicast-sources", make_source_group, show_sources },
	{ "multicast-blocked-source", make_blocked_source, show_sources },
	ENTRY("multicast-group6", group6),
	ENTRY("multicast-options", multicast),
	ENTRY("multicast-options6", multicast6),
	ENTRY("tcp-connection-options", connection_options),
	{ "tcp-connection-reuse", connection, show_connection_reuse },
	ENTRY("tcp-connection-segments", segments),
	ENTRY("shared-socket", shared),
	ENTRY("unix-peer-credentials", peer_credentials),
	{ 0 },
};
