/* What a network namespace holds. */
#include "same.h"

static void run(const char *command)
{
	int status = system(command);
	errno = 0;
	must_be(status ? -1 : 0, command);
}

static void say_output(const char *command)
{
	char line[512];
	FILE *output = popen(command, "r");
	if (!output)
		fail(command);
	while (fgets(line, sizeof line, output))
		say("%s", line);
	pclose(output);
}

/* Sysctls, which are one network's. */

#define NET "/proc/sys/net/"
#define SYSCTL(name, path, value)                                                                                       \
	static void make_##name(void) { write_file(NET path, value); }                                                 \
	static void show_##name(void) { say_file(NET path); }

SYSCTL(somaxconn, "core/somaxconn", "5000")
SYSCTL(ttl, "ipv4/ip_default_ttl", "55")
SYSCTL(ports, "ipv4/ip_local_port_range", "20000 30000")
SYSCTL(reserved_ports, "ipv4/ip_local_reserved_ports", "8080,9000-9010")
SYSCTL(unprivileged, "ipv4/ip_unprivileged_port_start", "80")
SYSCTL(syn_retries, "ipv4/tcp_syn_retries", "3")
SYSCTL(fin_timeout, "ipv4/tcp_fin_timeout", "33")
SYSCTL(bindv6only, "ipv6/bindv6only", "1")
SYSCTL(neighbour, "ipv4/neigh/lo/ucast_solicit", "9")
SYSCTL(bc_forwarding, "ipv4/conf/lo/bc_forwarding", "1")
SYSCTL(forward, "ipv4/ip_forward", "1")
SYSCTL(ping_group, "ipv4/ping_group_range", "0 2000")
SYSCTL(rp_filter, "ipv4/conf/lo/rp_filter", "2")
SYSCTL(dgram_qlen, "unix/max_dgram_qlen", "77")

/* Routes and rules. */

static void make_route(void)
{
	run("ip route add 10.20.0.0/16 dev lo");
}

static void show_route(void)
{
	say_output("ip route show 10.20.0.0/16");
}

static void make_table(void)
{
	run("ip route add 10.21.0.0/16 dev lo table 100");
	run("ip -6 route add fd21::/64 dev lo table 100");
}

static void show_table(void)
{
	say_output("ip route show table 100; ip -6 route show table 100");
}

static void make_rule(void)
{
	run("ip rule add from 10.22.0.7 table 100");
}

static void show_rule(void)
{
	say_output("ip rule");
}

static void make_rule6(void)
{
	run("ip -6 rule add from fd22::/64 table 100");
}

static void show_rule6(void)
{
	say_output("ip -6 rule");
}

/* Devices: bridges, but for a veth whose other end has the name that the kernel gives. */

static void make_device(void)
{
	run("ip link add d-plain type bridge");
	run("ip link set d-plain address 02:00:00:00:00:20 mtu 1400");
	run("ip link set d-plain promisc on arp off");
	run("ip link set d-plain up");
	run("ip address add 10.23.0.1/24 dev d-plain label d-plain:1");
}

static void show_device(void)
{
	say_file("/sys/class/net/d-plain/address");
	say_file("/sys/class/net/d-plain/mtu");
	say_file("/sys/class/net/d-plain/flags");
	say_output("ip -o -4 address show dev d-plain");
}

static void make_queue(void)
{
	run("ip link add d-queue type bridge");
	run("ip link set d-queue qlen 77");
}

static void show_queue(void)
{
	say_file("/sys/class/net/d-queue/tx_queue_len");
}

static void make_permanent(void)
{
	run("ip link add d-arp type bridge");
	run("ip link set d-arp up");
	run("ip address add 10.24.0.1/24 dev d-arp");
	run("arp -i d-arp -s 10.24.0.2 02:00:00:00:00:02");
}

static void show_permanent(void)
{
	say_lines("/proc/net/arp", "10.24.0.2 ", NULL);
}

static void make_bridge(void)
{
	run("brctl addbr d-bridge");
	run("ip link add d-port type veth");
	run("ip link set veth0 name d-other");
	run("brctl addif d-bridge d-port");
	run("cd /sys/class/net/d-bridge && echo 1000 >bridge/ageing_time && echo 99 >bridge/priority && "
	    "echo 7 >brif/d-port/path_cost && echo 1 >brif/d-port/hairpin_mode");
}

static void show_bridge(void)
{
	say_file("/sys/class/net/d-bridge/bridge/ageing_time");
	say_file("/sys/class/net/d-bridge/bridge/priority");
	say_file("/sys/class/net/d-bridge/brif/d-port/path_cost");
	say_file("/sys/class/net/d-bridge/brif/d-port/hairpin_mode");
}

static void make_macvlan(void)
{
	run("ip link add d-below type bridge");
	run("ip link add link d-below name d-macvlan type macvlan");
	run("ip link set d-macvlan address 02:00:00:00:00:25 mtu 1400");
	run("ip link set d-below up");
	run("ip link set d-macvlan up");
	run("ip address add 10.25.0.1/24 dev d-macvlan");
}

static void show_macvlan(void)
{
	say_file("/sys/class/net/d-macvlan/address");
	say_file("/sys/class/net/d-macvlan/mtu");
	say_file("/sys/class/net/d-macvlan/flags");
	say_output("ip -o link show dev d-macvlan | cut -d: -f2; ip -o -4 address show dev d-macvlan");
}

const struct property networks[] = {
	{ "net-core-somaxconn", make_somaxconn, show_somaxconn },
	{ "net-ipv4-ip-default-ttl", make_ttl, show_ttl },
	{ "net-ipv4-ip-local-port-range", make_ports, show_ports },
	{ "net-ipv4-ip-local-reserved-ports", make_reserved_ports, show_reserved_ports },
	{ "net-ipv4-ip-unprivileged-port-start", make_unprivileged, show_unprivileged },
	{ "net-ipv4-tcp-syn-retries", make_syn_retries, show_syn_retries },
	{ "net-ipv4-tcp-fin-timeout", make_fin_timeout, show_fin_timeout },
	{ "net-ipv6-bindv6only", make_bindv6only, show_bindv6only },
	{ "net-ipv4-neigh-ucast-solicit", make_neighbour, show_neighbour },
	{ "net-ipv4-conf-bc-forwarding", make_bc_forwarding, show_bc_forwarding },
	{ "net-ipv4-ip-forward", make_forward, show_forward },
	{ "net-ipv4-ping-group-range", make_ping_group, show_ping_group },
	{ "net-ipv4-conf-rp-filter", make_rp_filter, show_rp_filter },
	{ "net-unix-max-dgram-qlen", make_dgram_qlen, show_dgram_qlen },
	{ "route-of-the-main-table", make_route, show_route },
	{ "routes-of-another-table", make_table, show_table },
	{ "rule-for-ipv4", make_rule, show_rule },
	{ "rule-for-ipv6", make_rule6, show_rule6 },
	{ "device-address-mtu-flags-and-label", make_device, show_device },
	{ "device-queue-length", make_queue, show_queue },
	{ "neighbour-that-is-permanent", make_permanent, show_permanent },
	{ "bridge-and-port-options", make_bridge, show_bridge },
	{ "device-macvlan", make_macvlan, show_macvlan },
	{ 0 },
};
