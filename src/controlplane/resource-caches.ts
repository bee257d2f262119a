/**
 * Publications, encoded, in the caches that discovery serves from: one of each type for the mesh, and two
 * for each node, which no other node sees (T106).
 */

import type { TimeSlice } from '../base/time-slice.ts';
import {
  localPodResource,
  nodeSettingsResource,
  trustBundleResource,
} from '../discovery/codec-local.ts';
import { policyResource, policyTypeUrl } from '../discovery/codec-policy.ts';
import { serviceResource, workloadResource } from '../discovery/codec-workload.ts';
import type { SharedTrustBundle } from '../discovery/codec-local.ts';
import { ResourceCache, type ResourceChanges } from '../discovery/resource-cache.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import type { Publication } from './publication.ts';

/** Resources put into a cache in one turn of the loop. */
const CHUNK = 512;

interface NodeCaches {
  readonly localPods: ResourceCache;
  readonly settings: ResourceCache;
}

export class ResourceCaches {
  readonly address: ResourceCache = new ResourceCache(TYPE_URL.address);
  readonly authorization: ResourceCache = new ResourceCache(TYPE_URL.authorization);
  readonly auditPolicy: ResourceCache = new ResourceCache(TYPE_URL.auditPolicy);
  readonly trustBundle: ResourceCache = new ResourceCache(TYPE_URL.trustBundle);
  readonly #nodes = new Map<string, NodeCaches>();

  /** What one node may see. */
  view(node: string): ReadonlyMap<string, ResourceCache> {
    const { localPods, settings } = this.#node(node);
    const { address, authorization, auditPolicy, trustBundle } = this;
    const all = [settings, trustBundle, authorization, auditPolicy, address, localPods];
    return new Map(all.map((cache) => [cache.typeUrl, cache]));
  }

  /** Policies first, then whom they govern, then what is captured: as the streams' own order. */
  async apply(publication: Publication, slice: TimeSlice): Promise<void> {
    await this.#applyPolicies(publication, slice);
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

  /** Drops what was kept for nodes that have nothing any more; `isConnected` ones stay. */
  prune(isConnected: (node: string) => boolean): void {
    for (const [node, { localPods, settings }] of this.#nodes) {
      if (localPods.size + settings.size === 0 && !isConnected(node)) this.#nodes.delete(node);
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
  encode: (value: T) => WireResource,
): Generator<WireResource | string> {
  for (const [name, value] of entries) yield value === undefined ? name : encode(value);
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
