/**
 * The metrics that workers count and the agent shows: Istio's traffic families and our own. Only names and values
 * travel between them, so both declare the families from this list.
 */

import type { FamilyOptions } from './series-store.ts';
import { TRAFFIC_FAMILIES } from './traffic-metrics.ts';

export const POLICY_DENIED: FamilyOptions = {
  name: 'nodemesh_policy_denied_total',
  help: 'Connections refused or closed by a policy',
  kind: 'counter',
  labels: ['policy'],
  seriesMax: 200,
  expires: true,
};

export const CONNECTION_ERRORS: FamilyOptions = {
  name: 'nodemesh_connection_errors_total',
  help: 'Connections that ended in an error, by its code',
  kind: 'counter',
  labels: ['code', 'direction'],
  seriesMax: 200,
};

export const HANDSHAKE_FAILURES: FamilyOptions = {
  name: 'nodemesh_handshake_failures_total',
  help: 'Handshakes on the tunnel port that failed, by the code of the error',
  kind: 'counter',
  labels: ['code'],
  seriesMax: 50,
};

export const WAYPOINT_BYPASS: FamilyOptions = {
  name: 'nodemesh_waypoint_bypass_total',
  help: 'Connections that would have gone past a declared waypoint and were ended; always 0',
  kind: 'counter',
  labels: [],
};

export const CONNECTIONS_OPEN: FamilyOptions = {
  name: 'nodemesh_connections_open',
  help: 'Connections that are open now',
  kind: 'gauge',
  labels: ['direction'],
};

export const LOG_LINES_DROPPED: FamilyOptions = {
  name: 'nodemesh_log_lines_dropped_total',
  help: 'Log lines that were dropped because the reader was too slow',
  kind: 'counter',
  labels: ['process'],
};

export const RESIDENT_MEMORY: FamilyOptions = {
  name: 'nodemesh_resident_memory_bytes',
  help: 'Resident memory of a process of the proxy',
  kind: 'gauge',
  labels: ['process'],
};

export const CPU_CORES: FamilyOptions = {
  name: 'nodemesh_cpu_cores',
  help: 'Processor time of a process of the proxy per second, since the report before',
  kind: 'gauge',
  labels: ['process'],
};

export const EVENTLOOP_LAG: FamilyOptions = {
  name: 'nodemesh_eventloop_lag_seconds',
  help: 'Longest delay of the event loop since the report before',
  kind: 'gauge',
  labels: ['process'],
};

export const WORKER_FAMILIES: readonly FamilyOptions[] = [
  ...Object.values(TRAFFIC_FAMILIES),
  POLICY_DENIED,
  CONNECTION_ERRORS,
  HANDSHAKE_FAILURES,
  WAYPOINT_BYPASS,
  CONNECTIONS_OPEN,
  LOG_LINES_DROPPED,
  RESIDENT_MEMORY,
  CPU_CORES,
  EVENTLOOP_LAG,
];
