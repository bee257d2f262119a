/** `struct sockaddr_in` and `sockaddr_in6` to and from text; addresses as Node prints them. */

import { isIPv4, isIPv6, SocketAddress } from 'node:net';
import { endianness } from 'node:os';

import { MeshError } from '../base/errors.ts';
import { AF_INET, AF_INET6 } from './constants.ts';

export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

export type IpFamily = 'ipv4' | 'ipv6';

const IPV4_SIZE = 16;
const IPV6_SIZE = 28;

/** The family is in the machine's byte order, port and address in the network's. */
function writeFamily(bytes: Buffer, family: number): void {
  if (endianness() === 'LE') bytes.writeUInt16LE(family, 0);
  else bytes.writeUInt16BE(family, 0);
}

/** Bytes for `bind`. Throws `MESH_ADDRESS_INVALID` when the address is not of the family it seems to be. */
export function encodeSocketAddress(endpoint: Endpoint): Buffer {
  const { address, port } = endpoint;
  if (isIPv4(address)) {
    const bytes = Buffer.alloc(IPV4_SIZE);
    writeFamily(bytes, AF_INET);
    bytes.writeUInt16BE(port, 2);
    for (const [index, part] of address.split('.').entries()) bytes[4 + index] = Number(part);
    return bytes;
  }
  // A scoped address names an interface of this process's namespace, not of the pod's.
  if (!isIPv6(address) || address.includes('%')) {
    throw new MeshError('MESH_ADDRESS_INVALID', `Cannot use "${address}" as a socket address`);
  }
  const bytes = Buffer.alloc(IPV6_SIZE);
  writeFamily(bytes, AF_INET6);
  bytes.writeUInt16BE(port, 2);
  writeIpv6(bytes, 8, address);
  return bytes;
}

function writeIpv6(bytes: Buffer, offset: number, address: string): void {
  // The URL parser prints dotted tails as hexadecimal words, so only words are left to read.
  const text = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const [head = '', tail = ''] = text.split('::');
  const words = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((word) => Number.parseInt(word, 16));
  const first = words(head);
  const last = words(tail);
  for (const [index, word] of first.entries()) bytes.writeUInt16BE(word, offset + index * 2);
  const start = offset + 16 - last.length * 2;
  for (const [index, word] of last.entries()) bytes.writeUInt16BE(word, start + index * 2);
}

/** Reads what the kernel wrote. */
export function decodeSocketAddress(bytes: Buffer, family: IpFamily): Endpoint {
  const port = bytes.readUInt16BE(2);
  if (family === 'ipv4') return { address: bytes.subarray(4, 8).join('.'), port };
  return { address: formatIpv6(bytes.subarray(8, 24)), port };
}

/** RFC 5952 text of 16 bytes, by the same libc routine that prints a socket's `remoteAddress`. */
export function formatIpv6(bytes: Buffer): string {
  const words = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  return new SocketAddress({ address: words.join(':'), family: 'ipv6' }).address;
}

export function sockaddrSize(family: IpFamily): number {
  return family === 'ipv4' ? IPV4_SIZE : IPV6_SIZE;
}
