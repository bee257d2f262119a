/**
 * What is stored of one node's pods on their way into the mesh: a ConfigMap in the controller's own namespace,
 * about 48 bytes a pod. No right to write to anybody's pods is needed for it.
 */

import { createHash } from 'node:crypto';

import type { EnrolmentPhase } from '../controlplane/enrolment.ts';
import type { NodePhases } from '../controlplane/enrolment-sharing.ts';
import type { PodUid } from '../core/pod.ts';

export const RECORD_LABEL = 'nodemesh.dev/enrolment';
const PREFIX = 'nodemesh-enrolment-';
const NAME_CHARS_MAX = 253;
/** More than any kubelet runs, and within what etcd takes. */
const PODS_MAX = 10_000;
const UID = /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,126}[A-Za-z0-9])?$/;
const PHASES: readonly EnrolmentPhase[] = ['announcing', 'enrolled', 'relaxing', 'retracting'];

export interface EnrolmentRecord {
  readonly node: string;
  /** The controller that decides. */
  readonly home: string;
  readonly phases: NodePhases;
  /** `resourceVersion`, of the API server. */
  readonly version: string;
}

export function recordName(node: string): string {
  const name = PREFIX + node;
  if (name.length <= NAME_CHARS_MAX) return name;
  return PREFIX + createHash('sha256').update(node).digest('hex');
}

export function formatRecord(
  { node, home, phases, version }: EnrolmentRecord,
  namespace: string,
): Record<string, unknown> {
  const labels = { 'app.kubernetes.io/part-of': 'nodemesh', [RECORD_LABEL]: 'true' };
  const metadata: Record<string, unknown> = { name: recordName(node), namespace, labels };
  if (version !== '') metadata['resourceVersion'] = version;
  const lines = [...phases].slice(0, PODS_MAX).map(([uid, phase]) => `${uid} ${phase}`);
  const data = { node, home, pods: lines.join('\n') };
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata, data };
}

/** Undefined for what is none. Lines that say nothing known are left out: a newer controller's, perhaps. */
export function parseRecord(value: unknown): EnrolmentRecord | undefined {
  const { metadata, data } = (value ?? {}) as {
    metadata?: { resourceVersion?: unknown } | null;
    data?: Readonly<Record<string, unknown>> | null;
  };
  const { node, home, pods } = data ?? {};
  const version = metadata?.resourceVersion;
  if (typeof node !== 'string' || typeof home !== 'string' || typeof pods !== 'string') {
    return undefined;
  }
  const phases = new Map<PodUid, EnrolmentPhase>();
  for (const line of pods.split('\n').slice(0, PODS_MAX)) {
    const [uid = '', word] = line.split(' ');
    const phase = PHASES.find((known) => known === word);
    if (phase !== undefined && UID.test(uid)) phases.set(uid as PodUid, phase);
  }
  return { node, home, phases, version: typeof version === 'string' ? version : '' };
}

export function samePhases(a: NodePhases, b: NodePhases): boolean {
  if (a.size !== b.size) return false;
  for (const [uid, phase] of a) if (b.get(uid) !== phase) return false;
  return true;
}
