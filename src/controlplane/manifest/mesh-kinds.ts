/**
 * Reads our own kinds of the group `nodemesh.dev`: MeshConfig, PeerAuthentication and AuthorizationPolicy, in
 * the shape of Istio's. Strict: an unknown field is a problem, since a misspelt condition of a policy would
 * otherwise mean "no condition". A pattern that could never match is a problem for the same reason.
 */

import { parseCidr, parsePort } from '../../core/address.ts';
import { fail, ok, type Result } from '../../base/result.ts';
import { MeshError } from '../../base/errors.ts';
import { isTrustDomain } from '../../core/identity.ts';
import {
  CONDITION_KEYS,
  DEFAULT_MESH_CONFIG,
  MESH_CONFIG_NAME,
  ROOT_NAMESPACE,
  type AuthorizationPolicy,
  type AuthorizationRule,
  type LabelSelector,
  type MeshConfig,
  type MtlsMode,
  type ObjectMeta,
  type OperationMatch,
  type PeerAuthentication,
  type PolicyTargetRef,
  type SourceMatch,
  type WhenCondition,
} from '../objects.ts';
import { parseHttpCondition } from '../http-authorization.ts';
import type { Fields } from './fields.ts';
import { readSelector } from './metadata.ts';

const RULES_MAX = 512;
const MATCHES_MAX = 256;
const VALUES_MAX = 10_000;
const TARGETS_MAX = 16;
const GATEWAY_GROUP = 'gateway.networking.k8s.io';
/** Of one policy's rules as JSON text: keeps its wire form under the 1 MiB a resource may have. */
const RULES_TEXT_MAX = 524_288;
const RULES_VALUES_MAX = 20_000;
const MODES = ['STRICT', 'PERMISSIVE', 'UNSET', 'DISABLE'] as const;
const DNS_NAME = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;
/** The cluster id is the first part of workload uids, which `/` separates. */
const CLUSTER_ID = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

export function readMeshConfig(root: Fields, meta: ObjectMeta): MeshConfig {
  if (meta.name !== MESH_CONFIG_NAME || meta.namespace !== ROOT_NAMESPACE) {
    root.problem('metadata', `only "${ROOT_NAMESPACE}/${MESH_CONFIG_NAME}" is read`);
  }
  const spec = root.object('spec');
  const text = (key: 'clusterId' | 'clusterDomain', valid: RegExp): string => {
    const value = spec?.string(key, DEFAULT_MESH_CONFIG[key]) ?? DEFAULT_MESH_CONFIG[key];
    if (!valid.test(value))
      spec?.problem(key, `is malformed: ${JSON.stringify(value.slice(0, 64))}`);
    return value;
  };
  const trustDomain = spec?.string('trustDomain') ?? '';
  if (trustDomain !== '' && !isTrustDomain(trustDomain))
    spec?.problem('trustDomain', 'is not a SPIFFE trust domain');
  const mtls = spec?.object('mtls');
  const config: MeshConfig = {
    kind: 'MeshConfig',
    meta,
    trustDomain,
    clusterId: text('clusterId', CLUSTER_ID),
    clusterDomain: text('clusterDomain', DNS_NAME),
    network: spec?.string('network') ?? '',
    localDelivery: spec?.oneOf('localDelivery', ['auto', 'tunnel'] as const) ?? 'auto',
    mtlsMode: (mtls === undefined ? undefined : readMode(mtls)) ?? DEFAULT_MESH_CONFIG.mtlsMode,
    rootRotation: spec?.integer('rootRotation', 0, 1_000_000) ?? 0,
  };
  mtls?.refuseUnknown();
  spec?.refuseUnknown();
  return config;
}

/** Istio's DISABLE cannot be had with tunnels and means PERMISSIVE; UNSET means inherited. */
function readMode(mtls: Fields): MtlsMode | undefined {
  const mode = mtls.oneOf('mode', MODES);
  if (mode === 'DISABLE') return 'PERMISSIVE';
  return mode === 'UNSET' ? undefined : mode;
}

function readWorkloadSelector(spec: Fields | undefined): LabelSelector | undefined {
  const fields = spec?.object('selector');
  if (fields === undefined) return undefined;
  const selector = readSelector(fields, false);
  fields.refuseUnknown();
  // An empty selector is the whole namespace, as without one.
  return selector.matchLabels.size === 0 ? undefined : selector;
}

export function readPeerAuthentication(root: Fields, meta: ObjectMeta): PeerAuthentication {
  const spec = root.object('spec');
  const selector = readWorkloadSelector(spec);
  const mtls = spec?.object('mtls');
  const mode = mtls === undefined ? undefined : readMode(mtls);
  mtls?.refuseUnknown();
  const portModes = new Map<number, MtlsMode>();
  const ports = spec?.object('portLevelMtls');
  for (const [key] of ports?.entries() ?? []) {
    const port = parsePort(key);
    if (!port.ok) ports?.problem(key, 'must be a port number');
    const value = ports?.object(key);
    const portMode = value === undefined ? undefined : readMode(value);
    value?.refuseUnknown();
    if (port.ok && portMode !== undefined) portModes.set(port.value, portMode);
  }
  if (portModes.size > VALUES_MAX) spec?.problem('portLevelMtls', `has over ${VALUES_MAX} ports`);
  if (portModes.size > 0 && selector === undefined) {
    spec?.problem('portLevelMtls', 'needs a selector with labels');
  }
  spec?.refuseUnknown();
  return { kind: 'PeerAuthentication', meta, selector, mode, portModes };
}

export function readAuthorizationPolicy(root: Fields, meta: ObjectMeta): AuthorizationPolicy {
  const spec = root.object('spec');
  const action = spec?.oneOf('action', ['ALLOW', 'DENY', 'AUDIT'] as const) ?? 'ALLOW';
  const selector = readWorkloadSelector(spec);
  const targets = readTargetRefs(spec);
  if (targets.length > 0 && selector !== undefined) {
    spec?.problem('selector', 'cannot be combined with targetRefs');
  }
  const rules = (spec?.objects('rules', RULES_MAX) ?? []).map(readRule);
  const text = JSON.stringify(rules);
  if (text.length > RULES_TEXT_MAX || text.split(',').length > RULES_VALUES_MAX) {
    spec?.problem('rules', 'are too many; split the policy in two');
  }
  spec?.refuseUnknown();
  const targetsWaypoint = spec?.has('targetRefs') === true || spec?.has('targetRef') === true;
  if (targetsWaypoint) {
    for (const key of rules.flatMap(({ when }) => when.flatMap(unsupportedKeys))) {
      spec?.problem('rules', `condition "${key.slice(0, 64)}" is not supported by waypoints`);
    }
  }
  return { kind: 'AuthorizationPolicy', meta, action, selector, targetsWaypoint, targets, rules };
}

/** `targetRefs`, or the single `targetRef`; what is malformed is a problem and left out. */
export function readTargetRefs(spec: Fields | undefined): PolicyTargetRef[] {
  const one = spec?.object('targetRef');
  const list = [...(spec?.objects('targetRefs', TARGETS_MAX) ?? []), ...(one ? [one] : [])];
  if (spec !== undefined) refuseEmpty(spec, 'targetRefs');
  return list.flatMap((fields) => {
    const kind = fields.oneOf('kind', ['Service', 'Gateway'] as const);
    const group = fields.string('group');
    const wanted = kind === 'Gateway' ? [GATEWAY_GROUP] : ['', 'core'];
    if (kind !== undefined && !wanted.includes(group)) {
      fields.problem('group', `of a ${kind} is "${wanted[0]}"`);
    }
    const name = fields.string('name');
    if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(name)) {
      fields.problem('name', 'is not the name of an object');
    }
    fields.refuseUnknown();
    return kind === undefined ? [] : [{ kind, name }];
  });
}

function unsupportedKeys(when: WhenCondition): string[] {
  return 'l7Key' in when && parseHttpCondition(when.l7Key) === undefined ? [when.l7Key] : [];
}

function readRule(rule: Fields): AuthorizationRule {
  const from = rule.objects('from', MATCHES_MAX).flatMap((entry) => {
    const source = entry.object('source');
    if (source === undefined) entry.problem('source', 'is missing');
    entry.refuseUnknown();
    return source === undefined ? [] : [readSource(source)];
  });
  const to = rule.objects('to', MATCHES_MAX).flatMap((entry) => {
    const operation = entry.object('operation');
    if (operation === undefined) entry.problem('operation', 'is missing');
    entry.refuseUnknown();
    return operation === undefined ? [] : [readOperation(operation)];
  });
  const when = rule.objects('when', MATCHES_MAX).map(readCondition);
  for (const key of ['from', 'to', 'when']) refuseEmpty(rule, key);
  rule.refuseUnknown();
  return { from, to, when };
}

/** An empty list may mean "any" or "none" to its writer; it is refused rather than guessed. */
function refuseEmpty(fields: Fields, key: string): void {
  const value = fields.raw(key);
  if (Array.isArray(value) && value.length === 0) fields.problem(key, 'must not be an empty list');
}

const SOURCE_L7 = [
  'requestPrincipals',
  'notRequestPrincipals',
  'remoteIpBlocks',
  'notRemoteIpBlocks',
];
const OPERATION_L7 = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths'];

function presentLists(fields: Fields, keys: readonly string[]): string[] {
  return keys.filter((key) => {
    refuseEmpty(fields, key);
    return fields.list(key, VALUES_MAX).length > 0;
  });
}

function readSource(source: Fields): SourceMatch {
  const values = <T>(key: string, parse: (text: string) => Result<T>): T[] => {
    refuseEmpty(source, key);
    return source.parsed(key, VALUES_MAX, parse);
  };
  const match: SourceMatch = {
    principals: values('principals', checkPrincipal),
    notPrincipals: values('notPrincipals', checkPrincipal),
    namespaces: values('namespaces', checkPattern),
    notNamespaces: values('notNamespaces', checkPattern),
    serviceAccounts: values('serviceAccounts', checkServiceAccount),
    notServiceAccounts: values('notServiceAccounts', checkServiceAccount),
    ipBlocks: values('ipBlocks', parseCidr),
    notIpBlocks: values('notIpBlocks', parseCidr),
    requestPrincipals: values('requestPrincipals', checkPattern),
    notRequestPrincipals: values('notRequestPrincipals', checkPattern),
    remoteIpBlocks: values('remoteIpBlocks', parseCidr),
    notRemoteIpBlocks: values('notRemoteIpBlocks', parseCidr),
    l7Fields: presentLists(source, SOURCE_L7),
  };
  const set = Object.values(match).some((list: readonly unknown[]) => list.length > 0);
  source.refuseUnknown();
  if (!set) source.problem(undefined, 'must set at least one field');
  return match;
}

function readOperation(operation: Fields): OperationMatch {
  const values = (key: string, parse: (text: string) => Result<string>): string[] =>
    operation.parsed(key, VALUES_MAX, parse);
  const match: OperationMatch = {
    ports: readPorts(operation, 'ports'),
    notPorts: readPorts(operation, 'notPorts'),
    hosts: values('hosts', checkPattern),
    notHosts: values('notHosts', checkPattern),
    methods: values('methods', checkPattern),
    notMethods: values('notMethods', checkPattern),
    paths: values('paths', checkPath),
    notPaths: values('notPaths', checkPath),
    l7Fields: presentLists(operation, OPERATION_L7),
  };
  operation.refuseUnknown();
  if (match.ports.length + match.notPorts.length + match.l7Fields.length === 0) {
    operation.problem(undefined, 'must set at least one field');
  }
  return match;
}

/** Istio writes ports as strings; numbers are taken too. */
function readPorts(fields: Fields, key: string): number[] {
  refuseEmpty(fields, key);
  const found: number[] = [];
  for (const value of fields.list(key, VALUES_MAX)) {
    const text = typeof value === 'number' ? String(value) : value;
    const port = typeof text === 'string' ? parsePort(text) : undefined;
    if (port?.ok === true) found.push(port.value);
    else fields.problem(key, 'must hold port numbers from 1 to 65535');
  }
  return found;
}

const VALUE_PARSERS: Readonly<
  Record<(typeof CONDITION_KEYS)[number], (text: string) => Result<unknown>>
> = {
  'source.ip': parseCidr,
  'source.namespace': checkPattern,
  'source.principal': checkPrincipal,
  'destination.ip': parseCidr,
  'destination.port': parsePort,
};

function l7Parser(key: string): (text: string) => Result<unknown> {
  const condition = parseHttpCondition(key);
  // What we do not know is only noted, so any text will do.
  if (condition === undefined) return ok;
  return condition.kind === 'remote-ip' ? parseCidr : checkPattern;
}

const L7_CONDITION = /^(request\.|remote\.ip$|connection\.|experimental\.)/;

function readCondition(when: Fields): WhenCondition {
  const name = when.string('key');
  const key = CONDITION_KEYS.find((known) => known === name);
  const parse = key === undefined ? l7Parser(name) : VALUE_PARSERS[key];
  const read = (list: string): string[] => {
    refuseEmpty(when, list);
    return when.parsed(list, VALUES_MAX, (text) => {
      const checked = parse(text);
      return checked.ok ? ok(text) : checked;
    });
  };
  const values = read('values');
  const notValues = read('notValues');
  if (values.length + notValues.length === 0)
    when.problem('values', 'values or notValues is needed');
  if (key === undefined && !L7_CONDITION.test(name))
    when.problem('key', 'is not a known condition');
  when.refuseUnknown();
  return key === undefined ? { l7Key: name, values, notValues } : { key, values, notValues };
}

function refuse(text: string, reason: string): Result<never> {
  const message = `cannot match ${JSON.stringify(text.slice(0, 80))}: ${reason}`;
  return fail(new MeshError('MESH_MANIFEST_INVALID', message));
}

/** Exact, `*` (any), `abc*` (prefix) or `*abc` (suffix). A star elsewhere would silently match nothing. */
function checkPattern(text: string): Result<string> {
  if (text === '') return refuse(text, 'it is empty');
  if (text === '*') return ok(text);
  const stars = text.split('*').length - 1;
  if (stars > 1) return refuse(text, 'only one "*" is possible');
  if (stars === 1 && !text.startsWith('*') && !text.endsWith('*')) {
    return refuse(text, '"*" must be first or last');
  }
  return ok(text);
}

/** Istio's path templates would be read as text here, and match nothing. */
function checkPath(text: string): Result<string> {
  return /[{}]/.test(text) ? refuse(text, 'path templates are not supported') : checkPattern(text);
}

function checkPrincipal(text: string): Result<string> {
  if (text.startsWith('spiffe://')) {
    return refuse(text, 'principals are written without "spiffe://"');
  }
  return checkPattern(text);
}

function checkServiceAccount(text: string): Result<string> {
  if (/^([a-z0-9][a-z0-9-]{0,62}\/)?[a-z0-9][a-z0-9.-]{0,252}$/.test(text)) return ok(text);
  return refuse(text, 'write ACCOUNT or NAMESPACE/ACCOUNT');
}
