// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// `clearway` steers the frames of one interface: which go to our AF_XDP sockets, which to the kernel.
//
//   exclusive   everything is ours (pod-facing veth, dedicated VF). A queue without a socket drops: a frame
//               of a pod must never reach the host's own stack, not even while a queue is being rebuilt.
//   shared      ours are UDP to one of our VTEPs, and frames whose outer tag (TPID and VID) is one of ours. All else,
//               fragments, IPv6 with extension headers and whatever can't be parsed go to the kernel, which
//               keeps its addresses, ARP, SSH and BGP on this uplink. So does a queue without a socket.
//
// `clearway_pod` serves any number of interfaces that are ours alone and have one queue: the frames of each go to its one
// socket. A program for all of them, since one that gets on its first interface or leaves its last makes the kernel wait
// for all its CPUs (docs/decisions/0016).
//
// "xdp.frags": packets of several buffers are taken (jumbo frames); only the first buffer is parsed, which
// holds all headers.
//
// A tag that the device keeps beside the frame (rxvlan offload; txvlan offload of a veth's peer) can't be
// seen here: user space turns these offloads off.
//
// Built by build.sh; the object is committed, so that building Clearway needs no clang.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VID_MASK 0x0fff
#define SLOTS 4096 /* a power of two */
#define IP_FRAGMENT 0x3fff /* more-fragments flag and offset: RFC 791 */

enum { STEER_SHARED, STEER_EXCLUSIVE };
enum { COUNT_REDIRECTED, COUNT_PASSED, COUNT_UNPARSABLE, COUNT_DROPPED, COUNTS };

/* Network byte order. An IPv4 address stands in the first four bytes. */
struct vtep {
	__u8 family; /* 4 or 6 */
	__u8 zero;
	__be16 vid; /* 0: untagged */
	__be16 port;
	__be16 zero2;
	__u8 address[16];
};

struct vlan_header {
	__be16 tci;
	__be16 proto;
};

/* Network byte order. 802.1Q and 802.1ad have VIDs of their own. */
struct vlan {
	__be16 tpid;
	__be16 vid;
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * 4094);
	__type(key, struct vlan);
	__type(value, __u8);
} vlans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct vtep);
	__type(value, __u8);
} vteps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline int count(__u32 what, int action)
{
	__u64 *n = bpf_map_lookup_elem(&counts, &what);

	if (n)
		*n += 1;
	return action;
}

static __always_inline int redirect(struct xdp_md *ctx, int otherwise)
{
	int action = bpf_redirect_map(&xsks, ctx->rx_queue_index, otherwise);

	if (action == XDP_REDIRECT)
		return count(COUNT_REDIRECTED, action);
	return count(action == XDP_PASS ? COUNT_PASSED : COUNT_DROPPED, action);
}

static __always_inline int shared(struct xdp_md *ctx)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = at;
	struct vtep key = {};
	struct udphdr *udp;
	__be16 proto;

	if (at + sizeof(*eth) > end)
		return count(COUNT_UNPARSABLE, XDP_PASS);
	proto = eth->h_proto;
	at += sizeof(*eth);

	if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
		struct vlan_header *tag = at;
		struct vlan vlan = {};

		if (at + sizeof(*tag) > end)
			return count(COUNT_UNPARSABLE, XDP_PASS);
		vlan.tpid = proto;
		vlan.vid = tag->tci & bpf_htons(VID_MASK);
		if (bpf_map_lookup_elem(&vlans, &vlan))
			return redirect(ctx, XDP_PASS);
		/* A VTEP's VLAN is 802.1Q. */
		if (proto != bpf_htons(ETH_P_8021Q))
			return count(COUNT_PASSED, XDP_PASS);
		key.vid = vlan.vid;
		proto = tag->proto;
		at += sizeof(*tag);
	}

	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;

		if (at + sizeof(*ip) > end || ip->version != 4 || ip->ihl < 5)
			return count(COUNT_UNPARSABLE, XDP_PASS);
		if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_FRAGMENT))
			return count(COUNT_PASSED, XDP_PASS);
		key.family = 4;
		__builtin_memcpy(key.address, &ip->daddr, 4);
		at += ip->ihl * 4;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;

		if (at + sizeof(*ip) > end || ip->version != 6)
			return count(COUNT_UNPARSABLE, XDP_PASS);
		if (ip->nexthdr != IPPROTO_UDP)
			return count(COUNT_PASSED, XDP_PASS);
		key.family = 6;
		__builtin_memcpy(key.address, &ip->daddr, 16);
		at += sizeof(*ip);
	} else {
		return count(COUNT_PASSED, XDP_PASS);
	}

	udp = at;
	if (at + sizeof(*udp) > end)
		return count(COUNT_UNPARSABLE, XDP_PASS);
	key.port = udp->dest;
	if (bpf_map_lookup_elem(&vteps, &key))
		return redirect(ctx, XDP_PASS);
	return count(COUNT_PASSED, XDP_PASS);
}

SEC("xdp.frags")
int clearway(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u32 *steering = bpf_map_lookup_elem(&settings, &zero);

	if (steering && *steering == STEER_EXCLUSIVE)
		return redirect(ctx, XDP_DROP);
	return shared(ctx);
}

/* The socket of each interface, by its index modulo SLOTS: user space lets no two of the same slot in. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} pods SEC(".maps");

/*
 * A frame can't get to another interface's socket, whatever the map says: the kernel drops one that comes from another
 * device or queue than the socket is bound to (net/xdp/xsk.c, xsk_rcv_check).
 */
SEC("xdp.frags")
int clearway_pod(struct xdp_md *ctx)
{
	return bpf_redirect_map(&pods, ctx->ingress_ifindex % SLOTS, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
