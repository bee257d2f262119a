/**
 * What crosses the wire between the nodes, captured frame by frame on the hub's bridge port: what a listener with
 * a cable would see. It counts segments by what they carry and keeps a sample of each for showing.
 */

import type { Clock } from '../base/clock.ts';
import { capturePackets, type PacketCapture } from '../linux/capture.ts';
import { parseTcpFrame, type TcpSegment } from '../linux/frames.ts';
import { openNamespace } from '../linux/namespaces.ts';
import type { Native } from '../linux/native.ts';

const HBONE_PORT = 15_008;
/** The controller's own port: TLS from the start, and not pod traffic. */
const DISCOVERY_PORT = 15_012;
const SAMPLE_BYTES = 48;

export interface WireCounts {
  /** Payload segments to or from port 15008. */
  readonly tunnel: number;
  /** Payload segments of pod traffic outside tunnels. */
  readonly plain: number;
  /** Of those, the ones of connections that opened since the last `reset`. */
  readonly plainNew: number;
  /** How many such connections there were. */
  readonly plainConnections: number;
  /** Segments in which a word of the applications can be read. */
  readonly readable: number;
  readonly plainSample: string;
  readonly tunnelSample: string;
}

export interface Wire {
  counts(): WireCounts;
  reset(): void;
  close(): void;
}

/** Words that the demo's applications say; a reader of the wire must not find them in a tunnel. */
const WORDS = ['GET / HTTP', '"app":', '220 db', 'say ', 'quit'].map((word) => Buffer.from(word));

function printable(bytes: Buffer): string {
  return bytes
    .subarray(0, SAMPLE_BYTES)
    .toString('latin1')
    .replaceAll(/[^\x20-\x7e]/g, '.');
}

export interface WirePlace {
  /** Path of the namespace that holds the device. */
  readonly netns: string;
  readonly device: string;
  /** Traffic that is not the pods' and does not count. Default: none but the controller's. */
  ignores?(segment: TcpSegment): boolean;
}

export function openWire(native: Native, clock: Clock, place: WirePlace): Wire {
  const namespace = openNamespace(native, place.netns);
  let tunnel = 0;
  let plain = 0;
  let plainNew = 0;
  let readable = 0;
  let plainSample = '';
  let tunnelSample = '';
  /** Connections whose SYN was seen since the last reset. */
  const opened = new Set<string>();
  /** Of those, the ones with a payload in plain text. */
  const plainOpened = new Set<string>();
  const onFrame = (frame: Buffer): void => {
    const segment = parseTcpFrame(frame);
    if (segment === undefined) return;
    const { source, sourcePort, destination, destinationPort, payload } = segment;
    const ports = [sourcePort, destinationPort];
    if (ports.includes(DISCOVERY_PORT) || place.ignores?.(segment) === true) return;
    const forth = `${source}|${sourcePort}|${destination}|${destinationPort}`;
    const back = `${destination}|${destinationPort}|${source}|${sourcePort}`;
    if (segment.syn && !segment.ack) opened.add(forth);
    if (payload.length === 0) return;
    if (WORDS.some((word) => payload.includes(word))) readable++;
    if (ports.includes(HBONE_PORT)) {
      tunnel++;
      tunnelSample = printable(payload);
      return;
    }
    plain++;
    const connection = [forth, back].find((direction) => opened.has(direction));
    if (connection !== undefined) {
      plainNew++;
      plainOpened.add(connection);
    }
    if (plainSample === '') plainSample = printable(payload);
  };
  const capture: PacketCapture = capturePackets(native, clock, namespace, place.device, onFrame);
  return {
    counts() {
      // What the kernel has and nobody has read yet counts as well.
      for (const frame of capture.read()) onFrame(frame);
      const plainConnections = plainOpened.size;
      return { tunnel, plain, plainNew, plainConnections, readable, plainSample, tunnelSample };
    },
    reset() {
      for (const frame of capture.read()) onFrame(frame);
      tunnel = 0;
      plain = 0;
      plainNew = 0;
      readable = 0;
      plainSample = '';
      tunnelSample = '';
      opened.clear();
      plainOpened.clear();
    },
    close() {
      capture.close();
      namespace.close();
    },
  };
}
