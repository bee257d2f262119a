/** What the L7 bench measures: its cases, who stands beside nodemesh in each, and the metrics. */

export interface L7Case {
  readonly name: string;
  readonly connections: number;
  /** Requests at once on each connection; more than 1 only over HTTP/2. */
  readonly streams: number;
  readonly routes: number;
  /** gRPC-shaped requests over HTTP/2. */
  readonly grpc: boolean;
  readonly subjects: readonly SubjectName[];
  /** Requests per second at which the time of each is taken; 0: it is not. All subjects must bear it. */
  readonly rate: number;
}

export const L7_SUBJECTS = ['nodemesh', 'envoy', 'haproxy', 'l4', 'direct'] as const;
export type SubjectName = (typeof L7_SUBJECTS)[number];

/** Proxies on loopback, alike in what they do. */
const PROXIES: readonly SubjectName[] = ['nodemesh', 'envoy', 'haproxy'];
/** The whole path has no equivalent of others here: beside it stand the mesh without a waypoint, and no mesh at all. */
const PATHS: readonly SubjectName[] = ['nodemesh', 'l4', 'direct'];

const http1 = { connections: 16, streams: 1, routes: 1, grpc: false, subjects: PROXIES, rate: 0 };

export const L7_CASES: readonly L7Case[] = [
  { ...http1, name: 'http1-16', rate: 1_000 },
  { ...http1, name: 'http1-64', connections: 64 },
  { ...http1, name: 'grpc-64', connections: 4, streams: 16, grpc: true, rate: 500 },
  { ...http1, name: 'routes-10', routes: 10 },
  { ...http1, name: 'routes-1000', routes: 1_000 },
  { ...http1, name: 'routes-10000', routes: 10_000 },
  { ...http1, name: 'mesh-http1-16', subjects: PATHS, rate: 500 },
];

/** `rps` and `cpu_us` with as many requests as it takes; the times at the case's constant rate. */
export const L7_METRICS = ['rps', 'cpu_us', 'p50_ms', 'p99_ms', 'p999_ms'] as const;
export type L7Metric = (typeof L7_METRICS)[number];
