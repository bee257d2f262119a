/**
 * One Kubernetes-shaped object of unknown origin → one object of the mesh, or the list of what is wrong with
 * it by field path, or the news that its kind is none of ours. Used by both sources. Never throws.
 */

import type { MeshObject, ObjectKey, ObjectMeta } from '../objects.ts';
import { objectKey } from '../objects.ts';
import { EVERYTHING } from '../labels.ts';
import { Fields, type FieldProblem } from './fields.ts';
import { readAuthorizationPolicy, readMeshConfig, readPeerAuthentication } from './mesh-kinds.ts';
import { readMeta } from './metadata.ts';
import { readPod } from './pod.ts';
import { readEndpointSlice, readNetworkPolicy, readNode, readService } from './service.ts';

export type ManifestResult =
  | { readonly status: 'object'; readonly object: MeshObject }
  /** `key` when at least kind and name could be read: the last good version of that object stays. */
  | {
      readonly status: 'invalid';
      readonly key: ObjectKey | undefined;
      readonly problems: readonly FieldProblem[];
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
  ['networking.k8s.io/v1 NetworkPolicy', kubernetes('NetworkPolicy', readNetworkPolicy)],
]);

const OWN_GROUP = 'nodemesh.dev';
const OWN_VERSIONS = ['nodemesh.dev/v1alpha1', 'nodemesh.dev/v1'];
const OWN_READERS: ReadonlyMap<string, KindReader> = new Map([
  ['MeshConfig', own('MeshConfig', readMeshConfig)],
  ['PeerAuthentication', own('PeerAuthentication', readPeerAuthentication)],
  ['AuthorizationPolicy', own('AuthorizationPolicy', readAuthorizationPolicy)],
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
    : (READERS.get(`${apiVersion} ${kind}`) ?? foreignPolicy(apiVersion, kind, root));
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
  const key = named ? objectKey(object) : undefined;
  return { status: 'invalid', key, problems };
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
