/**
 * The headers that describe a connection inside the tunnel: `baggage`, `forwarded` and `traceparent`
 * (reference: HBONE 1.3). All of it is for telemetry only and never reaches a policy (T44): values are
 * bounded and limited to printable characters, unknown keys are ignored, a malformed header is as absent.
 */

import { formatSocketAddress, parseSocketAddress, type SocketAddress } from '../core/address.ts';
import type { Workload } from '../core/workload.ts';

/** What the peers tell each other about a workload. Empty text means unknown. */
export interface WorkloadMetadata {
  readonly cluster: string;
  readonly namespace: string;
  readonly workloadType: 'deployment' | 'cronjob' | 'pod' | 'job';
  readonly workloadName: string;
  readonly canonicalName: string;
  readonly canonicalRevision: string;
  readonly region: string;
  readonly zone: string;
}

const HEADER_TEXT_MAX = 4096;
const VALUE_TEXT_MAX = 253;
const PRINTABLE = /^[\x21-\x7e]+$/;
const TYPES = ['deployment', 'cronjob', 'pod', 'job'] as const;

function clean(value: string): string {
  return value.length <= VALUE_TEXT_MAX && PRINTABLE.test(value) ? value : '';
}

export function formatBaggage(metadata: WorkloadMetadata): string {
  const fields: readonly (readonly [string, string])[] = [
    ['k8s.cluster.name', metadata.cluster],
    ['k8s.namespace.name', metadata.namespace],
    [`k8s.${metadata.workloadType}.name`, metadata.workloadName],
    ['service.name', metadata.canonicalName],
    ['service.version', metadata.canonicalRevision],
    ['cloud.region', metadata.region],
    ['cloud.availability_zone', metadata.zone],
  ];
  return fields
    .map(([key, value]) => [key, clean(value)] as const)
    .filter(([, value]) => value !== '' && !/[,;=]/.test(value))
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}

export function metadataOf(workload: Workload): WorkloadMetadata {
  const types = { DEPLOYMENT: 'deployment', CRONJOB: 'cronjob', POD: 'pod', JOB: 'job' } as const;
  return {
    cluster: workload.clusterId,
    namespace: workload.namespace,
    workloadType: types[workload.workloadType],
    workloadName: workload.workloadName === '' ? workload.name : workload.workloadName,
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    region: workload.locality.region,
    zone: workload.locality.zone,
  };
}

/** Reads one or several `baggage` header lines. The first value of a key counts. */
export function parseBaggage(lines: readonly string[]): WorkloadMetadata {
  const values = new Map<string, string>();
  let left = HEADER_TEXT_MAX;
  for (const line of lines) {
    left -= line.length;
    if (left < 0) break;
    for (const member of line.split(',')) {
      const equals = member.indexOf('=');
      const value = clean((member.slice(equals + 1).split(';')[0] ?? '').trim());
      const key = member.slice(0, equals).trim();
      if (equals > 0 && value !== '' && !values.has(key)) values.set(key, value);
    }
  }
  const type = TYPES.find((candidate) => values.has(`k8s.${candidate}.name`)) ?? 'pod';
  const read = (key: string): string => values.get(key) ?? '';
  return {
    cluster: read('k8s.cluster.name'),
    namespace: read('k8s.namespace.name'),
    workloadType: type,
    workloadName: read(`k8s.${type}.name`),
    canonicalName: read('service.name'),
    canonicalRevision: read('service.version'),
    region: read('cloud.region'),
    zone: read('cloud.availability_zone'),
  };
}

export interface Forwarded {
  /** The original client socket. */
  readonly source: SocketAddress | undefined;
  /** The service name the client addressed, empty if it addressed none. */
  readonly host: string;
}

/** `for="10.0.0.1:4711"`, and `;host=NAME` when the client addressed a service. */
export function formatForwarded(source: SocketAddress, host: string): string {
  const from = `for="${formatSocketAddress(source)}"`;
  return host === '' ? from : `${from};host=${host}`;
}

export function parseForwarded(text: string): Forwarded {
  let source: SocketAddress | undefined;
  let host = '';
  if (text.length > HEADER_TEXT_MAX || text.includes(',')) return { source, host };
  for (const part of text.split(';')) {
    const equals = part.indexOf('=');
    const key = part.slice(0, equals).trim().toLowerCase();
    let value = part.slice(equals + 1).trim();
    if (value.length >= 2 && value.startsWith('"') && value.endsWith('"')) {
      value = value.slice(1, -1);
    }
    if (key === 'for') {
      const parsed = parseSocketAddress(value);
      if (parsed.ok) source = parsed.value;
    } else if (key === 'host') {
      host = clean(value);
    }
  }
  return { source, host };
}

const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** W3C trace context, version 00, not sampled. `ids` is 24 random bytes. */
export function formatTraceparent(ids: Buffer): string {
  return `00-${ids.toString('hex', 0, 16)}-${ids.toString('hex', 16, 24)}-00`;
}

/** The trace id, for correlation in logs; empty when the header is absent or malformed. */
export function parseTraceId(text: string): string {
  return TRACEPARENT.test(text) ? text.slice(3, 35) : '';
}
