/**
 * Who is to be in the mesh and who is: namespaces and pods, decided by the controller's own functions from the same
 * labels, and joined with what controller and node proxies report.
 */

import { wantsEnrolment } from '../../controlplane/enrolment.ts';
import { parseManifest } from '../../controlplane/manifest/manifest.ts';
import type { MeshObject, Namespace, Pod } from '../../controlplane/objects.ts';
import type { Cluster } from '../cluster.ts';
import { MESH_LABEL, WAYPOINT_LABEL } from '../install/in-use.ts';
import { inBatches } from '../in-batches.ts';
import { labelOf, nameOf, namespaceOf, type KubeItem, type PodItem } from '../kube-shapes.ts';
import type { ControllerSurvey } from './controller.ts';
import type { NodeProxySurvey } from './node-proxies.ts';
import type { Attempt } from './survey.ts';

/**
 * `in`: captured and published. `joining` and `leaving`: on the way. `failed`: its node says why. `waiting`: nobody has
 * reported yet. `host-network` and `static`: it cannot be. `out`: it is not wanted.
 */
export type WorkloadState =
  | 'in'
  | 'joining'
  | 'leaving'
  | 'failed'
  | 'waiting'
  | 'host-network'
  | 'static'
  | 'out';

export interface Workload {
  readonly namespace: string;
  readonly name: string;
  readonly podIp: string | undefined;
  readonly node: string | undefined;
  readonly state: WorkloadState;
  readonly reason: string;
  readonly waypoint: string | undefined;
  readonly identity: string;
  readonly certificateNotAfterMs: number | undefined;
}

export interface EnrolledNamespace {
  readonly name: string;
  /** Undefined: only some of its pods are, by their own label. */
  readonly label: string | undefined;
  readonly waypoint: string | undefined;
  readonly wanted: number;
  readonly captured: number;
}

export interface EnrolmentSurvey {
  readonly namespaces: readonly EnrolledNamespace[];
  /** Running pods of those namespaces. */
  readonly workloads: readonly Workload[];
}

const LISTED_AT_ONCE = 4;
const ISTIO_LABEL = 'istio.io/dataplane-mode';

function parsed(item: KubeItem, kind: 'Pod' | 'Namespace'): MeshObject | undefined {
  const result = parseManifest({ ...item, apiVersion: 'v1', kind });
  return result.status === 'object' ? result.object : undefined;
}

const NOT_WANTED: readonly WorkloadState[] = ['host-network', 'static', 'out', 'leaving'];

function hasEnded({ status }: PodItem): boolean {
  return status?.phase === 'Succeeded' || status?.phase === 'Failed';
}

function stateOf(
  wanted: boolean,
  isStatic: boolean,
  pod: PodItem,
  controller: ControllerSurvey,
  proxies: NodeProxySurvey,
): readonly [state: WorkloadState, reason: string] {
  const uid = pod.metadata?.uid ?? '';
  const known = controller.phases.get(uid);
  if (pod.spec?.hostNetwork === true) return ['host-network', 'it uses the network of its node'];
  if (isStatic) return ['static', 'it is a static pod, which has no service account'];
  if (known !== undefined) {
    if (!wanted) return known.phase === 'plain' ? ['out', ''] : ['leaving', ''];
    if (known.reportState === 'failed') return ['failed', known.reason];
    if (known.phase === 'enrolled' || known.phase === 'announcing') return ['in', ''];
    return [known.reportState === undefined ? 'waiting' : 'joining', known.reason];
  }
  if (!wanted) return ['out', ''];
  // The controller is gone or new: what the node itself says still counts.
  const served = proxies.proxies.some(({ answers }) => answers?.servedPods.has(uid) === true);
  return served ? ['in', ''] : ['waiting', ''];
}

function describe(
  item: PodItem,
  namespace: KubeItem | undefined,
  controller: ControllerSurvey,
  proxies: NodeProxySurvey,
): Workload {
  const pod = parsed(item, 'Pod') as Pod | undefined;
  const space = namespace && (parsed(namespace, 'Namespace') as Namespace | undefined);
  const wanted = pod !== undefined && wantsEnrolment(pod, space, controller.istioLabels);
  const isStatic = pod?.isStatic === true;
  const [state, reason] = stateOf(wanted, isStatic, item, controller, proxies);
  const account = item.spec?.serviceAccountName ?? 'default';
  const identity = `spiffe://${controller.trustDomain}/ns/${namespaceOf(item)}/sa/${account}`;
  const node = item.spec?.nodeName;
  const certificate = proxies.proxies
    .find((proxy) => proxy.node === node && !proxy.leaving)
    ?.answers?.certificates.find((held) => held.identity === identity);
  const waypoint =
    labelOf(item, WAYPOINT_LABEL) ?? (namespace && labelOf(namespace, WAYPOINT_LABEL));
  return {
    namespace: namespaceOf(item),
    name: nameOf(item),
    podIp: item.status?.podIP,
    node,
    state,
    reason,
    waypoint: waypoint === 'none' ? undefined : waypoint,
    identity,
    certificateNotAfterMs: state === 'in' ? certificate?.notAfterMs : undefined,
  };
}

export async function surveyEnrolment(
  cluster: Cluster,
  attempt: Attempt,
  controller: ControllerSurvey,
  proxies: NodeProxySurvey,
): Promise<EnrolmentSurvey> {
  const none: readonly unknown[] | undefined = undefined;
  const byLabel = { labelSelector: MESH_LABEL };
  const [spaceItems, labelled] = await Promise.all([
    attempt('the namespaces', () => cluster.list('/api/v1/namespaces'), none),
    attempt('pods with a label of their own', () => cluster.list('/api/v1/pods', byLabel), none),
  ]);
  const spaces = (spaceItems ?? []) as readonly KubeItem[];
  const isEnrolled = (space: KubeItem): boolean =>
    labelOf(space, MESH_LABEL) === 'enabled' ||
    (controller.istioLabels && labelOf(space, ISTIO_LABEL) === 'ambient');
  const enrolled = new Set(spaces.filter(isEnrolled).map(nameOf));
  const lists = await inBatches([...enrolled], LISTED_AT_ONCE, (name) =>
    attempt(`the pods of ${name}`, () => cluster.list(`/api/v1/namespaces/${name}/pods`), none),
  );
  const singles = ((labelled ?? []) as readonly PodItem[]).filter(
    (pod) => !enrolled.has(namespaceOf(pod)),
  );
  const pods = [...(lists.flatMap((items) => items ?? []) as readonly PodItem[]), ...singles];
  const bySpace = new Map(spaces.map((space) => [nameOf(space), space]));
  const workloads = pods
    .filter((pod) => !hasEnded(pod))
    .map((pod) => describe(pod, bySpace.get(namespaceOf(pod)), controller, proxies))
    .toSorted((a, b) => a.namespace.localeCompare(b.namespace) || a.name.localeCompare(b.name));
  const names = new Set([...enrolled, ...singles.map(namespaceOf)]);
  const namespaces = [...names].toSorted().map((name): EnrolledNamespace => {
    const own = workloads.filter(({ namespace }) => namespace === name);
    const space = bySpace.get(name);
    return {
      name,
      label: enrolled.has(name) ? 'enabled' : undefined,
      waypoint: space && labelOf(space, WAYPOINT_LABEL),
      wanted: own.filter(({ state }) => !NOT_WANTED.includes(state)).length,
      captured: own.filter(({ state }) => state === 'in').length,
    };
  });
  return { namespaces, workloads };
}
