/** The node proxies: their DaemonSet, and what each says of itself on its own node. */

import { inBatches } from '../in-batches.ts';
import type { Cluster } from '../cluster.ts';
import { NAMESPACE, NODE } from '../install/kube-object.ts';
import {
  ageOf,
  isPodReady,
  labelOf,
  nameOf,
  restartsOf,
  waitingReasonOf,
  type KubeItem,
  type PodItem,
} from '../kube-shapes.ts';
import { askPod, metricValues, sectionOf, type AdminAnswers } from './admin-answers.ts';
import type { Attempt } from './survey.ts';

export interface ProxyCertificate {
  readonly identity: string;
  readonly notAfterMs: number;
}

/** What a node proxy says of itself; undefined where nobody answered. */
export interface ProxyAnswers {
  readonly blockers: readonly string[];
  readonly captured: number;
  readonly served: number;
  /** UIDs of the pods it serves. */
  readonly servedPods: ReadonlySet<string>;
  readonly connections: number;
  /** Since the configuration stream was lost; 0 while it stands. */
  readonly configAgeS: number;
  /** Of the last few seconds; undefined where the proxy does not say. */
  readonly cpuCores: number | undefined;
  readonly memoryBytes: number;
  readonly lagS: number;
  readonly certificates: readonly ProxyCertificate[];
}

export interface NodeProxy {
  readonly node: string;
  readonly pod: string;
  readonly ready: boolean;
  /** Being replaced: it serves its connections until they end. */
  readonly leaving: boolean;
  readonly version: string | undefined;
  readonly restarts: number;
  readonly ageMs: number;
  /** Why its container does not run. */
  readonly waiting: string | undefined;
  readonly answers: ProxyAnswers | undefined;
}

export interface NodeProxySurvey {
  /** Undefined when there is no DaemonSet. */
  readonly desired: number | undefined;
  readonly ready: number;
  readonly updated: number;
  /** By node. */
  readonly proxies: readonly NodeProxy[];
}

const SELECTOR = 'app.kubernetes.io/name=nodemesh,app.kubernetes.io/component=node';
const READY = '/healthz/ready';
const METRICS = '/metrics?prefix=nodemesh_';
const CERTIFICATES = '/config_dump/certificates';
const CONNECTIONS = '/config_dump/connections';
/** Each starts a program on its node. */
const ASKED_AT_ONCE = 8;

interface Readiness {
  readonly blockers?: readonly string[];
  readonly captured?: readonly string[];
  readonly served?: readonly string[];
  readonly agentPid?: number;
  readonly workers?: readonly { readonly pid?: number }[];
}

interface CertificateLine {
  readonly identity?: string;
  readonly notAfter?: string;
}

function sum(values: readonly { readonly value: number }[]): number {
  return values.reduce((total, { value }) => total + value, 0);
}

function readAnswers(answers: AdminAnswers): ProxyAnswers {
  const ready = (answers.first('port', READY) ?? {}) as Readiness;
  const metrics = answers.first('port', METRICS);
  // A predecessor that still drains has its sockets in the same folder.
  const workers = new Set(ready.workers?.map(({ pid }) => pid));
  const connections = answers
    .all('worker', CONNECTIONS)
    .filter(({ pid }) => workers.has(pid))
    .map(({ body }) => sectionOf(body, 'connections') as { readonly open?: number } | undefined);
  const lines = answers
    .all('agent', CERTIFICATES)
    .filter(({ pid }) => pid === ready.agentPid)
    .flatMap(({ body }) => (sectionOf(body, 'certificates') ?? []) as readonly CertificateLine[]);
  const served = ready.served ?? [];
  const cores = metricValues(metrics, 'nodemesh_cpu_cores');
  return {
    blockers: ready.blockers ?? [],
    captured: ready.captured?.length ?? 0,
    served: served.length,
    servedPods: new Set(served),
    connections: connections.reduce((total, one) => total + (one?.open ?? 0), 0),
    configAgeS: Math.max(0, sum(metricValues(metrics, 'nodemesh_config_age_seconds'))),
    cpuCores: cores.length === 0 ? undefined : sum(cores),
    memoryBytes: sum(metricValues(metrics, 'nodemesh_resident_memory_bytes')),
    lagS: Math.max(
      0,
      ...metricValues(metrics, 'nodemesh_eventloop_lag_seconds').map(({ value }) => value),
    ),
    certificates: lines.map(({ identity = '', notAfter = '' }) => ({
      identity,
      notAfterMs: Date.parse(notAfter),
    })),
  };
}

async function describe(
  cluster: Cluster,
  attempt: Attempt,
  pod: PodItem,
  nowMs: number,
): Promise<NodeProxy> {
  const name = nameOf(pod);
  const node = pod.spec?.nodeName ?? '';
  const leaving = pod.metadata?.deletionTimestamp !== undefined;
  const ask = async (): Promise<ProxyAnswers> => {
    const ref = { namespace: NAMESPACE, name, container: 'node' };
    return readAnswers(await askPod(cluster, ref, [READY, METRICS, CERTIFICATES, CONNECTIONS]));
  };
  const runs = pod.status?.phase === 'Running' && waitingReasonOf(pod) === undefined;
  const none: ProxyAnswers | undefined = undefined;
  return {
    node,
    pod: name,
    ready: isPodReady(pod),
    leaving,
    version: labelOf(pod, 'app.kubernetes.io/version'),
    restarts: restartsOf(pod),
    ageMs: ageOf(pod, nowMs),
    waiting: waitingReasonOf(pod),
    answers: runs && !leaving ? await attempt(`what the proxy of ${node} says`, ask, none) : none,
  };
}

export async function surveyNodeProxies(
  cluster: Cluster,
  attempt: Attempt,
  nowMs: number,
): Promise<NodeProxySurvey> {
  const path = `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/${NODE}`;
  const list = `/api/v1/namespaces/${NAMESPACE}/pods`;
  const none: readonly unknown[] | undefined = undefined;
  const [daemonSet, items] = await Promise.all([
    attempt('the node proxies', () => cluster.get(path), undefined),
    attempt('the node proxy pods', () => cluster.list(list, { labelSelector: SELECTOR }), none),
  ]);
  const pods = (items ?? []) as readonly PodItem[];
  const proxies = await inBatches(pods, ASKED_AT_ONCE, (pod) =>
    describe(cluster, attempt, pod, nowMs),
  );
  const status = (daemonSet as KubeItem | undefined)?.status;
  const count = (key: string): number => {
    const value = status?.[key];
    return typeof value === 'number' ? value : 0;
  };
  return {
    desired: daemonSet === undefined ? undefined : count('desiredNumberScheduled'),
    ready: count('numberReady'),
    updated: count('updatedNumberScheduled'),
    proxies: proxies.toSorted(
      (a, b) => a.node.localeCompare(b.node) || Number(a.leaving) - Number(b.leaving),
    ),
  };
}
