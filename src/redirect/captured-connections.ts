/**
 * How many captured connections a pod's namespace still has, from the kernel's own table: whoever carries them,
 * this node proxy or a predecessor that drains, its sockets are there. Facts tried on Linux 6.18: `/proc/net/tcp`
 * shows the namespace of the process that reads it, and a transparent socket with its foreign source as local address.
 */

import { addressBytes, type IpAddress } from '../core/address.ts';
import { PORTS } from '../core/pod.ts';
import { runCommand } from '../linux/commands.ts';
import type { NetworkNamespace } from '../linux/namespaces.ts';
import type { RedirectContext } from './context.ts';

/** 200,000 connections. A pod with more rejects, and is asked again later. */
const TABLE_MAX_BYTES = 32 * 1024 * 1024;
const OUR_PORTS: ReadonlySet<number> = new Set([
  PORTS.outbound,
  PORTS.inboundPassthrough,
  PORTS.hbone,
]);
/** TIME_WAIT, CLOSE, LISTEN: nobody's connection. */
const NOT_LIVE: ReadonlySet<string> = new Set(['06', '07', '0A']);
const MAPPED = '0000000000000000FFFF0000';
const LOOPBACK_IPV6 = '00000000000000000000000001000000';

/** An address as `/proc/net/tcp` writes it: 32-bit words in the machine's order, which is little-endian on ours. */
function formatKernelAddress(address: IpAddress): string {
  return addressBytes(address).swap32().toString('hex').toUpperCase();
}

/** Counts in the text of `/proc/net/tcp` and `/proc/net/tcp6`; `own`: the pod's addresses. */
export function countCaptured(table: string, own: readonly IpAddress[]): number {
  const known = new Set(own.map(formatKernelAddress));
  const isOwn = (hex: string): boolean => {
    const address = hex.startsWith(MAPPED) ? hex.slice(MAPPED.length) : hex;
    // The first byte of an IPv4 address is the last of its word.
    const isLoopback = address.length === 8 ? address.endsWith('7F') : address === LOOPBACK_IPV6;
    return isLoopback || known.has(address);
  };
  let count = 0;
  for (const line of table.split('\n')) {
    const found = /^\s*\d+: ([0-9A-F]{8,32}):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) /.exec(line);
    if (found === null) continue;
    const [, address = '', port = '', state = ''] = found;
    if (NOT_LIVE.has(state)) continue;
    if (OUR_PORTS.has(Number.parseInt(port, 16)) || !isOwn(address)) count++;
  }
  return count;
}

export async function countCapturedConnections(
  { native, clock }: RedirectContext,
  namespace: NetworkNamespace,
  own: readonly IpAddress[],
): Promise<number> {
  // Without IPv6 the second table is not there.
  const { stdout } = await runCommand(
    native,
    clock,
    'sh',
    ['-c', 'cat /proc/net/tcp; cat /proc/net/tcp6 2>/dev/null || :'],
    { namespace, outputMaxBytes: TABLE_MAX_BYTES },
  );
  return countCaptured(stdout, own);
}
