/** The controller: its Deployment, pods, leader, and what it says of every pod in the mesh. */

import type { Cluster } from '../cluster.ts';
import { CONTROLLER, NAMESPACE } from '../install/kube-object.ts';
import { isPodReady, labelOf, nameOf, type KubeItem, type PodItem } from '../kube-shapes.ts';
import { askPod, sectionOf } from './admin-answers.ts';
import type { Attempt } from './survey.ts';

/** A pod's way into the mesh, as the controller sees it. */
export interface PodPhase {
  readonly podUid: string;
  readonly phase: string;
  readonly reportState: string | undefined;
  /** Why its capture failed. */
  readonly reason: string;
}

/** Something wrong with an object that a user wrote. */
export interface ConfigProblem {
  readonly key: string;
  readonly reason: string;
  readonly message: string;
}

export interface ControllerSurvey {
  /** Undefined when there is no Deployment. */
  readonly desired: number | undefined;
  readonly ready: number;
  readonly version: string | undefined;
  readonly image: string | undefined;
  readonly pods: readonly PodItem[];
  /** Name of the pod that writes. */
  readonly leader: string | undefined;
  readonly trustDomain: string;
  readonly istioLabels: boolean;
  /** Nodes whose proxies are connected; undefined when no controller answered. */
  readonly connectedNodes: ReadonlySet<string> | undefined;
  readonly phases: ReadonlyMap<string, PodPhase>;
  readonly problems: readonly ConfigProblem[];
}

interface StatusSection {
  readonly nodes?: readonly string[];
  readonly pods?: readonly {
    readonly podUid?: string;
    readonly phase?: string;
    readonly report?: { readonly state?: string; readonly reason?: string };
  }[];
  readonly conditions?: readonly Partial<ConfigProblem>[];
}

interface Container {
  readonly image?: string;
  readonly env?: readonly { readonly name?: string; readonly value?: string }[];
}

const SELECTOR = 'app.kubernetes.io/name=nodemesh,app.kubernetes.io/component=controller';

function firstContainer(deployment: KubeItem | undefined): Container | undefined {
  const template = deployment?.spec?.['template'] as
    | { readonly spec?: { readonly containers?: readonly Container[] } }
    | undefined;
  return template?.spec?.containers?.[0];
}

/** Every replica knows only the nodes connected to it: what they say is joined. */
async function askControllers(
  cluster: Cluster,
  attempt: Attempt,
  pods: readonly PodItem[],
): Promise<readonly StatusSection[]> {
  const path = '/config_dump/status';
  const sections = await Promise.all(
    pods.map((pod) => {
      const name = nameOf(pod);
      const ask = async (): Promise<StatusSection | undefined> => {
        const ref = { namespace: NAMESPACE, name, container: 'controller' };
        const answers = await askPod(cluster, ref, [path]);
        return sectionOf(answers.first('controller', path), 'status') as StatusSection | undefined;
      };
      return attempt(`what controller ${name} knows`, ask, undefined);
    }),
  );
  return sections.filter((section) => section !== undefined);
}

export async function surveyController(
  cluster: Cluster,
  attempt: Attempt,
): Promise<ControllerSurvey> {
  const base = `/apis/apps/v1/namespaces/${NAMESPACE}/deployments/${CONTROLLER}`;
  const lease = `/apis/coordination.k8s.io/v1/namespaces/${NAMESPACE}/leases/${CONTROLLER}`;
  const list = `/api/v1/namespaces/${NAMESPACE}/pods`;
  const none: readonly unknown[] | undefined = undefined;
  const [deploymentItem, podItems, leaseItem] = await Promise.all([
    attempt('the controller', () => cluster.get(base), undefined),
    attempt('the controller pods', () => cluster.list(list, { labelSelector: SELECTOR }), none),
    attempt('the leader', () => cluster.get(lease), undefined),
  ]);
  const deployment = deploymentItem as KubeItem | undefined;
  const pods = (podItems ?? []) as readonly PodItem[];
  const sections = await askControllers(cluster, attempt, pods.filter(isPodReady));
  const container = firstContainer(deployment);
  const env = (name: string): string | undefined =>
    container?.env?.find((entry) => entry.name === name)?.value;
  const phases = new Map<string, PodPhase>();
  for (const { podUid = '', phase = '', report } of sections.flatMap((one) => one.pods ?? [])) {
    const before = phases.get(podUid);
    // The replica that has the report of the pod's node knows better.
    if (before !== undefined && report === undefined) continue;
    phases.set(podUid, {
      podUid,
      phase,
      reportState: report?.state,
      reason: report?.reason ?? '',
    });
  }
  const problems = new Map<string, ConfigProblem>();
  for (const { key = '', reason = '', message = '' } of sections.flatMap(
    (one) => one.conditions ?? [],
  )) {
    problems.set(`${key} ${reason}`, { key, reason, message });
  }
  const desired = deployment?.spec?.['replicas'];
  const holder = (leaseItem as KubeItem | undefined)?.spec?.['holderIdentity'];
  return {
    desired: typeof desired === 'number' ? desired : undefined,
    ready: pods.filter(isPodReady).length,
    version: deployment && labelOf(deployment, 'app.kubernetes.io/version'),
    image: container?.image,
    pods,
    leader: typeof holder === 'string' && holder !== '' ? holder : undefined,
    trustDomain: env('NODEMESH_TRUST_DOMAIN') ?? 'cluster.local',
    istioLabels: env('NODEMESH_ISTIO_LABELS') === 'true',
    connectedNodes:
      sections.length === 0 ? undefined : new Set(sections.flatMap((one) => one.nodes ?? [])),
    phases,
    problems: [...problems.values()],
  };
}
