/**
 * IP addresses as the mesh keeps them: canonical text. One strict parser for every address from outside
 * (T25): no zone ids, no octal, no shorthand IPv4; IPv4-mapped IPv6 becomes IPv4, so that a lookup and a
 * policy see one form of one address.
 */

import { isIPv4, isIPv6 } from 'node:net';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

/** Canonical text of an IPv4 or IPv6 address; made only by the parsers here. */
export type IpAddress = string & { readonly __brand: 'IpAddress' };

/** An address with a TCP port, 1 to 65535. */
export interface SocketAddress {
  readonly ip: IpAddress;
  readonly port: number;
}

/** A block of addresses: those whose first `prefixLength` bits are those of `ip`. */
export interface Cidr {
  readonly ip: IpAddress;
  readonly prefixLength: number;
}

const ADDRESS_TEXT_MAX = 45;
const MAPPED_PREFIX = Buffer.from('00000000000000000000ffff', 'hex');

function invalid(text: string, reason: string): Result<never> {
  const shown = JSON.stringify(text.slice(0, 64));
  return fail(new MeshError('MESH_ADDRESS_INVALID', `Cannot read address ${shown}: ${reason}`));
}

/** 4 or 16 bytes of a canonical address, in network order. */
export function addressBytes(ip: IpAddress): Buffer {
  return isIPv4(ip) ? Buffer.from(ip.split('.').map(Number)) : ipv6Bytes(ip);
}

function ipv6Bytes(text: string): Buffer {
  const bytes = Buffer.alloc(16);
  const [head = '', tail] = text.split('::');
  const words = (part: string): number[] => {
    if (part === '') return [];
    return part.split(':').flatMap((word) => {
      if (!word.includes('.')) return [Number.parseInt(word, 16)];
      const [a = 0, b = 0, c = 0, d = 0] = word.split('.').map(Number);
      return [(a << 8) | b, (c << 8) | d];
    });
  };
  const first = words(head);
  const last = tail === undefined ? [] : words(tail);
  for (const [index, word] of first.entries()) bytes.writeUInt16BE(word, index * 2);
  for (const [index, word] of last.entries()) {
    bytes.writeUInt16BE(word, (8 - last.length + index) * 2);
  }
  return bytes;
}

/** The canonical address of 4 or 16 bytes in network order (RFC 5952 text for IPv6). */
export function addressFromBytes(bytes: Uint8Array): Result<IpAddress> {
  if (bytes.length === 4) return ok(bytes.join('.') as IpAddress);
  if (bytes.length !== 16) {
    const error = `Cannot read address: ${bytes.length} bytes, 4 or 16 needed`;
    return fail(new MeshError('MESH_ADDRESS_INVALID', error));
  }
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, 16);
  if (buffer.compare(MAPPED_PREFIX, 0, 12, 0, 12) === 0) {
    return ok(buffer.subarray(12).join('.') as IpAddress);
  }
  return ok(formatIpv6(buffer) as IpAddress);
}

function formatIpv6(bytes: Buffer): string {
  const words = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2));
  let bestStart = -1;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && words[start + length] === 0) length++;
    if (length > bestLength) [bestStart, bestLength] = [start, length];
  }
  const hex = (part: number[]): string => part.map((word) => word.toString(16)).join(':');
  if (bestStart < 0) return hex(words);
  return `${hex(words.slice(0, bestStart))}::${hex(words.slice(bestStart + bestLength))}`;
}

export function parseAddress(text: string): Result<IpAddress> {
  if (text.length > ADDRESS_TEXT_MAX) return invalid(text, 'too long');
  if (isIPv4(text)) return ok(text as IpAddress);
  // How a dual-stack listener shows every IPv4 client: the common case of a proxy, without the detour.
  if (text.startsWith('::ffff:') && isIPv4(text.slice(7))) return ok(text.slice(7) as IpAddress);
  if (text.includes('%')) return invalid(text, 'zone ids are not accepted');
  if (isIPv6(text)) return addressFromBytes(ipv6Bytes(text));
  return invalid(text, 'not an IPv4 or IPv6 address');
}

/** Reads `10.0.0.0/8`; an address alone means the whole address. Bits past the prefix must be zero. */
export function parseCidr(text: string): Result<Cidr> {
  const slash = text.indexOf('/');
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash));
  if (!address.ok) return address;
  const bits = isIPv4(address.value) ? 32 : 128;
  if (slash < 0) return ok({ ip: address.value, prefixLength: bits });
  const length = text.slice(slash + 1);
  if (!/^(0|[1-9]\d{0,2})$/.test(length) || Number(length) > bits) {
    return invalid(text, `prefix length must be 0 to ${bits}`);
  }
  const cidr = { ip: address.value, prefixLength: Number(length) };
  const host = addressBytes(cidr.ip);
  for (let bit = cidr.prefixLength; bit < bits; bit++) {
    if (((host[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) !== 0) {
      return invalid(text, 'bits after the prefix are set');
    }
  }
  return ok(cidr);
}

export function cidrContains(cidr: Cidr, ip: IpAddress): boolean {
  const block = addressBytes(cidr.ip);
  const bytes = addressBytes(ip);
  if (block.length !== bytes.length) return false;
  const whole = cidr.prefixLength >> 3;
  if (block.compare(bytes, 0, whole, 0, whole) !== 0) return false;
  const rest = cidr.prefixLength & 7;
  if (rest === 0) return true;
  const mask = (0xff << (8 - rest)) & 0xff;
  return ((block[whole] ?? 0) & mask) === ((bytes[whole] ?? 0) & mask);
}

/** Reads a decimal TCP port, 1 to 65535, without sign, spaces or leading zeros. */
export function parsePort(text: string): Result<number> {
  if (!/^[1-9]\d{0,4}$/.test(text) || Number(text) > 65535) {
    return invalid(text, 'a port is a number from 1 to 65535');
  }
  return ok(Number(text));
}

/** Reads `10.0.0.1:80` or `[fd00::1]:80`. */
export function parseSocketAddress(text: string): Result<SocketAddress> {
  const colon = text.lastIndexOf(':');
  if (colon < 0) return invalid(text, 'no port');
  let host = text.slice(0, colon);
  const bracketed = host.startsWith('[') && host.endsWith(']');
  if (bracketed) host = host.slice(1, -1);
  if (bracketed !== host.includes(':')) return invalid(text, 'IPv6 needs brackets, IPv4 none');
  const ip = parseAddress(host);
  if (!ip.ok) return ip;
  const port = parsePort(text.slice(colon + 1));
  if (!port.ok) return port;
  return ok({ ip: ip.value, port: port.value });
}

export function formatSocketAddress(address: SocketAddress): string {
  return address.ip.includes(':')
    ? `[${address.ip}]:${address.port}`
    : `${address.ip}:${address.port}`;
}

export function isLoopback(ip: IpAddress): boolean {
  return ip.startsWith('127.') || ip === '::1';
}
