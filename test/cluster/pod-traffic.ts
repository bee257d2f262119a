/** Which captured segments are traffic between pods of the own cluster: what the mesh is there for. */

import type { TcpSegment } from '../../src/linux/frames.ts';

const POD_ADDRESS = /^(?:10\.244\.|fd00:10:244:)/;
/** Names are asked for over TCP, too, when an answer is long. */
const DNS_PORT = 53;

export function isPodTraffic(segment: TcpSegment): boolean {
  if (segment.sourcePort === DNS_PORT || segment.destinationPort === DNS_PORT) return false;
  return POD_ADDRESS.test(segment.source) && POD_ADDRESS.test(segment.destination);
}
