/**
 * One Kubernetes-shaped object of unknown origin → one object of the mesh, or the list of what is wrong with
 * it by field path, or the news that its kind is none of ours. Used by both sources. Never throws.
 */

import type { MeshObject, ObjectKey, ObjectMeta } from '../objects.ts';
import { objectKey } from '../objects.ts';
import { GATEWAY_GROUP } from '../gateway-objects.ts';
import { EVERYTHING } from '../labels.ts';
import { Fields, type FieldProblem } from './fields.ts';
import { readGateway, readGatewayClass, readMesh, readReferenceGrant } from './gateway.ts';
import { readAuthorizationPolicy, readMeshConfig, readPeerAuthentication } from './mesh-kinds.ts';
import { readMeta } from './metadata.ts';
import { readPod } from './pod.ts';
import { readRequestAuthentication } from './request-authentication.ts';
import { readGrpcRoute, readHttpRoute, readTcpRoute, readTlsRoute } from './route.ts';
import { readBackendTrafficPolicy, readTrafficPolicy } from './traffic-policy.ts';
import { steadOf, type Stead } from './stead.ts';
import { readEndpointSlice, readNetworkPolicy, readNode, readService } from './service.ts';

export type ManifestResult =
  | { readonly status: 'object'; readonly object: MeshObject }
  /**
   * `key` when at least kind and name could be read: the last good version of that object stays. `stead`: what
   * counts where there is none, or in any case.
   */
  | {
      readonly status: 'invalid';
      readonly key: ObjectKey | undefined;
      readonly problems: readonly FieldProblem[];
      readonly stead?: Stead;
    }
  /** `what` is `apiVersion kind`, shortened. */
  | { readonly status: 'unknown'; readonly what: string };

interface KindReader {
  readonly kind: MeshObject['kind'];
  readonly scoped: boolean;
  readonly read: (root: Fields, meta: ObjectMeta) => MeshObject;
  /** Our own kinds: unknown fields are refused. */
  readonly strict: boolean;
}

function kubernetes(
  kind: MeshObject['kind'],
  read: KindReader['read'],
  scoped: boolean = true,
): KindReader {
  return { kind, scoped, read, strict: false };
}

function own(kind: MeshObject['kind'], read: KindReader['read']): KindReader {
  return { kind, scoped: true, read, strict: true };
}

const READERS: ReadonlyMap<string, KindReader> = new Map([
  ['v1 Namespace', kubernetes('Namespace', (_, meta) => ({ kind: 'Namespace', meta }), false)],
  ['v1 Pod', kubernetes('Pod', readPod)],
  ['v1 Service', kubernetes('Service', readService)],
  ['v1 Node', kubernetes('Node', readNode, false)],
  ['discovery.k8s.io/v1 EndpointSlice', kubernetes('EndpointSlice', readEndpointSlice)],
  ['gateway.networking.x-k8s.io/v1alpha1 XMesh', kubernetes('XMesh', readMesh, false)],
  [
    'gateway.networking.x-k8s.io/v1alpha1 XBackendTrafficPolicy',
    kubernetes('TrafficPolicy', readBackendTrafficPolicy),
  ],
  ['networking.k8s.io/v1 NetworkPolicy', kubernetes('NetworkPolicy', readNetworkPolicy)],
]);

/** Gateway API kinds with the versions in which they have the shape we read. */
const GATEWAY_READERS: readonly [
  kind: MeshObject['kind'],
  read: KindReader['read'],
  versions: readonly string[],
][] = [
  ['GatewayClass', readGatewayClass, ['v1', 'v1beta1']],
  ['Gateway', readGateway, ['v1', 'v1beta1']],
  ['HTTPRoute', readHttpRoute, ['v1', 'v1beta1']],
  ['GRPCRoute', readGrpcRoute, ['v1']],
  ['TLSRoute', readTlsRoute, ['v1', 'v1alpha3', 'v1alpha2']],
  ['TCPRoute', readTcpRoute, ['v1', 'v1alpha2']],
  ['ReferenceGrant', readReferenceGrant, ['v1', 'v1beta1']],
];

const GATEWAY_API: ReadonlyMap<string, KindReader> = new Map(
  GATEWAY_READERS.flatMap(([kind, read, versions]) =>
    versions.map((version) => [
      `${GATEWAY_GROUP}/${version} ${kind}`,
      kubernetes(kind, read, kind !== 'GatewayClass'),
    ]),
  ),
);

const OWN_GROUP = 'nodemesh.dev';
const OWN_VERSIONS = ['nodemesh.dev/v1alpha1', 'nodemesh.dev/v1'];
const OWN_READERS: ReadonlyMap<string, KindReader> = new Map([
  ['MeshConfig', own('MeshConfig', readMeshConfig)],
  ['PeerAuthentication', own('PeerAuthentication', readPeerAuthentication)],
  ['AuthorizationPolicy', own('AuthorizationPolicy', readAuthorizationPolicy)],
  ['RequestAuthentication', own('RequestAuthentication', readRequestAuthentication)],
  ['TrafficPolicy', own('TrafficPolicy', readTrafficPolicy)],
]);

/** API groups whose policies filter packets in ways we do not evaluate: they switch the direct path off. */
const FOREIGN_POLICY_GROUPS = [
  'cilium.io',
  'projectcalico.org',
  'crd.projectcalico.org',
  'policy.networking.k8s.io',
  'crd.antrea.io',
];

export function parseManifest(value: unknown): ManifestResult {
  const problems: FieldProblem[] = [];
  const root = Fields.of(value, [], problems);
  if (root === undefined) return { status: 'invalid', key: undefined, problems };
  const apiVersion = root.string('apiVersion');
  const kind = root.string('kind');
  if (kind === '') root.problem('kind', 'is missing');
  if (apiVersion === '') root.problem('apiVersion', 'is missing');
  if (problems.length > 0) return { status: 'invalid', key: undefined, problems };
  const ours = apiVersion.split('/')[0] === OWN_GROUP;
  const reader = ours
    ? OWN_READERS.get(kind)
    : (READERS.get(`${apiVersion} ${kind}`) ??
      GATEWAY_API.get(`${apiVersion} ${kind}`) ??
      foreignPolicy(apiVersion, kind, root));
  if (ours && (reader === undefined || !OWN_VERSIONS.includes(apiVersion))) {
    // Never a mere warning: a policy that is not read would be a policy that is not enforced.
    const known = `${OWN_VERSIONS.join(' and ')} have ${[...OWN_READERS.keys()].join(', ')}`;
    root.problem('kind', `is not a kind of this apiVersion; ${known}`);
    return { status: 'invalid', key: undefined, problems };
  }
  if (reader === undefined) {
    return { status: 'unknown', what: `${apiVersion} ${kind}`.slice(0, 128) };
  }
  const meta = readMeta(root, reader.scoped);
  const named = problems.length === 0;
  const object = reader.read(root, meta);
  if (reader.strict) {
    root.raw('status');
    root.refuseUnknown();
  }
  if (problems.length === 0) return { status: 'object', object };
  if (!named) return { status: 'invalid', key: undefined, problems };
  const stead = steadOf(object, problems);
  const invalid = { status: 'invalid', key: objectKey(object), problems } as const;
  return stead === undefined ? invalid : { ...invalid, stead };
}

/** A CNI's own policy: selects its whole namespace, or everything when it has none. */
function foreignPolicy(apiVersion: string, kind: string, root: Fields): KindReader | undefined {
  const group = apiVersion.split('/')[0] ?? '';
  if (!FOREIGN_POLICY_GROUPS.includes(group) || !kind.endsWith('Policy')) return undefined;
  const scoped = root.object('metadata')?.has('namespace') ?? false;
  const read = (_: Fields, meta: ObjectMeta): MeshObject => ({
    kind: 'NetworkPolicy',
    // A colon cannot be in a real name, so the kind's name keeps both apart.
    meta: { ...meta, name: `${kind}:${meta.name}` },
    selector: EVERYTHING,
  });
  return { kind: 'NetworkPolicy', scoped, read, strict: false };
}
