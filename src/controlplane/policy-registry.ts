/** PeerAuthentications, AuthorizationPolicies and what filters packets, filed by whom they select. */

import {
  comparePrecedence,
  namespaceMode,
  ownPeerAuthentication,
  strictPolicyKey,
} from './peer-authentication.ts';
import { authorizationKey } from './authorization.ts';
import { createSelectorIndex, type SelectorIndex } from './labels.ts';
import { addTo, removeFrom } from './multi-map.ts';
import {
  objectKey,
  ROOT_NAMESPACE,
  type AuthorizationPolicy,
  type MtlsMode,
  type NetworkPolicyObject,
  type ObjectKey,
  type PeerAuthentication,
  type Pod,
} from './objects.ts';

export class PolicyRegistry {
  #meshMode: MtlsMode = 'PERMISSIVE';
  /** Of namespaces already asked for; emptied whenever a mode may change. */
  readonly #modes = new Map<string, MtlsMode>();
  readonly #peers = new Map<ObjectKey, PeerAuthentication>();
  readonly #peersIn = new Map<string, Set<PeerAuthentication>>();
  readonly #authorizations = new Map<ObjectKey, AuthorizationPolicy>();
  readonly #authorizationsIn = new Map<string, Set<ObjectKey>>();
  /** Only those with a selector. */
  readonly #selecting: SelectorIndex<AuthorizationPolicy> = createSelectorIndex();
  readonly #filters = new Map<ObjectKey, NetworkPolicyObject>();
  readonly #filtering: SelectorIndex<NetworkPolicyObject> = createSelectorIndex();

  authorization(key: ObjectKey): AuthorizationPolicy | undefined {
    return this.#authorizations.get(key);
  }

  /** Of one namespace, and of the root namespace, which reaches every other. */
  *authorizationsReaching(namespace: string): Iterable<ObjectKey> {
    for (const name of new Set([namespace, ROOT_NAMESPACE])) {
      yield* this.#authorizationsIn.get(name) ?? [];
    }
  }

  peer(key: ObjectKey): PeerAuthentication | undefined {
    return this.#peers.get(key);
  }

  /** Of one namespace; of all for the root namespace, whose mode every other may inherit. */
  *peersInheritingFrom(namespace: string): Iterable<PeerAuthentication> {
    if (namespace === ROOT_NAMESPACE) yield* this.#peers.values();
    else yield* this.#peersIn.get(namespace) ?? [];
  }

  setMeshMode(mode: MtlsMode): void {
    this.#meshMode = mode;
    this.#modes.clear();
  }

  putPeer(object: PeerAuthentication): PeerAuthentication | undefined {
    const before = this.removePeer(objectKey(object));
    this.#peers.set(objectKey(object), object);
    this.#modes.clear();
    addTo(this.#peersIn, object.meta.namespace, object);
    return before;
  }

  removePeer(key: ObjectKey): PeerAuthentication | undefined {
    const before = this.#peers.get(key);
    if (before === undefined) return undefined;
    this.#peers.delete(key);
    this.#modes.clear();
    removeFrom(this.#peersIn, before.meta.namespace, before);
    return before;
  }

  putAuthorization(object: AuthorizationPolicy): AuthorizationPolicy | undefined {
    const before = this.removeAuthorization(objectKey(object));
    this.#authorizations.set(objectKey(object), object);
    addTo(this.#authorizationsIn, object.meta.namespace, objectKey(object));
    if (object.selector !== undefined) {
      this.#selecting.add(selectedNamespace(object), object.selector, object);
    }
    return before;
  }

  removeAuthorization(key: ObjectKey): AuthorizationPolicy | undefined {
    const before = this.#authorizations.get(key);
    if (before === undefined) return undefined;
    this.#authorizations.delete(key);
    removeFrom(this.#authorizationsIn, before.meta.namespace, key);
    if (before.selector !== undefined) {
      this.#selecting.remove(selectedNamespace(before), before.selector, before);
    }
    return before;
  }

  putFilter(object: NetworkPolicyObject): NetworkPolicyObject | undefined {
    const before = this.removeFilter(objectKey(object));
    this.#filters.set(objectKey(object), object);
    this.#filtering.add(object.meta.namespace, object.selector, object);
    return before;
  }

  removeFilter(key: ObjectKey): NetworkPolicyObject | undefined {
    const before = this.#filters.get(key);
    if (before === undefined) return undefined;
    this.#filters.delete(key);
    this.#filtering.remove(before.meta.namespace, before.selector, before);
    return before;
  }

  /** Whether packets of the pod may be filtered, so that they must not skip its interface. */
  isFiltered(pod: Pod): boolean {
    return this.#filtering.match(pod.meta.namespace, pod.meta.labels).length > 0;
  }

  /** The mode that a namespace gives to workloads without an object of their own. */
  inheritedMode(namespace: string): MtlsMode {
    const known = this.#modes.get(namespace);
    if (known !== undefined) return known;
    const wide = (name: string): PeerAuthentication[] =>
      [...(this.#peersIn.get(name) ?? [])]
        .filter(({ selector }) => selector === undefined)
        .toSorted(comparePrecedence);
    const mode = namespaceMode({
      meshMode: this.#meshMode,
      root: wide(ROOT_NAMESPACE),
      namespace: wide(namespace),
    });
    this.#modes.set(namespace, mode);
    return mode;
  }

  /** Key of the policy that makes the pod strict, if its mode is STRICT anywhere. */
  strictKey(pod: Pod): string | undefined {
    const { namespace, labels } = pod.meta;
    const own = ownPeerAuthentication([...(this.#peersIn.get(namespace) ?? [])], labels);
    return strictPolicyKey(own, this.inheritedMode(namespace));
  }

  /** Keys of the policies whose selector takes the pod, sorted. */
  selectingKeys(pod: Pod): string[] {
    return this.#selecting
      .match(pod.meta.namespace, pod.meta.labels)
      .filter((object) => !object.targetsWaypoint)
      .map(authorizationKey)
      .toSorted();
  }
}

/** A selector in the root namespace selects in every namespace, as Istio's does. */
export function selectedNamespace(object: AuthorizationPolicy): string {
  return object.meta.namespace === ROOT_NAMESPACE ? '' : object.meta.namespace;
}
