/**
 * Which kinds of the API server are read, in which versions, and what of each object is let in: only what the
 * mesh needs leaves this file, so that a pod's containers, environment and managed fields are never kept.
 */

import { formatProblems } from '../controlplane/manifest/fields.ts';
import { parseManifest } from '../controlplane/manifest/manifest.ts';
import { MIRROR_ANNOTATION } from '../controlplane/manifest/pod.ts';
import type { Stead } from '../controlplane/manifest/stead.ts';
import { objectKey, type MeshObject, type ObjectKey } from '../controlplane/objects.ts';

export interface WatchedKind {
  /** Empty for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  /** As objects name it, e.g. `HTTPRoute`. */
  readonly kind: string;
  /** Nothing is served before it was read once: without it policies or identities would be missing. */
  readonly required: boolean;
}

function builtIn(group: string, plural: string, kind: string): WatchedKind {
  return { group, version: 'v1', plural, kind, required: true };
}

/** There in every cluster. */
export const BUILT_IN_KINDS: readonly WatchedKind[] = [
  builtIn('', 'namespaces', 'Namespace'),
  builtIn('', 'pods', 'Pod'),
  builtIn('', 'services', 'Service'),
  builtIn('', 'nodes', 'Node'),
  builtIn('discovery.k8s.io', 'endpointslices', 'EndpointSlice'),
  builtIn('networking.k8s.io', 'networkpolicies', 'NetworkPolicy'),
];

/** A kind that may be installed, and the versions that can be read, best first. */
export interface OptionalKind {
  readonly group: string;
  readonly versions: readonly string[];
  readonly plural: string;
  readonly required: boolean;
}

function optional(
  group: string,
  versions: readonly string[],
  plurals: readonly string[],
  required: boolean = false,
): OptionalKind[] {
  return plurals.map((plural) => ({ group, versions, plural, required }));
}

export function optionalKinds(
  own: readonly string[],
  gateway: readonly string[],
): readonly OptionalKind[] {
  return [
    ...optional('nodemesh.dev', ['v1', 'v1alpha1'], own, true),
    ...optional('gateway.networking.k8s.io', ['v1', 'v1beta1', 'v1alpha3', 'v1alpha2'], gateway),
    ...optional(
      'gateway.networking.x-k8s.io',
      ['v1alpha1'],
      ['xmeshes', 'xbackendtrafficpolicies'],
    ),
    ...optional('cilium.io', ['v2'], ['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies']),
    ...optional('crd.projectcalico.org', ['v1'], ['networkpolicies', 'globalnetworkpolicies']),
    ...optional(
      'policy.networking.k8s.io',
      ['v1', 'v1beta1', 'v1alpha2', 'v1alpha1'],
      ['adminnetworkpolicies', 'baselineadminnetworkpolicies', 'clusternetworkpolicies'],
    ),
    ...optional('crd.antrea.io', ['v1', 'v1beta1'], ['networkpolicies', 'clusternetworkpolicies']),
  ];
}

export function kindPath({ group, version, plural }: WatchedKind): string {
  return group === '' ? `/api/${version}/${plural}` : `/apis/${group}/${version}/${plural}`;
}

/** `pods`, or `PLURAL.GROUP`: what RBAC and metrics call it. */
export function kindName({ group, plural }: Pick<WatchedKind, 'group' | 'plural'>): string {
  return group === '' ? plural : `${plural}.${group}`;
}

export type Admitted =
  | { readonly status: 'object'; readonly key: ObjectKey; readonly object: MeshObject }
  | {
      readonly status: 'invalid';
      readonly key: ObjectKey | undefined;
      readonly message: string;
      readonly stead?: Stead;
    }
  | { readonly status: 'ignored' };

/** Annotations that somebody here reads; the others may be as long as a quarter of a megabyte each. */
const ANNOTATIONS = /^(?:[a-z.-]*\.)?(?:nodemesh\.dev|istio\.io)\//;

/** The door: takes what an API answer holds, of a list (which names no kind) or of a watch. */
export function admit(value: unknown, kind: WatchedKind): Admitted {
  if (typeof value !== 'object' || value === null) {
    return { status: 'invalid', key: undefined, message: 'it is not an object' };
  }
  const apiVersion = kind.group === '' ? kind.version : `${kind.group}/${kind.version}`;
  const result = parseManifest({
    ...value,
    apiVersion,
    kind: kind.kind,
    ...trimmedMetadata(value),
  });
  switch (result.status) {
    case 'object':
      return { status: 'object', key: objectKey(result.object), object: result.object };
    case 'invalid': {
      const { key, problems, stead } = result;
      const invalid = { status: 'invalid', key, message: formatProblems(problems) } as const;
      return stead === undefined ? invalid : { ...invalid, stead };
    }
    case 'unknown':
      return { status: 'ignored' };
  }
}

function trimmedMetadata(value: object): { metadata?: unknown } {
  const { metadata } = value as { metadata?: Record<string, unknown> | null };
  if (typeof metadata !== 'object' || metadata === null) return {};
  const { annotations } = metadata;
  if (typeof annotations !== 'object' || annotations === null) return {};
  const kept = Object.entries(annotations).filter(
    ([name]) => ANNOTATIONS.test(name) || name === MIRROR_ANNOTATION,
  );
  const { annotations: _, ...rest } = metadata;
  return {
    metadata: kept.length === 0 ? rest : { ...rest, annotations: Object.fromEntries(kept) },
  };
}
