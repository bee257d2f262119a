/**
 * Notices that nftables rules, routing rules or routes of a namespace have changed, for the price of two
 * `recv` calls that find nothing: sockets subscribed to the kernel's netlink notifications, never read for
 * content. What changed, and whether it matters, is for the caller to look up.
 */

import { closeSync } from 'node:fs';
import { endianness } from 'node:os';

import {
  AF_NETLINK,
  NETLINK_NETFILTER,
  NETLINK_ROUTE,
  NFNLGRP_NFTABLES_BIT,
  RTNLGRP_RULES_AND_ROUTES_BITS,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_RAW,
} from './constants.ts';
import { runInNamespace, type NetworkNamespace } from './namespaces.ts';
import { checked, errnoOf, syscallError, type Native } from './native.ts';

export interface ChangeMonitor {
  /** Whether anything changed since the last call; our own changes count too. */
  takeChanged(): boolean;
  /** Idempotent. */
  close(): void;
}

/** Messages taken per socket and call; a flood beyond it is noticed again by the next call. */
const MESSAGES_PER_CALL = 256;

export function openChangeMonitor(native: Native, namespace: NetworkNamespace): ChangeMonitor {
  let sockets = runInNamespace(native, namespace, () => {
    const rules = subscribe(native, NETLINK_NETFILTER, NFNLGRP_NFTABLES_BIT);
    try {
      return [rules, subscribe(native, NETLINK_ROUTE, RTNLGRP_RULES_AND_ROUTES_BITS)];
    } catch (error) {
      closeSync(rules);
      throw error;
    }
  });
  const scratch = Buffer.allocUnsafeSlow(64);
  return {
    // Each socket is emptied, so no short-cut.
    takeChanged: () => sockets.filter((fd) => drainSocket(native, fd, scratch)).length > 0,
    close() {
      for (const fd of sockets) closeSync(fd);
      sockets = [];
    },
  };
}

function drainSocket(native: Native, fd: number, scratch: Buffer): boolean {
  for (let count = 0; count < MESSAGES_PER_CALL; count++) {
    // A message longer than the buffer is cut, which is all the same here.
    if (native.calls.recv(fd, scratch, BigInt(scratch.length), 0) >= 0) continue;
    const errno = errnoOf(syscallError(native, 'recv', 'netlink notifications'));
    // ENOBUFS: more was notified than the socket holds, so something changed; then it goes on.
    if (errno === 'ENOBUFS') continue;
    return count > 0;
  }
  return true;
}

function subscribe(native: Native, protocol: number, groups: number): number {
  const { calls } = native;
  const type = SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC;
  const fd = checked(native, calls.socket(AF_NETLINK, type, protocol), 'socket', 'netlink');
  try {
    // `struct sockaddr_nl`: family, padding, port (0: the kernel picks), group bits; the machine's byte order.
    const address = Buffer.alloc(12);
    if (endianness() === 'LE') {
      address.writeUInt16LE(AF_NETLINK, 0);
      address.writeUInt32LE(groups, 8);
    } else {
      address.writeUInt16BE(AF_NETLINK, 0);
      address.writeUInt32BE(groups, 8);
    }
    checked(native, calls.bind(fd, address, address.length), 'bind', 'netlink groups');
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
