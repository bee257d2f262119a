/**
 * Captures what passes an interface of a namespace, as tcpdump does: for the demo's and the tests' proof of
 * what is readable on the wire. Polled, not awaited: libuv does not watch packet sockets through Node.
 */

import { closeSync } from 'node:fs';
import { endianness } from 'node:os';

import type { Clock } from '../base/clock.ts';
import {
  AF_PACKET,
  ETH_P_ALL_NETWORK_ORDER,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_RAW,
  SOL_SOCKET,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
} from './constants.ts';
import { runInNamespace, type NetworkNamespace } from './namespaces.ts';
import { checked, errnoOf, nativeInt, syscallError, type Native } from './native.ts';

export interface PacketCapture {
  /** Frames that came since the last call, oldest first, each a copy; at most `FRAMES_PER_READ`. */
  read(): Buffer[];
  /** Idempotent. */
  close(): void;
}

export const FRAMES_PER_READ = 1_024;
/** Segments travel a veth unsplit: up to 64 KiB and headers. */
const FRAME_MAX_BYTES = 66 * 1024;
const RECEIVE_BUFFER_BYTES = 16 * 1024 * 1024;

/** Starts capturing on `interfaceName`, both directions. What is not read in time is lost, oldest kept. */
export function openPacketCapture(
  native: Native,
  namespace: NetworkNamespace,
  interfaceName: string,
): PacketCapture {
  let fd = runInNamespace(native, namespace, () => openSocket(native, interfaceName));
  const into = Buffer.allocUnsafeSlow(FRAME_MAX_BYTES);
  return {
    read() {
      const frames: Buffer[] = [];
      if (fd < 0) return frames;
      while (frames.length < FRAMES_PER_READ) {
        const size = native.calls.recv(fd, into, BigInt(into.length), 0);
        if (size >= 0) {
          frames.push(Buffer.from(into.subarray(0, size)));
          continue;
        }
        const error = syscallError(native, 'recv', `from "${interfaceName}"`);
        if (errnoOf(error) === 'EAGAIN') break;
        // ENETDOWN: the interface went down or away; frames may come again.
        if (errnoOf(error) !== 'ENETDOWN' && errnoOf(error) !== 'EINTR') throw error;
      }
      return frames;
    },
    close() {
      if (fd >= 0) closeSync(fd);
      fd = -1;
    },
  };
}

/** Reads a capture every `periodMs` (default 20) and hands each frame on, until closed. */
export function capturePackets(
  native: Native,
  clock: Clock,
  namespace: NetworkNamespace,
  interfaceName: string,
  onFrame: (frame: Buffer) => void,
  periodMs: number = 20,
): PacketCapture {
  const capture = openPacketCapture(native, namespace, interfaceName);
  const timer = clock.every(periodMs, () => {
    for (const frame of capture.read()) onFrame(frame);
  });
  return {
    read: () => capture.read(),
    close() {
      timer.cancel();
      for (const frame of capture.read()) onFrame(frame);
      capture.close();
    },
  };
}

function openSocket(native: Native, interfaceName: string): number {
  const { calls } = native;
  const type = SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC;
  // Protocol 0: nothing is captured before `bind` names the interface, so no foreign frame slips in.
  const fd = checked(native, calls.socket(AF_PACKET, type, 0), 'socket', 'for capture');
  try {
    const index = calls.if_nametoindex(Buffer.from(`${interfaceName}\0`));
    if (index === 0) throw syscallError(native, 'find interface', `"${interfaceName}"`);
    const size = nativeInt(RECEIVE_BUFFER_BYTES);
    // The first goes past net.core.rmem_max with NET_ADMIN, the second is what is left without.
    if (calls.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, size, size.length) < 0) {
      calls.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, size, size.length);
    }
    const address = linkLayerAddress(index);
    checked(native, calls.bind(fd, address, address.length), 'bind', `to "${interfaceName}"`);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** `struct sockaddr_ll`: family and index in the machine's order, protocol in the network's. */
function linkLayerAddress(index: number): Buffer {
  const bytes = Buffer.alloc(20);
  const little = endianness() === 'LE';
  if (little) bytes.writeUInt16LE(AF_PACKET, 0);
  else bytes.writeUInt16BE(AF_PACKET, 0);
  bytes.writeUInt16LE(ETH_P_ALL_NETWORK_ORDER, 2);
  if (little) bytes.writeInt32LE(index, 4);
  else bytes.writeInt32BE(index, 4);
  return bytes;
}
