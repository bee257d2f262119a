/**
 * Addresses as 32-bit words, so that one policy decision parses each address once and then compares numbers.
 * `core/address.ts` says what an address is; this file only makes asking "is it inside" cheap. Measured on
 * 2026-11-20, per block: words 16 ns, `cidrContains` 1.1 to 2.8 µs. One `net.BlockList` answers in 300 ns
 * however many blocks it holds, so it would win only from about 20 blocks in one list.
 */

import { addressBytes, type Cidr, type IpAddress } from '../core/address.ts';

export type AddressWords = readonly number[];

/** One word for IPv4, four for IPv6, unsigned, in network order. */
export function addressWords(ip: IpAddress): AddressWords {
  const bytes = addressBytes(ip);
  if (bytes.length === 4) return [bytes.readUInt32BE(0)];
  return [0, 4, 8, 12].map((offset) => bytes.readUInt32BE(offset));
}

export interface AddressMask {
  readonly words: AddressWords;
  readonly masks: AddressWords;
}

/**
 * The block ready for comparison. Undefined when its prefix length does not fit its family: whoever compiled
 * it must then treat the policy as not understood.
 */
export function compileMask(cidr: Cidr): AddressMask | undefined {
  const words = addressWords(cidr.ip);
  const { prefixLength } = cidr;
  if (!Number.isInteger(prefixLength) || prefixLength < 0 || prefixLength > words.length * 32) {
    return undefined;
  }
  const masks = words.map((_, index) => {
    const bits = Math.min(32, Math.max(0, prefixLength - index * 32));
    // A shift by 32 is a shift by 0 in JavaScript, so the empty mask is its own case.
    return bits === 0 ? 0 : (0xffffffff << (32 - bits)) >>> 0;
  });
  return { words: words.map((word, index) => (word & (masks[index] ?? 0)) >>> 0), masks };
}

/** Addresses of the other family are outside. */
export function maskContains(mask: AddressMask, words: AddressWords): boolean {
  if (mask.words.length !== words.length) return false;
  for (let index = 0; index < words.length; index++) {
    if (((words[index] ?? 0) & (mask.masks[index] ?? 0)) >>> 0 !== mask.words[index]) return false;
  }
  return true;
}
