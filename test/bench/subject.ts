/** What every subject of the bench offers: a client, addresses that lead to the servers, and its processes. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { TopologyPod } from '../../src/demo/topology.ts';
import type { Address } from './load.ts';
import type { SubjectName } from './options.ts';
import { startServer } from './tools.ts';

export type Service = 'iperf' | 'http' | 'same-node-iperf';

export interface Subject {
  readonly name: SubjectName;
  /** Where the load tools run. */
  readonly clientNetns: string;
  /** What a client connects to. */
  address(service: Service): Address;
  /** Processes that carry the traffic, whose CPU time counts; none for the direct path. */
  processes(): readonly number[];
  /** Processes of one node whose memory counts, by role; none for the direct path. */
  memoryProcesses(): ReadonlyMap<string, number>;
}

/** The pods of a subject: `neighbour` is a server on the client's node. */
export interface Pods {
  readonly client: TopologyPod;
  readonly server: TopologyPod;
  readonly neighbour: TopologyPod;
}

export const IPERF_PORT = 5201;
export const HTTP_PORT = 8080;

/** An answer costs this server 15 µs of CPU, so that what is in front of it decides the result. */
const HTTP_SERVER = `global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend answer
  bind :${HTTP_PORT}
  http-request return status 200 content-type text/plain string "the same forty bytes for every subject.."
`;

/** Starts an iperf3 and an HTTP server in the pod. They run until their namespace is cleared. */
export function startServers(pod: TopologyPod, dir: string): void {
  const log = join(dir, 'log', `servers-${pod.name}.log`);
  const config = join(dir, 'http-server.cfg');
  writeFileSync(config, HTTP_SERVER);
  startServer(pod.netns, ['iperf3', '-s', '-p', String(IPERF_PORT)], log);
  startServer(pod.netns, ['haproxy', '-db', '-f', config], log);
}
