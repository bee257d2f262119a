/**
 * The L7 policies of one waypoint, as discovery brings them, and decisions by them. Sets are put together once per
 * service and version; with or without that memory the answers are those of `decideHttp`.
 */

import type { HttpPolicy } from '../core/http-policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import { connectionForm } from './connection-form.ts';
import {
  decideHttp,
  selectHttpPolicies,
  type HttpDecision,
  type HttpPolicySet,
} from './decide-http.ts';
import type { HttpFacts } from './http-match.ts';
import type { ConnectionFacts, Subject } from './match.ts';

export interface HttpPolicyBook {
  /** `complete`: everything there is has been told; until then every request is denied. */
  apply(changed: readonly HttpPolicy[], removed: readonly string[], complete: boolean): void;
  /** `service`: what the client addressed; undefined: a pod. `known`: see `decideHttp`. */
  decide(service: ServiceKey | undefined, facts: HttpFacts, known?: Subject): HttpDecision;
  /** The same for a connection that is carried as bytes: see `connectionForm`. */
  decideBytes(service: ServiceKey | undefined, facts: ConnectionFacts): HttpDecision;
  /** The policies that govern a service now, for dumps. */
  policySet(service: ServiceKey | undefined): HttpPolicySet;
  /** Called after each `apply`. */
  onChange(listener: () => void): void;
  readonly size: number;
}

const SETS_MAX = 10_000;
const NO_REQUEST = {
  method: '',
  target: { host: '', authority: '', compared: '', plain: '' },
  headers: [],
  principal: undefined,
} as const;

export function createHttpPolicyBook(): HttpPolicyBook {
  const policies = new Map<string, HttpPolicy>();
  const sets = new Map<ServiceKey | undefined, HttpPolicySet>();
  const byteSets = new Map<ServiceKey | undefined, HttpPolicySet>();
  const listeners: (() => void)[] = [];
  let synced = false;
  const remember = (
    known: Map<ServiceKey | undefined, HttpPolicySet>,
    service: ServiceKey | undefined,
    form: (policy: HttpPolicy) => HttpPolicy,
  ): HttpPolicySet => {
    let set = known.get(service);
    if (set === undefined) {
      set = selectHttpPolicies([...policies.values()].map(form), service, synced);
      if (known.size >= SETS_MAX) known.clear();
      known.set(service, set);
    }
    return set;
  };
  const policySet = (service: ServiceKey | undefined): HttpPolicySet =>
    remember(sets, service, (policy) => policy);
  return {
    get size() {
      return policies.size;
    },
    apply(changed, removed, complete) {
      for (const key of removed) policies.delete(key);
      for (const policy of changed) policies.set(policy.key, policy);
      synced ||= complete;
      sets.clear();
      byteSets.clear();
      for (const listener of listeners) listener();
    },
    onChange: (listener) => void listeners.push(listener),
    policySet,
    decide: (service, facts, known) => decideHttp(policySet(service), facts, known),
    decideBytes: (service, facts) =>
      decideHttp(remember(byteSets, service, connectionForm), {
        ...NO_REQUEST,
        ...facts,
        remoteIp: facts.sourceIp,
      }),
  };
}
