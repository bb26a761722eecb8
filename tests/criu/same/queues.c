/* What is queued in sockets, and how they are connected. */
#include "same.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int ends[2], listener, client;
static char path[108];

static void make_pair(int type)
{
	must(socketpair(AF_UNIX, type, 0, ends));
}

/* What can be read without taking it. */
static void say_peek(int fd)
{
	char bytes[256];
	ssize_t size = recv(fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
	if (size < 0)
		say_result(size);
	else
		say("%zd %.*s ", size, (int)size, bytes);
}

static void make_stream(void)
{
	make_pair(SOCK_STREAM);
	must(write(ends[0], "there", 5));
	must(write(ends[1], "and back", 8));
}

static void show_both(void)
{
	say_peek(ends[0]);
	say_peek(ends[1]);
}

static void make_datagrams(void)
{
	make_pair(SOCK_DGRAM);
	must(write(ends[0], "one", 3));
	must(write(ends[0], "three", 5));
}

static void make_empty_datagram(void)
{
	make_pair(SOCK_DGRAM);
	must(write(ends[0], "", 0));
	must(write(ends[0], "two", 3));
}

static void make_empty_behind(void)
{
	make_pair(SOCK_DGRAM);
	must(write(ends[0], "one", 3));
	must(write(ends[0], "", 0));
	must(write(ends[0], "three", 5));
}

/* Takes all datagrams, and sends them again. */
static void show_datagrams(void)
{
	char bytes[8][16];
	ssize_t sizes[8];
	int count = 0;
	while (count < 8 && (sizes[count] = recv(ends[1], bytes[count], sizeof bytes[count], MSG_DONTWAIT)) >= 0)
		count++;
	for (int i = 0; i < count; i++) {
		say("%zd %.*s, ", sizes[i], (int)sizes[i], bytes[i]);
		must(write(ends[0], bytes[i], sizes[i]));
	}
}

static void make_packets(void)
{
	make_pair(SOCK_SEQPACKET);
	must(write(ends[0], "one", 3));
	must(write(ends[0], "two", 3));
}

static void make_half_closed(void)
{
	make_pair(SOCK_STREAM);
	must(write(ends[0], "last", 4));
	must(shutdown(ends[0], SHUT_WR));
}

static void show_half_closed(void)
{
	struct pollfd waits = { ends[1], POLLIN | POLLRDHUP, 0 };
	must(poll(&waits, 1, 0));
	say("events %#x ", waits.revents);
	say_peek(ends[1]);
	signal(SIGPIPE, SIG_IGN);
	say_result(write(ends[0], "x", 1));
}

static void make_peer_gone(void)
{
	make_pair(SOCK_STREAM);
	must(write(ends[0], "last", 4));
	close(ends[0]);
}

static void show_peer_gone(void)
{
	struct pollfd waits = { ends[1], POLLIN | POLLRDHUP, 0 };
	must(poll(&waits, 1, 0));
	say("events %#x ", waits.revents);
	say_peek(ends[1]);
}

static socklen_t unix_name(struct sockaddr_un *name, const char *text)
{
	memset(name, 0, sizeof *name);
	name->sun_family = AF_UNIX;
	strcpy(name->sun_path + (text[0] == '@'), text + (text[0] == '@'));
	return offsetof(struct sockaddr_un, sun_path) + strlen(text) + (text[0] != '@');
}

static void listen_at(const char *text)
{
	struct sockaddr_un name;
	socklen_t length = unix_name(&name, text);
	listener = must(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	must(bind(listener, (void *)&name, length));
	must(listen(listener, 5));
}

static int connect_to(const char *text)
{
	struct sockaddr_un name;
	socklen_t length = unix_name(&name, text);
	int fd = must(socket(AF_UNIX, SOCK_STREAM, 0));
	must(connect(fd, (void *)&name, length));
	return fd;
}

static void make_listener(void)
{
	strcpy(path, "/listener");
	listen_at(path);
}

static void make_abstract(void)
{
	strcpy(path, "@abstract");
	listen_at(path);
}

static void show_listener(void)
{
	struct sockaddr_un name;
	socklen_t length = sizeof name;
	must(getsockname(listener, (void *)&name, &length));
	say("%s ", name.sun_path[0] ? name.sun_path : name.sun_path + 1);
	int one = connect_to(path), other = must(accept(listener, NULL, NULL));
	say("is connected to");
	close(one);
	close(other);
}

static void make_connected(void)
{
	listen_at("/connected");
	client = connect_to("/connected");
	ends[0] = must(accept(listener, NULL, NULL));
	must(write(client, "hello", 5));
}

static void show_connected(void)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	say_peek(ends[0]);
	must(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
	say("from %s %d %d ", peer.pid == getpid() ? "it" : "another", peer.uid, peer.gid);
}

static void make_not_accepted(void)
{
	listen_at("/not-accepted");
	client = connect_to("/not-accepted");
}

static void make_hasty(void)
{
	listen_at("/hasty");
	client = connect_to("/hasty");
	must(write(client, "at once", 7));
}

static void make_telling(int option)
{
	make_pair(SOCK_DGRAM);
	must(setsockopt(ends[1], SOL_SOCKET, option, &(int){ 1 }, sizeof(int)));
	must(write(ends[0], "who", 3));
}

static void make_credentials(void)
{
	make_telling(SO_PASSCRED);
}

static void make_time(void)
{
	make_telling(SO_TIMESTAMP);
}

static void show_telling(void)
{
	char room[256], text[8] = "";
	struct iovec bytes = { text, sizeof text - 1 };
	struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	must(recvmsg(ends[1], &message, MSG_DONTWAIT | MSG_PEEK));
	say("%s", text);
	for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
		say(" %d", head->cmsg_type);
}

static void show_not_accepted(void)
{
	struct pollfd waits = { listener, POLLIN, 0 };
	say("%d", (int)must(poll(&waits, 1, 0)));
}

static void pass(int over, int what)
{
	char room[CMSG_SPACE(sizeof what)];
	struct iovec bytes = { "d", 1 };
	struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	*head = (struct cmsghdr){ CMSG_LEN(sizeof what), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(head), &what, sizeof what);
	must(sendmsg(over, &message, 0));
}

static void make_passed(void)
{
	int fd = new_file("/passed", "passed on");
	make_pair(SOCK_STREAM);
	pass(ends[0], fd);
	close(fd);
}

static void show_passed(void)
{
	char room[CMSG_SPACE(sizeof(int))], byte, content[32] = "";
	struct iovec bytes = { &byte, 1 };
	struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	must(recvmsg(ends[1], &message, MSG_DONTWAIT));
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	if (head) {
		int fd;
		memcpy(&fd, CMSG_DATA(head), sizeof fd);
		must(pread(fd, content, sizeof content - 1, 0));
		say("%s", content);
		pass(ends[0], fd);
		close(fd);
	} else {
		say("nothing");
	}
}

/* Internet protocols, on the loopback */

static struct sockaddr_in at_loopback(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
}

static void listen_tcp(int port)
{
	struct sockaddr_in name = at_loopback(port);
	listener = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	must(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
	must(bind(listener, (void *)&name, sizeof name));
	must(listen(listener, 7));
}

static void connect_tcp(int port)
{
	struct sockaddr_in name = at_loopback(port);
	client = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(client, (void *)&name, sizeof name));
}

static void make_tcp_listener(void)
{
	listen_tcp(7001);
}

static void show_tcp_listener(void)
{
	struct tcp_info info;
	socklen_t length = sizeof info;
	must(getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &length));
	/* of a listener: its backlog */
	say("backlog %u ", info.tcpi_sacked);
	connect_tcp(7001);
	int other = must(accept(listener, NULL, NULL));
	say("is connected to");
	close(client);
	close(other);
}

static void make_tcp(void)
{
	listen_tcp(7002);
	connect_tcp(7002);
	ends[0] = client;
	ends[1] = must(accept(listener, NULL, NULL));
	must(write(ends[0], "there", 5));
	must(write(ends[1], "and back", 8));
	usleep(10000);
}

static void show_tcp(void)
{
	struct sockaddr_in name;
	socklen_t length = sizeof name;
	show_both();
	must(getsockname(client, (void *)&name, &length));
	say("port %d ", name.sin_port);
	char byte;
	must(write(ends[0], "!", 1));
	usleep(10000);
	char bytes[64];
	ssize_t size = must(recv(ends[1], bytes, sizeof bytes, 0));
	say("%zd %.*s", size, (int)size, bytes);
	must(write(ends[0], bytes, size - 1));
	(void)byte;
	usleep(10000);
}

static void make_tcp_half_closed(void)
{
	listen_tcp(7003);
	connect_tcp(7003);
	ends[0] = client;
	ends[1] = must(accept(listener, NULL, NULL));
	must(write(ends[0], "last", 4));
	must(shutdown(ends[0], SHUT_WR));
	usleep(10000);
}

static void make_tcp_urgent(void)
{
	listen_tcp(7004);
	connect_tcp(7004);
	ends[1] = must(accept(listener, NULL, NULL));
	must(send(client, "abc", 3, 0));
	must(send(client, "!", 1, MSG_OOB));
	usleep(10000);
}

static void show_tcp_urgent(void)
{
	char byte = '-';
	say_result(recv(ends[1], &byte, 1, MSG_OOB | MSG_PEEK));
	say("%c ", byte);
	say_peek(ends[1]);
}

static void make_udp(void)
{
	struct sockaddr_in name = at_loopback(7005);
	ends[1] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(bind(ends[1], (void *)&name, sizeof name));
	ends[0] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(connect(ends[0], (void *)&name, sizeof name));
}

static void show_udp(void)
{
	struct sockaddr_in name;
	socklen_t length = sizeof name;
	char bytes[16];
	must(getpeername(ends[0], (void *)&name, &length));
	say("to port %d ", ntohs(name.sin_port));
	must(getsockname(ends[0], (void *)&name, &length));
	say("from %d ", ntohs(name.sin_port));
	must(write(ends[0], "x", 1));
	say("arrives %zd", must(recv(ends[1], bytes, sizeof bytes, 0)));
}

static void make_udp_queue(void)
{
	struct sockaddr_in name = at_loopback(7006);
	ends[1] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(bind(ends[1], (void *)&name, sizeof name));
	ends[0] = must(socket(AF_INET, SOCK_DGRAM, 0));
	must(connect(ends[0], (void *)&name, sizeof name));
	must(write(ends[0], "waits", 5));
}

static void show_udp_queue(void)
{
	say_peek(ends[1]);
}

static void make_raw(void)
{
	ends[0] = must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	must(setsockopt(ends[0], IPPROTO_IP, IP_HDRINCL, &(int){ 1 }, sizeof(int)));
}

static void show_raw(void)
{
	int is = 0;
	socklen_t length = sizeof is;
	must(getsockopt(ends[0], SOL_SOCKET, SO_PROTOCOL, &is, &length));
	say("%d ", is);
	must(getsockopt(ends[0], IPPROTO_IP, IP_HDRINCL, &is, &length));
	say("%d", is);
}

static void make_packet(void)
{
	ends[0] = must(socket(AF_PACKET, SOCK_RAW, htons(0x88b5 /* for experiments */)));
	must(bind(ends[0], (void *)&(struct sockaddr_ll){ .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5), .sll_ifindex = 1 }, sizeof(struct sockaddr_ll)));
}

static void show_packet(void)
{
	struct sockaddr_ll name = { 0 };
	socklen_t length = sizeof name;
	must(getsockname(ends[0], (void *)&name, &length));
	say("%d %d", name.sll_ifindex, ntohs(name.sll_protocol));
}

static void make_netlink(void)
{
	ends[0] = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	must(bind(ends[0], (void *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = 4242, .nl_groups = RTMGRP_LINK }, sizeof(struct sockaddr_nl)));
}

static void show_netlink(void)
{
	struct sockaddr_nl name;
	socklen_t length = sizeof name;
	must(getsockname(ends[0], (void *)&name, &length));
	say("%u %#x", name.nl_pid, name.nl_groups);
}

static void make_netlink_unread(void)
{
	struct { struct nlmsghdr head; struct rtgenmsg body; } ask = {
		{ sizeof ask, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { AF_UNSPEC } };
	make_netlink();
	must(send(ends[0], &ask, sizeof ask, 0));
}

static void show_waiting(void)
{
	struct pollfd waits = { ends[0], POLLIN, 0 };
	say("%d", (int)must(poll(&waits, 1, 0)));
}

static void make_unbound(void)
{
	ends[0] = must(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0));
	ends[1] = must(socket(AF_UNIX, SOCK_DGRAM, 0));
}

static void show_unbound(void)
{
	for (int i = 0; i < 2; i++) {
		int kind[2];
		socklen_t length = sizeof(int);
		must(getsockopt(ends[i], SOL_SOCKET, SO_DOMAIN, kind, &length));
		must(getsockopt(ends[i], SOL_SOCKET, SO_TYPE, kind + 1, &length));
		say("%d %d %#x ", kind[0], kind[1], fcntl(ends[i], F_GETFL));
	}
}

static void make_multipath(void)
{
	must(socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */));
}

static void make_algorithm(void)
{
	must(socket(38 /* AF_ALG */, SOCK_SEQPACKET, 0));
}

static void make_machine_socket(void)
{
	must(socket(40 /* AF_VSOCK */, SOCK_STREAM, 0));
}

static void say_nothing(void)
{
}

const struct property queues[] = {
	{ "unix-stream", make_stream, show_both },
	{ "unix-datagrams", make_datagrams, show_datagrams },
	{ "unix-empty-datagram", make_empty_datagram, show_datagrams },
	{ "unix-empty-datagram-behind", make_empty_behind, show_datagrams },
	{ "unix-packets", make_packets, show_datagrams },
	{ "unix-half-closed", make_half_closed, show_half_closed },
	{ "unix-peer-gone", make_peer_gone, show_peer_gone },
	{ "unix-listener", make_listener, show_listener },
	{ "unix-abstract", make_abstract, show_listener },
	{ "unix-connection", make_connected, show_connected },
	{ "unix-not-accepted", make_not_accepted, show_not_accepted },
	{ "unix-not-accepted-with-data", make_hasty, show_not_accepted },
	{ "unix-queued-credentials", make_credentials, show_telling },
	{ "unix-queued-time", make_time, show_telling },
	{ "passed-descriptor", make_passed, show_passed },
	{ "tcp-listener", make_tcp_listener, show_tcp_listener },
	{ "tcp-connection", make_tcp, show_tcp },
	{ "tcp-connection-without-flag", make_tcp, show_both },
	{ "tcp-half-closed", make_tcp_half_closed, show_half_closed },
	{ "tcp-urgent-byte", make_tcp_urgent, show_tcp_urgent },
	{ "udp", make_udp, show_udp },
	{ "udp-queue", make_udp_queue, show_udp_queue },
	{ "raw-socket", make_raw, show_raw },
	{ "packet-socket", make_packet, show_packet },
	{ "netlink-socket", make_netlink, show_netlink },
	{ "netlink-unread", make_netlink_unread, show_waiting },
	{ "unbound-sockets", make_unbound, show_unbound },
	{ "mptcp", make_multipath, say_nothing },
	{ "crypto-socket", make_algorithm, say_nothing },
	{ "vsock", make_machine_socket, say_nothing },
	{ 0 },
};
