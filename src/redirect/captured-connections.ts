/**
 * How many captured connections a pod's namespace still has, from the kernel's own table: whoever carries them,
 * this node proxy or a predecessor that drains, its sockets are there. Facts tried on Linux 6.18: `/proc/net/tcp`
 * shows the namespace of the process that reads it, `/proc/thread-self/net/tcp` that of the thread; a transparent
 * socket is in it with its foreign source as local address.
 */

import { closeSync, openSync, read } from 'node:fs';
import { promisify } from 'node:util';

import { MeshError } from '../base/errors.ts';
import { addressBytes, type IpAddress } from '../core/address.ts';
import { PORTS } from '../core/pod.ts';
import { runInNamespace, type NetworkNamespace } from '../linux/namespaces.ts';
import type { Native } from '../linux/native.ts';
import type { RedirectContext } from './context.ts';

/** 200,000 connections. A pod with more rejects, and is asked again later. */
const TABLE_MAX_BYTES = 32 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
const readChunk = promisify(read);
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

/** Rejects with `MESH_LIMIT_EXCEEDED` for a table that is too long, or the file system's error. */
export async function countCapturedConnections(
  { native }: RedirectContext,
  namespace: NetworkNamespace,
  own: readonly IpAddress[],
): Promise<number> {
  let count = 0;
  for (const name of ['tcp', 'tcp6']) {
    const fd = openTable(native, namespace, name);
    if (fd === undefined) continue;
    try {
      count += countCaptured(await readTable(fd), own);
    } finally {
      closeSync(fd);
    }
  }
  return count;
}

/** Bound to the namespace in which it was opened (tried); without IPv6 the second table is not there. */
function openTable(native: Native, namespace: NetworkNamespace, name: string): number | undefined {
  try {
    return runInNamespace(native, namespace, () => openSync(`/proc/thread-self/net/${name}`, 'r'));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

async function readTable(fd: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for (;;) {
    const { bytesRead, buffer } = await readChunk(
      fd,
      Buffer.alloc(CHUNK_BYTES),
      0,
      CHUNK_BYTES,
      null,
    );
    if (bytesRead === 0) return Buffer.concat(chunks).toString('latin1');
    chunks.push(buffer.subarray(0, bytesRead));
    size += bytesRead;
    if (size > TABLE_MAX_BYTES) {
      const message = `Cannot count connections: the table is longer than ${TABLE_MAX_BYTES} bytes`;
      throw new MeshError('MESH_LIMIT_EXCEEDED', message);
    }
  }
}
