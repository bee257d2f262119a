/**
 * Reads captured Ethernet frames down to TCP: enough to show who talked to whom and what was readable on
 * the wire. Frames come from strangers: what is short, broken or not TCP is `undefined`, never an error.
 */

import { formatIpv6 } from './sockaddr.ts';

export interface TcpSegment {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
  readonly syn: boolean;
  readonly ack: boolean;
  readonly fin: boolean;
  readonly rst: boolean;
  /** Shares memory with the frame. */
  readonly payload: Buffer;
}

interface IpPacket {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly payload: Buffer;
}

const ETHERNET_HEADER = 14;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const ETHERTYPE_VLAN = 0x8100;
const PROTOCOL_TCP = 6;

export function parseTcpFrame(frame: Buffer): TcpSegment | undefined {
  const packet = parseEthernet(frame);
  if (packet === undefined || packet.protocol !== PROTOCOL_TCP) return undefined;
  const tcp = packet.payload;
  if (tcp.length < 20) return undefined;
  const headerSize = ((tcp[12] ?? 0) >> 4) * 4;
  if (headerSize < 20 || headerSize > tcp.length) return undefined;
  const flags = tcp[13] ?? 0;
  return {
    source: packet.source,
    sourcePort: tcp.readUInt16BE(0),
    destination: packet.destination,
    destinationPort: tcp.readUInt16BE(2),
    fin: (flags & 0x01) !== 0,
    syn: (flags & 0x02) !== 0,
    rst: (flags & 0x04) !== 0,
    ack: (flags & 0x10) !== 0,
    payload: tcp.subarray(headerSize),
  };
}

function parseEthernet(frame: Buffer): IpPacket | undefined {
  if (frame.length < ETHERNET_HEADER) return undefined;
  let type = frame.readUInt16BE(12);
  let offset = ETHERNET_HEADER;
  if (type === ETHERTYPE_VLAN) {
    if (frame.length < offset + 4) return undefined;
    type = frame.readUInt16BE(offset + 2);
    offset += 4;
  }
  if (type === ETHERTYPE_IPV4) return parseIpv4(frame.subarray(offset));
  if (type === ETHERTYPE_IPV6) return parseIpv6(frame.subarray(offset));
  return undefined;
}

function parseIpv4(packet: Buffer): IpPacket | undefined {
  if (packet.length < 20 || (packet[0] ?? 0) >> 4 !== 4) return undefined;
  const headerSize = ((packet[0] ?? 0) & 15) * 4;
  const totalSize = packet.readUInt16BE(2);
  // A later fragment has no TCP header of its own.
  const isLaterFragment = (packet.readUInt16BE(6) & 0x1fff) !== 0;
  if (headerSize < 20 || isLaterFragment) return undefined;
  // The total is 0 in super-packets above 64 KiB (BIG TCP); the frame's end is the packet's end there.
  const end = totalSize === 0 ? packet.length : totalSize;
  if (end < headerSize || end > packet.length) return undefined;
  return {
    source: packet.subarray(12, 16).join('.'),
    destination: packet.subarray(16, 20).join('.'),
    protocol: packet[9] ?? 0,
    payload: packet.subarray(headerSize, end),
  };
}

/** Extension headers are not followed: TCP behind one is not shown. */
function parseIpv6(packet: Buffer): IpPacket | undefined {
  if (packet.length < 40 || (packet[0] ?? 0) >> 4 !== 6) return undefined;
  const payloadSize = packet.readUInt16BE(4);
  const end = payloadSize === 0 ? packet.length : 40 + payloadSize;
  if (end > packet.length) return undefined;
  return {
    source: formatIpv6(packet.subarray(8, 24)),
    destination: formatIpv6(packet.subarray(24, 40)),
    protocol: packet[6] ?? 0,
    payload: packet.subarray(40, end),
  };
}
