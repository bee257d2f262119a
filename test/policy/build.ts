/** Policies, facts and sources for the tests of `policy/`: short to write, complete in type. */

import { unwrap } from '../../src/base/result.ts';
import { parseAddress, parseCidr, type Cidr } from '../../src/core/address.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { Policy, PolicyMatch, PolicyRule, StringMatch } from '../../src/core/policy.ts';
import type { ConnectionFacts } from '../../src/policy/match.ts';
import type { PolicySource } from '../../src/policy/policy-set.ts';

const NO_FIELDS: PolicyMatch = {
  namespaces: [],
  notNamespaces: [],
  principals: [],
  notPrincipals: [],
  serviceAccounts: [],
  notServiceAccounts: [],
  sourceIps: [],
  notSourceIps: [],
  destinationIps: [],
  notDestinationIps: [],
  destinationPorts: [],
  notDestinationPorts: [],
};

export function match(fields: Partial<PolicyMatch>): PolicyMatch {
  return { ...NO_FIELDS, ...fields };
}

/** One clause per argument, one match per clause. */
export function rule(...clauses: Partial<PolicyMatch>[]): PolicyRule {
  return { clauses: clauses.map((fields) => ({ matches: [match(fields)] })) };
}

export function policy(key: string, fields: Partial<Policy> = {}): Policy {
  const slash = key.indexOf('/');
  return {
    key,
    namespace: key.slice(0, slash),
    name: key.slice(slash + 1),
    scope: 'NAMESPACE',
    action: 'ALLOW',
    rules: [],
    dryRun: false,
    unknown: '',
    ...fields,
  };
}

export const exact = (value: string): StringMatch => ({ kind: 'exact', value });
export const prefix = (value: string): StringMatch => ({ kind: 'prefix', value });
export const suffix = (value: string): StringMatch => ({ kind: 'suffix', value });
export const presence: StringMatch = { kind: 'presence' };
export const cidr = (text: string): Cidr => unwrap(parseCidr(text));

/** The DENY that STRICT becomes. */
export function strictPolicy(): Policy {
  return policy('/istio_converted_static_strict', {
    scope: 'GLOBAL',
    action: 'DENY',
    rules: [rule({ notPrincipals: [presence] })],
  });
}

export function facts(
  source: string | undefined,
  sourceIp = '10.1.0.5',
  port = 80,
): ConnectionFacts {
  return {
    source: source as SpiffeId | undefined,
    sourceIp: unwrap(parseAddress(sourceIp)),
    destination: { ip: unwrap(parseAddress('10.1.0.9')), port },
  };
}

export const WEB = 'spiffe://cluster.local/ns/shop/sa/web';
export const CART = 'spiffe://cluster.local/ns/shop/sa/cart';

export interface TestSource extends PolicySource {
  synced: boolean;
  put(policy: Policy): void;
  remove(key: string): void;
}

export function policySource(policies: readonly Policy[] = []): TestSource {
  const byKey = new Map(policies.map((entry) => [entry.key, entry]));
  let version = 0;
  return {
    synced: true,
    get version() {
      return version;
    },
    put(entry) {
      byKey.set(entry.key, entry);
      version++;
    },
    remove(key) {
      byKey.delete(key);
      version++;
    },
    get: (key) => byKey.get(key),
    globals: () => [...byKey.values()].filter((entry) => entry.scope === 'GLOBAL'),
    inNamespace: (namespace) =>
      [...byKey.values()].filter(
        (entry) => entry.scope === 'NAMESPACE' && entry.namespace === namespace,
      ),
  };
}
