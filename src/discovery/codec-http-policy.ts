/**
 * L7 policies and request authentication between `nodemesh.v1` and `core/http-policy.ts`. As with L4 policies, what is
 * not understood is never dropped: it sets `unknown`, and the targets are denied (T104).
 */

import { create, toBinary, type Message, type MessageInitShape } from '@bufbuild/protobuf';

import type { Result } from '../base/result.ts';
import type {
  HttpPolicy,
  HttpPolicyClause,
  HttpPolicyMatch,
  JwtRule,
  RequestAuthentication,
} from '../core/http-policy.ts';
import type { Cidr } from '../core/address.ts';
import type { PolicyAction, StringMatch } from '../core/policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import { decodeBounded, readList, readRequired, readText } from './codec-fields.ts';
import {
  blockInit,
  createReading,
  matchInit,
  readBlock,
  readMatch,
  readStringMatch,
  stringInit,
  type Reading,
} from './codec-policy.ts';
import {
  MatchSchema,
  type Address as AddressMessage,
  type StringMatch as StringMatchMessage,
} from './gen/istio/security/authorization_pb.ts';
import {
  HttpPolicy_Action as Action,
  HttpPolicySchema,
  RequestAuthenticationSchema,
  type HttpPolicyClause as ClauseMessage,
  type HttpPolicyMatch as MatchMessage,
  type HttpPolicyMatchSchema,
  type JwtRule as JwtRuleMessage,
  type NamedTextMatch as NamedMessage,
  type NamedTextMatchSchema,
} from './gen/nodemesh/v1/http_policy_pb.ts';
import { createWireResource, type WireResource } from './wire-resource.ts';

const SERVICES_MAX = 10_000;
const JWT_RULES_MAX = 64;
const PLACES_MAX = 64;
const PATH_MAX = 16;
const NAME_MAX = 256;
const URL_MAX = 2_048;
/** A document in the configuration; the fetched ones have the same bound. */
const JWKS_CHARS_MAX = 65_536;
const ACTIONS: Readonly<Record<PolicyAction, Action>> = {
  ALLOW: Action.ALLOW,
  DENY: Action.DENY,
  AUDIT: Action.AUDIT,
};

/** Named `namespace/name`. */
export function httpPolicyResource(policy: HttpPolicy): WireResource {
  const { name, namespace, services, dryRun, explain } = policy;
  const message = create(HttpPolicySchema, {
    name,
    namespace,
    services: [...services],
    dryRun,
    explain,
    action: ACTIONS[policy.action],
    rules: policy.rules.map((rule) => ({
      clauses: rule.clauses.map(({ label, matches }) => ({
        label,
        matches: matches.map(httpMatchInit),
      })),
    })),
  });
  return createWireResource(policy.key, toBinary(HttpPolicySchema, message));
}

export function decodeHttpPolicy(body: Uint8Array): Result<HttpPolicy> {
  return decodeBounded(HttpPolicySchema, body, (message): HttpPolicy => {
    const reading = createReading();
    reading.noteFields(message);
    const name = readRequired('name', message.name);
    const namespace = readRequired('namespace', message.namespace);
    const action = (['ALLOW', 'DENY', 'AUDIT'] as const).find(
      (word) => ACTIONS[word] === message.action,
    );
    if (action === undefined) reading.note(`action ${message.action as number}`);
    const rules = reading.take(message.rules).map((rule) => {
      reading.noteFields(rule);
      return { clauses: reading.take(rule.clauses).map((clause) => readClause(clause, reading)) };
    });
    return {
      key: `${namespace}/${name}`,
      name,
      namespace,
      // With `unknown` set nobody evaluates it.
      action: action ?? 'DENY',
      rules,
      services: readServices(message.services),
      dryRun: message.dryRun,
      explain: message.explain,
      unknown: reading.unknown,
    };
  });
}

function readServices(values: readonly string[]): ServiceKey[] {
  return readList('services', values, SERVICES_MAX, (value) => {
    return readRequired('services', value) as ServiceKey;
  });
}

function readClause(message: ClauseMessage, reading: Reading): HttpPolicyClause {
  reading.noteFields(message);
  const matches = reading.take(message.matches).map((match) => readHttpMatch(match, reading));
  return { label: readText('label', message.label, NAME_MAX), matches };
}

function readHttpMatch(message: MatchMessage, reading: Reading): HttpPolicyMatch {
  reading.noteFields(message);
  const texts = (values: readonly StringMatchMessage[]): StringMatch[] =>
    reading.take(values).map((value) => readStringMatch(value, reading));
  const blocks = (values: readonly AddressMessage[]): Cidr[] =>
    reading.take(values).map((value) => readBlock(value, reading));
  const named = (one: NamedMessage) => {
    reading.noteFields(one);
    return { values: texts(one.values), notValues: texts(one.notValues) };
  };
  return {
    ...readMatch(message.connection ?? create(MatchSchema), reading),
    methods: texts(message.methods),
    notMethods: texts(message.notMethods),
    paths: texts(message.paths),
    notPaths: texts(message.notPaths),
    hosts: texts(message.hosts),
    notHosts: texts(message.notHosts),
    requestPrincipals: texts(message.requestPrincipals),
    notRequestPrincipals: texts(message.notRequestPrincipals),
    remoteIps: blocks(message.remoteIps),
    notRemoteIps: blocks(message.notRemoteIps),
    headers: reading.take(message.headers).map((one) => ({
      name: readRequired('headers', one.path[0] ?? '', NAME_MAX),
      ...named(one),
    })),
    claims: reading.take(message.claims).map((one) => ({
      path: readPath(one.path),
      ...named(one),
    })),
  };
}

function readPath(path: readonly string[]): string[] {
  return readList('path', path, PATH_MAX, (key) => readRequired('path', key, NAME_MAX));
}

function httpMatchInit(match: HttpPolicyMatch): MessageInitShape<typeof HttpPolicyMatchSchema> {
  const texts = (values: readonly StringMatch[]) => values.map(stringInit);
  const named = (
    path: readonly string[],
    one: { values: readonly StringMatch[]; notValues: readonly StringMatch[] },
  ): MessageInitShape<typeof NamedTextMatchSchema> => {
    return { path: [...path], values: texts(one.values), notValues: texts(one.notValues) };
  };
  return {
    connection: matchInit(match),
    methods: texts(match.methods),
    notMethods: texts(match.notMethods),
    paths: texts(match.paths),
    notPaths: texts(match.notPaths),
    hosts: texts(match.hosts),
    notHosts: texts(match.notHosts),
    requestPrincipals: texts(match.requestPrincipals),
    notRequestPrincipals: texts(match.notRequestPrincipals),
    remoteIps: match.remoteIps.map(blockInit),
    notRemoteIps: match.notRemoteIps.map(blockInit),
    headers: match.headers.map((header) => named([header.name], header)),
    claims: match.claims.map((claim) => named(claim.path, claim)),
  };
}

/** Named `namespace/name`. */
export function requestAuthenticationResource(object: RequestAuthentication): WireResource {
  const { name, namespace, services, rules, unknown } = object;
  const message = create(RequestAuthenticationSchema, {
    invalid: unknown,
    name,
    namespace,
    services: [...services],
    rules: rules.map((rule) => ({
      ...rule,
      audiences: [...rule.audiences],
      fromHeaders: rule.fromHeaders.map((header) => ({ ...header })),
      fromParams: [...rule.fromParams],
      fromCookies: [...rule.fromCookies],
      outputClaims: rule.outputClaims.map(({ header, path }) => ({ header, path: [...path] })),
    })),
  });
  return createWireResource(object.key, toBinary(RequestAuthenticationSchema, message));
}

export function decodeRequestAuthentication(body: Uint8Array): Result<RequestAuthentication> {
  return decodeBounded(RequestAuthenticationSchema, body, (message): RequestAuthentication => {
    const reading = createReading();
    reading.noteFields(message);
    const name = readRequired('name', message.name);
    const namespace = readRequired('namespace', message.namespace);
    const rules = readList('rules', message.rules, JWT_RULES_MAX, (rule) =>
      readJwtRule(rule, reading),
    );
    const services = readServices(message.services);
    const key = `${namespace}/${name}`;
    if (message.invalid !== '') reading.note(readText('invalid', message.invalid));
    return { key, name, namespace, services, rules, unknown: reading.unknown };
  });
}

function readJwtRule(message: JwtRuleMessage, reading: Reading): JwtRule {
  reading.noteFields(message);
  const known = (one: Message): void => reading.noteFields(one);
  const names = (field: string, values: readonly string[]): string[] =>
    readList(field, values, PLACES_MAX, (value) => readRequired(field, value, NAME_MAX));
  const jwks = readText('jwks', message.jwks, JWKS_CHARS_MAX);
  const jwksUri = readText('jwks_uri', message.jwksUri, URL_MAX);
  if ((jwks === '') === (jwksUri === '')) reading.note('one of "jwks" and "jwks_uri" is needed');
  return {
    issuer: readRequired('issuer', message.issuer, URL_MAX),
    audiences: readList('audiences', message.audiences, PLACES_MAX, (value) =>
      readRequired('audiences', value, URL_MAX),
    ),
    jwks,
    jwksUri,
    fromHeaders: readList('from_headers', message.fromHeaders, PLACES_MAX, (header) => {
      known(header);
      const name = readRequired('name', header.name, NAME_MAX);
      return { name, prefix: readText('prefix', header.prefix, NAME_MAX) };
    }),
    fromParams: names('from_params', message.fromParams),
    fromCookies: names('from_cookies', message.fromCookies),
    outputPayloadHeader: readText('output_payload_header', message.outputPayloadHeader, NAME_MAX),
    outputClaims: readList('output_claims', message.outputClaims, PLACES_MAX, (claim) => {
      known(claim);
      const header = readRequired('header', claim.header, NAME_MAX);
      return { header, path: readPath(claim.path) };
    }),
    forwardToken: message.forwardToken,
    timeoutMs: message.timeoutMs,
  };
}
