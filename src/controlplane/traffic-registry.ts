/**
 * Traffic policies, filed by what they are attached to. Several may target the same thing: they are told apart section
 * by section, and of two that have the same one the older counts.
 */

import { NO_TRAFFIC_SETTINGS, type TrafficSettings } from '../core/traffic-policy.ts';
import { addTo, removeFrom } from './multi-map.ts';
import {
  objectKey,
  type ObjectKey,
  type TrafficPolicyObject,
  type TrafficTarget,
} from './objects.ts';
import { comparePrecedence } from './peer-authentication.ts';

/** `KIND/NAMESPACE/NAME` of what is targeted; of a Namespace, both are its name. */
export type TargetKey = string & { readonly __brand: 'TargetKey' };

export function targetKey(kind: TrafficTarget['kind'], namespace: string, name: string): TargetKey {
  return `${kind}/${namespace}/${name}` as TargetKey;
}

/** What all policies of one target and section name say together. */
export interface Attached {
  /** A port or rule; empty: the whole target. */
  readonly sectionName: string;
  /** `namespace/name` of the strongest that has a part in it. */
  readonly source: string;
  readonly settings: TrafficSettings;
  /** Of the policy that gives the balancing. */
  readonly failover: TrafficPolicyObject['failover'];
}

const SECTIONS = Object.keys(NO_TRAFFIC_SETTINGS) as (keyof TrafficSettings)[];

export class TrafficRegistry {
  readonly #policies = new Map<ObjectKey, TrafficPolicyObject>();
  readonly #byTarget = new Map<TargetKey, Set<ObjectKey>>();

  get(key: ObjectKey): TrafficPolicyObject | undefined {
    return this.#policies.get(key);
  }

  all(): Iterable<TrafficPolicyObject> {
    return this.#policies.values();
  }

  /** Returns what it was. */
  put(object: TrafficPolicyObject): TrafficPolicyObject | undefined {
    const key = objectKey(object);
    const before = this.remove(key);
    this.#policies.set(key, object);
    for (const target of targetsOf(object)) addTo(this.#byTarget, target, key);
    return before;
  }

  remove(key: ObjectKey): TrafficPolicyObject | undefined {
    const before = this.#policies.get(key);
    if (before === undefined) return undefined;
    this.#policies.delete(key);
    for (const target of targetsOf(before)) removeFrom(this.#byTarget, target, key);
    return before;
  }

  keysAt(target: TargetKey): Iterable<ObjectKey> {
    return this.#byTarget.get(target) ?? [];
  }

  /** Sorted by section name, each once. */
  at(target: TargetKey): Attached[] {
    const found = new Map<string, Attached>();
    for (const policy of this.#sorted(target)) {
      const { namespace, name } = policy.meta;
      for (const sectionName of sectionNames(policy, target)) {
        const before = found.get(sectionName);
        const settings = before?.settings ?? NO_TRAFFIC_SETTINGS;
        const gives = settings.balancing === undefined && policy.settings.balancing !== undefined;
        found.set(sectionName, {
          sectionName,
          source: before?.source ?? `${namespace}/${name}`,
          settings: underlay(settings, policy.settings),
          failover: gives ? policy.failover : (before?.failover ?? []),
        });
      }
    }
    return [...found.keys()].toSorted().flatMap((name) => found.get(name) ?? []);
  }

  /** What of the policy does not count, because an older one says it for the same target. */
  conflicts(policy: TrafficPolicyObject): { readonly section: string; readonly with: string }[] {
    const found = new Map<string, string>();
    for (const target of targetsOf(policy)) {
      const own = new Set(sectionNames(policy, target));
      for (const other of this.#sorted(target)) {
        if (other === policy) break;
        if (!sectionNames(other, target).some((name) => own.has(name))) continue;
        for (const section of SECTIONS) {
          const both = [policy, other].every(({ settings }) => settings[section] !== undefined);
          if (both) found.set(section, `${other.meta.namespace}/${other.meta.name}`);
        }
      }
    }
    return [...found].map(([section, by]) => ({ section, with: by }));
  }

  #sorted(target: TargetKey): TrafficPolicyObject[] {
    return [...this.keysAt(target)]
      .flatMap((key) => this.#policies.get(key) ?? [])
      .toSorted(comparePrecedence);
  }
}

/** Each once. */
export function targetsOf({ meta, targets }: TrafficPolicyObject): Set<TargetKey> {
  return new Set(targets.map(({ kind, name }) => targetKey(kind, meta.namespace, name)));
}

function sectionNames({ meta, targets }: TrafficPolicyObject, of: TargetKey): string[] {
  return targets
    .filter(({ kind, name }) => targetKey(kind, meta.namespace, name) === of)
    .map(({ sectionName }) => sectionName);
}

/** `over`, with what it lacks from `under`. */
function underlay(over: TrafficSettings, under: TrafficSettings): TrafficSettings {
  const merged: Record<string, unknown> = {};
  for (const section of SECTIONS) merged[section] = over[section] ?? under[section];
  return merged as unknown as TrafficSettings;
}
