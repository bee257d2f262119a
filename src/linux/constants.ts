/**
 * Numbers of the Linux ABI that the calls need, as the kernel headers of x86-64 and arm64 have them (both
 * use the generic values). Tried on Linux 6.18 through both backends.
 */

export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const AF_PACKET = 17;

export const SOCK_STREAM = 1;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;

export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_RCVBUF = 8;
export const SO_REUSEPORT = 15;
export const SO_RCVBUFFORCE = 33;
export const SO_MARK = 36;

export const IPPROTO_IP = 0;
export const IP_TRANSPARENT = 19;
export const IP_BIND_ADDRESS_NO_PORT = 24;
export const SO_ORIGINAL_DST = 80;

export const IPPROTO_IPV6 = 41;
export const IPV6_V6ONLY = 26;
export const IPV6_TRANSPARENT = 75;
export const IP6T_SO_ORIGINAL_DST = 80;

export const SHUT_RDWR = 2;
export const F_DUPFD_CLOEXEC = 1030;

export const CLONE_NEWNET = 0x40000000;
/** `ioctl` that answers which kind of namespace a descriptor is. */
export const NS_GET_NSTYPE = 0xb703n;
export const NSFS_MAGIC = 0x6e736673;
export const TMPFS_MAGIC = 0x01021994;
export const RAMFS_MAGIC = 0x858458f6;

export const RLIMIT_CORE = 4;
export const RLIMIT_NOFILE = 7;
export const PR_GET_DUMPABLE = 3;
export const PR_SET_DUMPABLE = 4;

/** In network byte order, as `socket` and `sockaddr_ll` want it: every protocol. */
export const ETH_P_ALL_NETWORK_ORDER = 0x0300;

export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;
/** Multicast groups as bits: group N is bit N - 1. */
export const NFNLGRP_NFTABLES_BIT: number = 1 << 6;
export const RTNLGRP_RULES_AND_ROUTES_BITS: number = (1 << 6) | (1 << 7) | (1 << 10) | (1 << 18);

/** System calls without a wrapper in every libc (glibc has them since 2.36, musl has not). */
export const SYS_FSOPEN = 430n;
export const SYS_FSCONFIG = 431n;
export const SYS_FSMOUNT = 432n;
export const SYS_PIDFD_OPEN = 434n;
export const SYS_PIDFD_GETFD = 438n;
export const FSOPEN_CLOEXEC = 1n;
export const FSCONFIG_CMD_CREATE = 6n;
export const FSMOUNT_CLOEXEC = 1n;

/** The mark of the mesh's own sockets; `core/pod.ts` has the same number for the rules. */
export const OWN_SOCKET_MARK = 0x539;
