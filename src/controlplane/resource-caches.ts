/**
 * Publications, encoded, in the caches that discovery serves from: one of each type for the mesh, two for each
 * node and one of each kind for each waypoint, which no other node or waypoint sees (T106).
 */

import type { TimeSlice } from '../base/time-slice.ts';
import {
  enrolledNamespaceResource,
  localPodResource,
  nodeSettingsResource,
  trustBundleResource,
} from '../discovery/codec-local.ts';
import { policyResource, policyTypeUrl } from '../discovery/codec-policy.ts';
import {
  httpPolicyResource,
  requestAuthenticationResource,
} from '../discovery/codec-http-policy.ts';
import { waypointServiceResource } from '../discovery/codec-route.ts';
import { trafficResource } from '../discovery/codec-traffic.ts';
import { serviceResource, workloadResource } from '../discovery/codec-workload.ts';
import type { SharedTrustBundle } from '../discovery/codec-local.ts';
import { ResourceCache, type ResourceChanges } from '../discovery/resource-cache.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import type { Publication } from './publication.ts';
import type { Scoped, WaypointName } from './waypoint-scope.ts';

/** Resources put into a cache in one turn of the loop. */
const CHUNK = 512;

interface NodeCaches {
  readonly localPods: ResourceCache;
  readonly settings: ResourceCache;
}

/** One kind of configuration that goes to single waypoints; how to publish another one: add a row. */
interface WaypointKind {
  readonly typeUrl: string;
  /** Per waypoint, what this publication does to the kind's cache. */
  entries(publication: Publication): Iterable<[WaypointName, Iterable<WireResource | string>]>;
}

function waypointKind<T>(
  typeUrl: string,
  pick: (publication: Publication) => Scoped<T>,
  encode: (value: T) => WireResource,
): WaypointKind {
  return {
    typeUrl,
    *entries(publication) {
      for (const [waypoint, changes] of pick(publication)) {
        yield [waypoint, encoded(changes, encode)];
      }
    },
  };
}

/** Policies before what they are about. */
const WAYPOINT_KINDS: readonly WaypointKind[] = [
  waypointKind(TYPE_URL.httpPolicy, ({ httpPolicies }) => httpPolicies, httpPolicyResource),
  waypointKind(
    TYPE_URL.requestAuthentication,
    ({ requestAuthentications }) => requestAuthentications,
    requestAuthenticationResource,
  ),
  waypointKind(TYPE_URL.trafficPolicy, ({ traffic }) => traffic, trafficResource),
  waypointKind(
    TYPE_URL.waypointService,
    ({ waypointServices }) => waypointServices,
    waypointServiceResource,
  ),
];

export class ResourceCaches {
  readonly address: ResourceCache = new ResourceCache(TYPE_URL.address);
  readonly authorization: ResourceCache = new ResourceCache(TYPE_URL.authorization);
  readonly auditPolicy: ResourceCache = new ResourceCache(TYPE_URL.auditPolicy);
  readonly trustBundle: ResourceCache = new ResourceCache(TYPE_URL.trustBundle);
  readonly enrolledNamespaces: ResourceCache = new ResourceCache(TYPE_URL.enrolledNamespace);
  readonly #nodes = new Map<string, NodeCaches>();
  /** By type URL. */
  readonly #waypoints = new Map<WaypointName, ReadonlyMap<string, ResourceCache>>();

  /** What one node may see. */
  view(node: string): ReadonlyMap<string, ResourceCache> {
    const { localPods, settings } = this.#node(node);
    const { address, authorization, auditPolicy, trustBundle, enrolledNamespaces } = this;
    const mesh = [trustBundle, authorization, auditPolicy, address, enrolledNamespaces];
    const all = [settings, ...mesh, localPods];
    return new Map(all.map((cache) => [cache.typeUrl, cache]));
  }

  /** What one waypoint may see: the mesh, and what is bound to it alone. */
  waypointView(waypoint: WaypointName): ReadonlyMap<string, ResourceCache> {
    const { address, authorization, auditPolicy, trustBundle } = this;
    const all = [trustBundle, authorization, auditPolicy, address];
    const own = this.#waypoint(waypoint);
    return new Map([...own, ...all.map((cache) => [cache.typeUrl, cache] as const)]);
  }

  /** Policies first, then whom they govern, then what is captured: as the streams' own order. */
  async apply(publication: Publication, slice: TimeSlice): Promise<void> {
    await this.#applyPolicies(publication, slice);
    for (const kind of WAYPOINT_KINDS) {
      for (const [waypoint, entries] of kind.entries(publication)) {
        const cache = this.#waypoint(waypoint).get(kind.typeUrl);
        if (cache !== undefined) await update(cache, entries, slice);
      }
    }
    const { services, workloads } = publication;
    await update(
      this.address,
      encoded(services, (service) => serviceResource(service)),
      slice,
    );
    await update(
      this.address,
      encoded(workloads, (workload) => workloadResource(workload)),
      slice,
    );
    await update(
      this.enrolledNamespaces,
      encoded(publication.enrolledNamespaces, (_, name) => enrolledNamespaceResource(name)),
      slice,
    );
    for (const [node, settings] of publication.nodeSettings) {
      const resource = settings && nodeSettingsResource(settings);
      const cache = this.#node(node).settings;
      cache.update(resource === undefined ? { removed: [...cache.names()] } : { set: [resource] });
    }
    for (const [node, pods] of publication.localPods) {
      await update(
        this.#node(node).localPods,
        encoded(pods, (pod) => localPodResource(pod)),
        slice,
      );
    }
  }

  setTrustBundle(bundle: SharedTrustBundle): void {
    this.trustBundle.update({ set: [trustBundleResource(bundle)] });
  }

  /** Drops what was kept for nodes and waypoints that have nothing any more; `isConnected` ones stay. */
  prune(isConnected: (nodeOrWaypoint: string) => boolean): void {
    for (const [node, { localPods, settings }] of this.#nodes) {
      if (localPods.size + settings.size === 0 && !isConnected(node)) this.#nodes.delete(node);
    }
    for (const [waypoint, caches] of this.#waypoints) {
      const empty = [...caches.values()].every(({ size }) => size === 0);
      if (empty && !isConnected(waypoint)) this.#waypoints.delete(waypoint);
    }
  }

  async #applyPolicies({ policies }: Publication, slice: TimeSlice): Promise<void> {
    for (const [key, policy] of policies) {
      const resource = policy && policyResource(policy);
      const typeUrl = policy && policyTypeUrl(policy);
      // One key, two types: an action that becomes AUDIT, or was, leaves its former type.
      for (const cache of [this.authorization, this.auditPolicy]) {
        const mine = resource !== undefined && typeUrl === cache.typeUrl;
        cache.update(mine ? { set: [resource] } : { removed: [key] });
      }
      if (slice.spent) await slice.yield();
    }
  }

  #waypoint(waypoint: WaypointName): ReadonlyMap<string, ResourceCache> {
    let caches = this.#waypoints.get(waypoint);
    if (caches === undefined) {
      caches = new Map(WAYPOINT_KINDS.map(({ typeUrl }) => [typeUrl, new ResourceCache(typeUrl)]));
      this.#waypoints.set(waypoint, caches);
    }
    return caches;
  }

  #node(node: string): NodeCaches {
    let caches = this.#nodes.get(node);
    if (caches === undefined) {
      const localPods = new ResourceCache(TYPE_URL.localPod);
      caches = { localPods, settings: new ResourceCache(TYPE_URL.nodeSettings) };
      this.#nodes.set(node, caches);
    }
    return caches;
  }
}

/** Each entry as what it does to a cache. */
function* encoded<T>(
  entries: ReadonlyMap<string, T | undefined>,
  encode: (value: T, name: string) => WireResource,
): Generator<WireResource | string> {
  for (const [name, value] of entries) {
    yield value === undefined ? name : encode(value, name);
  }
}

async function update(
  cache: ResourceCache,
  entries: Iterable<WireResource | string>,
  slice: TimeSlice,
): Promise<void> {
  let set: WireResource[] = [];
  let removed: string[] = [];
  const flush = (): void => {
    const changes: ResourceChanges = { set, removed };
    if (set.length + removed.length > 0) cache.update(changes);
    [set, removed] = [[], []];
  };
  for (const entry of entries) {
    if (typeof entry === 'string') removed.push(entry);
    else set.push(entry);
    if (set.length + removed.length >= CHUNK) flush();
    if (slice.spent) await slice.yield();
  }
  flush();
}
