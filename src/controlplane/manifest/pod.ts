/** Reads a Pod: identity, addresses, readiness, owner, named ports and probe ports. */

import { createHash } from 'node:crypto';

import type { IpAddress } from '../../core/address.ts';
import { isServiceAccountName } from '../../core/identity.ts';
import type { PodUid } from '../../core/pod.ts';
import type { WorkloadType } from '../../core/workload.ts';
import type { ContainerPort, ObjectMeta, Pod } from '../objects.ts';
import type { Fields } from './fields.ts';
import { isPodAddress, readTime } from './metadata.ts';

const CONTAINERS_MAX = 256;
const PORTS_MAX = 1024;
const ADDRESSES_MAX = 16;
const UID_MAX = 128;
/** As the wire has it: begins and ends with a letter or digit. */
const UID = /^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?$/;
/** Written by the kubelet. */
export const MIRROR_ANNOTATION = 'kubernetes.io/config.mirror';
const STATIC_UID = /^[0-9a-f]{32}$/;
/** The reserved source may reach no more ports of one pod than the wire carries. */
const PROBE_PORTS_MAX = 256;
const PHASES = ['Pending', 'Running', 'Succeeded', 'Failed', 'Unknown'] as const;
const PROBES = ['livenessProbe', 'readinessProbe', 'startupProbe'] as const;

/**
 * Beyond Kubernetes' rules, for pods written by hand: no `uid` gets one made from the name; addresses
 * without a phase mean Running; Running without conditions means ready.
 */
export function readPod(root: Fields, meta: ObjectMeta): Pod {
  const metadata = root.object('metadata');
  const spec = root.object('spec');
  const status = root.object('status');
  const addresses = readPodAddresses(status);
  const phase = status?.oneOf('phase', PHASES) ?? (addresses.length > 0 ? 'Running' : 'Pending');
  const containers = readContainers(spec);
  const mirrored = readMirrored(meta);
  const serviceAccount = spec?.string('serviceAccountName', 'default') || 'default';
  if (!isServiceAccountName(serviceAccount)) {
    spec?.problem('serviceAccountName', 'must be the name of a service account');
  }
  return {
    kind: 'Pod',
    meta,
    uid: mirrored ?? readUid(metadata, meta),
    isStatic: mirrored !== undefined,
    serviceAccount,
    node: spec?.string('nodeName') ?? '',
    addresses,
    phase,
    ready: isReady(status, phase),
    deletionMs: metadata === undefined ? undefined : readTime(metadata, 'deletionTimestamp'),
    hostNetwork: spec?.boolean('hostNetwork') ?? false,
    ...readOwner(metadata, meta),
    ...containers,
  };
}

/**
 * The uid that the node knows a static pod by: its object in the API is a copy with another one. Anybody who may make
 * pods may write the annotation, so only the kubelet's own form counts, a hash of the file: no pod that the API server
 * has named can be meant by it.
 */
function readMirrored(meta: ObjectMeta): PodUid | undefined {
  const uid = meta.annotations.get(MIRROR_ANNOTATION) ?? '';
  return STATIC_UID.test(uid) ? (uid as PodUid) : undefined;
}

function readUid(metadata: Fields | undefined, meta: ObjectMeta): PodUid {
  const uid = metadata?.string('uid') ?? '';
  if (uid !== '') {
    // The uid names directories and map keys on the node: letters, digits and dashes only.
    if (uid.length > UID_MAX || !UID.test(uid)) {
      metadata?.problem('uid', 'must be letters, digits and dashes');
    }
    return uid as PodUid;
  }
  const hash = createHash('sha256').update(`${meta.namespace}/${meta.name}`).digest('hex');
  return hash.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, '$1-$2-$3-$4-$5') as PodUid;
}

function readPodAddresses(status: Fields | undefined): IpAddress[] {
  const found = new Set<IpAddress>();
  const add = (fields: Fields, key: string): void => {
    const ip = fields.address(key);
    if (ip !== undefined && isPodAddress(ip)) found.add(ip);
    else if (ip !== undefined) fields.problem(key, 'is not an address that a pod can have');
  };
  if (status !== undefined) add(status, 'podIP');
  for (const entry of status?.objects('podIPs', ADDRESSES_MAX) ?? []) add(entry, 'ip');
  return [...found];
}

function isReady(status: Fields | undefined, phase: Pod['phase']): boolean {
  if (phase !== 'Running') return false;
  if (status?.has('conditions') !== true) return true;
  return status
    .objects('conditions')
    .some(
      (condition) => condition.string('type') === 'Ready' && condition.string('status') === 'True',
    );
}

interface Containers {
  readonly ports: readonly ContainerPort[];
  readonly probePorts: readonly number[];
}

function readContainers(spec: Fields | undefined): Containers {
  const ports: ContainerPort[] = [];
  const probePorts = new Set<number>();
  // Init containers count: with restartPolicy Always they are sidecars, with ports and probes.
  for (const list of ['initContainers', 'containers']) {
    for (const container of spec?.objects(list, CONTAINERS_MAX) ?? []) {
      const own = readContainerPorts(container);
      ports.push(...own);
      for (const probe of PROBES) readProbe(container.object(probe), own, probePorts);
    }
  }
  if (probePorts.size > PROBE_PORTS_MAX) {
    spec?.problem('containers', `declare probes on over ${PROBE_PORTS_MAX} ports`);
  }
  return { ports, probePorts: [...probePorts].toSorted((a, b) => a - b) };
}

function readContainerPorts(container: Fields): ContainerPort[] {
  const ports: ContainerPort[] = [];
  for (const entry of container.objects('ports', PORTS_MAX)) {
    const port = entry.integer('containerPort', 1, 65535);
    if (port === undefined || entry.string('protocol', 'TCP') !== 'TCP') continue;
    ports.push({ name: entry.string('name'), port });
  }
  return ports;
}

function readProbe(
  probe: Fields | undefined,
  ports: readonly ContainerPort[],
  found: Set<number>,
): void {
  for (const kind of ['httpGet', 'tcpSocket', 'grpc']) {
    const action = probe?.object(kind);
    if (action === undefined) continue;
    // A probe at another host does not come to this pod.
    if (kind !== 'grpc' && action.string('host') !== '') continue;
    const value = action.raw('port');
    const named = ports.find((port) => port.name === value);
    // Kubernetes takes names that nothing has, and the kubelet then probes nothing: no port needs to be open for it.
    if (typeof value === 'string' && named === undefined && !/^[0-9]*$/.test(value)) continue;
    const port = named === undefined ? Number(value) : named.port;
    if (Number.isInteger(port) && port >= 1 && port <= 65535) found.add(port);
    else action.problem('port', 'must be a port number or the name of a port of this container');
  }
}

/** The owner as users know it: a ReplicaSet stands for its Deployment, a Job may stand for its CronJob. */
function readOwner(
  metadata: Fields | undefined,
  meta: ObjectMeta,
): { workloadName: string; workloadType: WorkloadType } {
  const owners = metadata?.objects('ownerReferences', 64) ?? [];
  const owner = owners.find((entry) => entry.raw('controller') === true);
  const name = owner?.string('name') ?? '';
  const hash = meta.labels.get('pod-template-hash') ?? '';
  switch (owner?.string('kind') ?? '') {
    case 'ReplicaSet':
      if (hash !== '' && name.endsWith(`-${hash}`)) {
        return { workloadName: name.slice(0, -hash.length - 1), workloadType: 'DEPLOYMENT' };
      }
      return { workloadName: name, workloadType: 'DEPLOYMENT' };
    case 'Deployment':
      return { workloadName: name, workloadType: 'DEPLOYMENT' };
    case 'CronJob':
      return { workloadName: name, workloadType: 'CRONJOB' };
    case 'Job': {
      // A CronJob names its Jobs NAME-MINUTES, minutes since 1970 in at least eight digits.
      const cron = /^(.+)-\d{8,12}$/.exec(name);
      if (cron?.[1] !== undefined) return { workloadName: cron[1], workloadType: 'CRONJOB' };
      return { workloadName: name, workloadType: 'JOB' };
    }
    default:
      return { workloadName: name === '' ? meta.name : name, workloadType: 'POD' };
  }
}
