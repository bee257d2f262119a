/**
 * Policies between `istio.security.Authorization` (or our `AuditPolicy`) and `core/policy.ts`.
 *
 * What we do not understand is never dropped: an enum value, field or extension that is not known here sets
 * `Policy.unknown`, and the policy's targets are denied (T104). Only bytes that cannot be read at all, or that
 * exceed a bound, are an error.
 */

import { create, toBinary, type Message, type MessageInitShape } from '@bufbuild/protobuf';

import type { Result } from '../base/result.ts';
import { addressBytes, type Cidr } from '../core/address.ts';
import type {
  Policy,
  PolicyClause,
  PolicyMatch,
  PolicyRule,
  PolicyScope,
  ServiceAccountMatch,
  StringMatch,
} from '../core/policy.ts';
import {
  decodeBounded,
  invalidField,
  readCidr,
  readPort,
  readRequired,
  readText,
} from './codec-fields.ts';
import {
  Action,
  AuthorizationSchema,
  type Address as AddressMessage,
  type AddressSchema,
  type Clause as ClauseMessage,
  type Match as MatchMessage,
  type MatchSchema,
  type Rule as RuleMessage,
  type RuleSchema,
  type Scope,
  type ServiceAccountMatch as ServiceAccountMatchMessage,
  type StringMatch as StringMatchMessage,
  type StringMatchSchema,
} from './gen/istio/security/authorization_pb.ts';
import { AuditPolicySchema } from './gen/nodemesh/v1/node_pb.ts';
import { TYPE_URL } from './type-urls.ts';
import { createWireResource, type WireResource } from './wire-resource.ts';

/** Rules, clauses, matches and values of one policy, all together. */
export const POLICY_PARTS_MAX = 50_000;

const SCOPES: readonly PolicyScope[] = ['GLOBAL', 'NAMESPACE', 'WORKLOAD_SELECTOR'];
const VALUE_CHARS_MAX = 2_048;
const UNKNOWN_SHOWN_MAX = 200;

/** The type under which a policy travels: AUDIT has one of its own. */
export function policyTypeUrl(policy: Policy): string {
  return policy.action === 'AUDIT' ? TYPE_URL.auditPolicy : TYPE_URL.authorization;
}

/** As it travels under `policyTypeUrl`, named by its key. */
export function policyResource(policy: Policy): WireResource {
  return createWireResource(policy.key, encodePolicy(policy));
}

/** The `Any` value for `policyTypeUrl(policy)`. `unknown` does not travel. */
export function encodePolicy(policy: Policy): Uint8Array {
  const shared = {
    name: policy.name,
    namespace: policy.namespace,
    scope: SCOPES.indexOf(policy.scope) as Scope,
    rules: policy.rules.map(ruleInit),
    dryRun: policy.dryRun,
  };
  if (policy.action === 'AUDIT') {
    return toBinary(AuditPolicySchema, create(AuditPolicySchema, shared));
  }
  const action = policy.action === 'DENY' ? Action.DENY : Action.ALLOW;
  return toBinary(AuthorizationSchema, create(AuthorizationSchema, { ...shared, action }));
}

/** Reads the `Any` value of an `istio.security.Authorization`. */
export function decodeAuthorization(body: Uint8Array): Result<Policy> {
  return decodeBounded(AuthorizationSchema, body, (message): Policy => {
    const reading = createReading();
    for (const extension of message.extensions) reading.note(`extension "${extension.name}"`);
    const known = message.action === Action.ALLOW || message.action === Action.DENY;
    if (!known) reading.note(`action ${message.action as number}`);
    // With `unknown` set nobody evaluates the action; DENY is what it amounts to.
    return readPolicy(message, message.action === Action.ALLOW ? 'ALLOW' : 'DENY', reading);
  });
}

/** Reads the `Any` value of a `nodemesh.v1.AuditPolicy`. */
export function decodeAuditPolicy(body: Uint8Array): Result<Policy> {
  return decodeBounded(AuditPolicySchema, body, (message): Policy => {
    const reading = createReading();
    if ((message.action as number) !== 0) reading.note(`action ${message.action as number}`);
    return readPolicy(message, 'AUDIT', reading);
  });
}

/** What is gathered while one policy is read. */
export interface Reading {
  /** Counts parts against the bound. */
  take<T>(values: readonly T[]): readonly T[];
  note(what: string): void;
  /** Notes fields that the schema does not have. */
  noteFields(message: Message): void;
  readonly unknown: string;
}

export function createReading(): Reading {
  let left = POLICY_PARTS_MAX;
  let unknown = '';
  const note = (what: string): void => {
    if (unknown === '') unknown = what.slice(0, UNKNOWN_SHOWN_MAX);
  };
  return {
    take(values) {
      left -= values.length;
      if (left < 0) throw invalidField('rules', `more than ${POLICY_PARTS_MAX} parts`);
      return values;
    },
    note,
    noteFields(message) {
      const field = message.$unknown?.[0];
      if (field !== undefined) note(`field ${field.no} of ${message.$typeName}`);
    },
    get unknown() {
      return unknown;
    },
  };
}

interface PolicyMessage extends Message {
  readonly name: string;
  readonly namespace: string;
  readonly scope: number;
  readonly rules: readonly RuleMessage[];
  readonly dryRun: boolean;
}

function readPolicy(message: PolicyMessage, action: Policy['action'], reading: Reading): Policy {
  reading.noteFields(message);
  const scope = SCOPES[message.scope];
  if (scope === undefined) reading.note(`scope ${message.scope}`);
  const name = readRequired('name', message.name);
  const namespace = readText('namespace', message.namespace);
  if (scope === 'NAMESPACE' && namespace === '') throw invalidField('namespace', 'empty');
  // Selected by whoever names it: the narrowest reading of a scope we do not know still reaches its targets.
  const known = scope ?? (namespace === '' ? 'GLOBAL' : 'NAMESPACE');
  const rules = reading.take(message.rules).map((rule) => readRule(rule, reading));
  return {
    // A foreign control plane names a GLOBAL policy by its root namespace, and removes it by that name.
    key: `${namespace}/${name}`,
    name,
    namespace: known === 'GLOBAL' ? '' : namespace,
    scope: known,
    action,
    rules,
    dryRun: message.dryRun,
    unknown: reading.unknown,
  };
}

function readRule(message: RuleMessage, reading: Reading): PolicyRule {
  reading.noteFields(message);
  return { clauses: reading.take(message.clauses).map((clause) => readClause(clause, reading)) };
}

function readClause(message: ClauseMessage, reading: Reading): PolicyClause {
  reading.noteFields(message);
  return { matches: reading.take(message.matches).map((match) => readMatch(match, reading)) };
}

export function readMatch(message: MatchMessage, reading: Reading): PolicyMatch {
  reading.noteFields(message);
  for (const extension of message.extensions) reading.note(`extension "${extension.name}"`);
  const texts = (values: readonly StringMatchMessage[]): StringMatch[] =>
    reading.take(values).map((value) => readStringMatch(value, reading));
  const accounts = (values: readonly ServiceAccountMatchMessage[]): ServiceAccountMatch[] =>
    reading.take(values).map((value) => readServiceAccount(value, reading));
  const blocks = (values: readonly AddressMessage[]): Cidr[] =>
    reading.take(values).map((value) => readBlock(value, reading));
  const ports = (values: readonly number[]): number[] =>
    reading.take(values).map((value) => readPort('destination_ports', value));
  return {
    namespaces: texts(message.namespaces),
    notNamespaces: texts(message.notNamespaces),
    principals: texts(message.principals),
    notPrincipals: texts(message.notPrincipals),
    serviceAccounts: accounts(message.serviceAccounts),
    notServiceAccounts: accounts(message.notServiceAccounts),
    sourceIps: blocks(message.sourceIps),
    notSourceIps: blocks(message.notSourceIps),
    destinationIps: blocks(message.destinationIps),
    notDestinationIps: blocks(message.notDestinationIps),
    destinationPorts: ports(message.destinationPorts),
    notDestinationPorts: ports(message.notDestinationPorts),
  };
}

export function readStringMatch(message: StringMatchMessage, reading: Reading): StringMatch {
  reading.noteFields(message);
  const { matchType } = message;
  switch (matchType.case) {
    case 'exact':
    case 'prefix':
    case 'suffix':
      return {
        kind: matchType.case,
        value: readText('match_type', matchType.value, VALUE_CHARS_MAX),
      };
    case 'presence':
      return { kind: 'presence' };
    case undefined:
      reading.note('string match of no known kind');
      return { kind: 'presence' };
  }
}

function readServiceAccount(
  message: ServiceAccountMatchMessage,
  reading: Reading,
): ServiceAccountMatch {
  reading.noteFields(message);
  return {
    namespace: readText('namespace', message.namespace),
    serviceAccount: readText('service_account', message.serviceAccount),
  };
}

export function readBlock(message: AddressMessage, reading: Reading): Cidr {
  reading.noteFields(message);
  return readCidr('address', message.address, message.length);
}

function ruleInit(rule: PolicyRule): MessageInitShape<typeof RuleSchema> {
  return {
    clauses: rule.clauses.map((clause) => ({ matches: clause.matches.map(matchInit) })),
  };
}

export function matchInit(match: PolicyMatch): MessageInitShape<typeof MatchSchema> {
  return {
    namespaces: match.namespaces.map(stringInit),
    notNamespaces: match.notNamespaces.map(stringInit),
    principals: match.principals.map(stringInit),
    notPrincipals: match.notPrincipals.map(stringInit),
    serviceAccounts: match.serviceAccounts.map((account) => ({ ...account })),
    notServiceAccounts: match.notServiceAccounts.map((account) => ({ ...account })),
    sourceIps: match.sourceIps.map(blockInit),
    notSourceIps: match.notSourceIps.map(blockInit),
    destinationIps: match.destinationIps.map(blockInit),
    notDestinationIps: match.notDestinationIps.map(blockInit),
    destinationPorts: [...match.destinationPorts],
    notDestinationPorts: [...match.notDestinationPorts],
  };
}

export function stringInit(match: StringMatch): MessageInitShape<typeof StringMatchSchema> {
  if (match.kind === 'presence') return { matchType: { case: 'presence', value: {} } };
  return { matchType: { case: match.kind, value: match.value } };
}

export function blockInit(cidr: Cidr): MessageInitShape<typeof AddressSchema> {
  return { address: Uint8Array.from(addressBytes(cidr.ip)), length: cidr.prefixLength };
}
