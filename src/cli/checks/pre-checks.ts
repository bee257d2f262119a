/** What `meshctl check --pre` asks before anything is installed: whether it will work here. */

import { isKernelNewEnough, KERNEL_MIN } from '../../linux/platform.ts';
import type { Cluster } from '../cluster.ts';
import { NAMESPACE } from '../install/kube-object.ts';
import { nameOf, type KubeItem } from '../kube-shapes.ts';
import { good, problem, warning, type Check, type Finding } from './check.ts';

export interface Prospect {
  /** As the API server says it, e.g. `v1.36.3`. */
  readonly serverVersion: string;
  readonly nodes: readonly KubeItem[];
  /** What we may not do that an installation must. */
  readonly refused: readonly string[];
  readonly installed: boolean;
  /** Of the Gateway API, where it is installed. */
  readonly gatewayApi: { readonly version: string; readonly channel: string } | undefined;
  /** Names of DaemonSets of another mesh. */
  readonly others: readonly string[];
}

/** appArmorProfile as a field and ValidatingAdmissionPolicy are there from this minor version on. */
const SERVER_MIN: readonly [number, number] = [1, 30];
const ARCHITECTURES = ['amd64', 'arm64'];
const OTHER_MESHES = /^(?:ztunnel|istio-cni|linkerd-)/;

const NEEDED: readonly (readonly [group: string, resource: string, namespace: string])[] = [
  ['', 'namespaces', ''],
  ['apiextensions.k8s.io', 'customresourcedefinitions', ''],
  ['rbac.authorization.k8s.io', 'clusterroles', ''],
  ['rbac.authorization.k8s.io', 'clusterrolebindings', ''],
  ['rbac.authorization.k8s.io', 'roles', NAMESPACE],
  ['admissionregistration.k8s.io', 'validatingadmissionpolicies', ''],
  ['', 'serviceaccounts', NAMESPACE],
  ['', 'services', NAMESPACE],
  ['apps', 'deployments', NAMESPACE],
  ['apps', 'daemonsets', NAMESPACE],
  ['policy', 'poddisruptionbudgets', NAMESPACE],
  ['networking.k8s.io', 'networkpolicies', NAMESPACE],
];

async function mayCreate(
  cluster: Cluster,
  [group, resource, namespace]: (typeof NEEDED)[number],
): Promise<string[]> {
  const review = (await cluster.create('/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
    apiVersion: 'authorization.k8s.io/v1',
    kind: 'SelfSubjectAccessReview',
    spec: { resourceAttributes: { group, resource, namespace, verb: 'create' } },
  })) as KubeItem | undefined;
  if (review?.status?.['allowed'] === true) return [];
  return [group === '' ? resource : `${resource}.${group}`];
}

export async function surveyProspect(cluster: Cluster): Promise<Prospect> {
  const version = (await cluster.get('/version')) as { readonly gitVersion?: string } | undefined;
  const crd =
    '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.gateway.networking.k8s.io';
  const [nodes, refused, namespace, gateway, daemonSets] = await Promise.all([
    cluster.list('/api/v1/nodes'),
    Promise.all(NEEDED.map((needed) => mayCreate(cluster, needed))),
    cluster.get(`/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/nodemesh-node`),
    cluster.get(crd),
    cluster.list('/apis/apps/v1/daemonsets'),
  ]);
  const annotations = (gateway as KubeItem | undefined)?.metadata?.annotations ?? {};
  const names = ((daemonSets ?? []) as readonly KubeItem[]).map(nameOf);
  return {
    serverVersion: version?.gitVersion ?? '',
    nodes: (nodes ?? []) as readonly KubeItem[],
    refused: refused.flat(),
    installed: namespace !== undefined,
    gatewayApi:
      gateway === undefined
        ? undefined
        : {
            version: annotations['gateway.networking.k8s.io/bundle-version'] ?? 'unknown',
            channel: annotations['gateway.networking.k8s.io/channel'] ?? 'unknown',
          },
    others: names.filter((name) => OTHER_MESHES.test(name)),
  };
}

function checkServer({ serverVersion }: Prospect): Finding[] {
  const [, major, minor] = /^v?(\d+)\.(\d+)/.exec(serverVersion) ?? [];
  const isOld =
    Number(major) < SERVER_MIN[0] ||
    (Number(major) === SERVER_MIN[0] && Number(minor) < SERVER_MIN[1]);
  if (major === undefined)
    return [warning('the version of Kubernetes is not known', serverVersion)];
  if (!isOld) return [good(`Kubernetes is ${serverVersion}`)];
  return [problem(`Kubernetes is ${serverVersion}`, `v${SERVER_MIN.join('.')} or newer is needed`)];
}

function checkRights({ refused }: Prospect): Finding[] {
  if (refused.length === 0) return [good('you may create what the mesh consists of')];
  const hint = `kubectl auth can-i create ${refused[0]}`;
  return [
    problem(
      `you may not create ${refused.join(', ')}`,
      'an installation needs an administrator of the cluster',
      hint,
    ),
  ];
}

interface NodeInfo {
  readonly kernelVersion?: string;
  readonly operatingSystem?: string;
  readonly architecture?: string;
}

function checkNodes({ nodes }: Prospect): Finding[] {
  const found: Finding[] = [];
  let fit = 0;
  for (const node of nodes) {
    const info = (node.status?.['nodeInfo'] ?? {}) as NodeInfo;
    const { kernelVersion = '', operatingSystem = '', architecture = '' } = info;
    if (operatingSystem !== 'linux') {
      found.push(warning(`${nameOf(node)}: will have no proxy`, `it runs ${operatingSystem}`));
    } else if (!isKernelNewEnough(kernelVersion)) {
      const cause = `its kernel is ${kernelVersion}, Linux ${KERNEL_MIN.join('.')} or newer is needed`;
      found.push(problem(`${nameOf(node)}: its proxy will not start`, cause));
    } else if (!ARCHITECTURES.includes(architecture)) {
      found.push(
        problem(
          `${nameOf(node)}: its proxy will not start`,
          `there is no image for ${architecture}`,
        ),
      );
    } else fit += 1;
  }
  if (fit > 0) found.unshift(good(`${fit} nodes have a kernel that will do`));
  return nodes.length === 0 ? [problem('there are no nodes')] : found;
}

function checkInstalled({ installed }: Prospect): Finding[] {
  if (!installed) return [good('nothing of ours is here yet')];
  return [warning('it is installed already', 'installing again upgrades it', 'meshctl status')];
}

function checkOthers({ others }: Prospect): Finding[] {
  if (others.length === 0) return [];
  const cause = `there are the DaemonSets ${others.join(', ')}`;
  return [warning('another mesh is here', `${cause}; a pod can be in one of them only`)];
}

function checkGatewayApi({ gatewayApi }: Prospect): Finding[] {
  if (gatewayApi === undefined) {
    return [good('Gateway API is not installed; only waypoints need it')];
  }
  return [good(`Gateway API is ${gatewayApi.version}, ${gatewayApi.channel} channel`)];
}

export const PRE_CHECKS: readonly Check<Prospect>[] = [
  { code: 'MC101', category: 'cluster', run: checkServer },
  { code: 'MC102', category: 'cluster', run: checkRights },
  { code: 'MC103', category: 'cluster', run: checkNodes },
  { code: 'MC104', category: 'cluster', run: checkInstalled },
  { code: 'MC105', category: 'cluster', run: checkOthers },
  { code: 'MC106', category: 'cluster', run: checkGatewayApi },
];
