/** The direct path: the same pods and veths with nothing in between. */

import { HTTP_PORT, IPERF_PORT, type Pods, type Service, type Subject } from './subject.ts';

export function createDirectSubject(pods: Pods): Subject {
  const addresses: Record<Service, { host: string; port: number }> = {
    iperf: { host: pods.server.ip, port: IPERF_PORT },
    http: { host: pods.server.ip, port: HTTP_PORT },
    'same-node-iperf': { host: pods.neighbour.ip, port: IPERF_PORT },
  };
  return {
    name: 'direct',
    clientNetns: pods.client.netns,
    address: (service) => addresses[service],
    processes: () => [],
    memoryProcesses: () => new Map(),
  };
}
