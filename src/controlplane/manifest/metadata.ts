/** Reads what all kinds share: metadata and label selectors. */

import { isLoopback, type IpAddress } from '../../core/address.ts';
import { isNamespaceName, isServiceAccountName } from '../../core/identity.ts';
import type { Labels, LabelSelector, ObjectMeta, SelectorTerm } from '../objects.ts';
import type { Fields } from './fields.ts';

const TERMS_MAX = 64;
const VALUES_MAX = 1024;
const OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist'] as const;

/** `scoped`: a missing namespace means `default`, as for kubectl. */
export function readMeta(root: Fields, scoped: boolean): ObjectMeta {
  const metadata = root.object('metadata');
  const name = metadata?.string('name') ?? '';
  // Every name we take is an RFC 1123 subdomain; service account names have exactly that form.
  if (!isServiceAccountName(name)) {
    (metadata ?? root).problem('name', 'must be a name of lower-case letters, digits, "-" and "."');
  }
  const namespace = scoped ? (metadata?.string('namespace', 'default') ?? 'default') : '';
  if (scoped && !isNamespaceName(namespace)) {
    metadata?.problem('namespace', 'must be a name of lower-case letters, digits and "-"');
  }
  return {
    name,
    namespace,
    labels: metadata?.stringMap('labels') ?? new Map(),
    annotations: metadata?.stringMap('annotations') ?? new Map(),
    createdMs: metadata === undefined ? 0 : (readTime(metadata, 'creationTimestamp') ?? 0),
  };
}

/** Which edit of the specification this is; 0 when nobody counts them. */
export function readGeneration(root: Fields): number {
  return root.object('metadata')?.integer('generation', 0, Number.MAX_SAFE_INTEGER) ?? 0;
}

/** Entries of a list in the status, which is not the writer's: nothing in it is ever a problem. */
export function readStatusList(
  root: Fields,
  list: 'conditions' | 'parents' | 'ancestors',
): readonly Readonly<Record<string, unknown>>[] {
  const status = root.raw('status');
  const entries: unknown = isRecord(status) ? status[list] : undefined;
  return Array.isArray(entries) ? entries.filter(isRecord) : [];
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function readTime(fields: Fields, key: string): number | undefined {
  const text = fields.string(key);
  if (text === '') return undefined;
  const ms = Date.parse(text);
  if (!Number.isNaN(ms) && /^\d{4}-\d\d-\d\dT/.test(text)) return ms;
  fields.problem(key, 'must be a time such as 2026-01-31T12:00:00Z');
  return undefined;
}

/** Not unspecified, loopback, link-local or multicast: what Kubernetes refuses in EndpointSlices too. */
export function isPodAddress(ip: IpAddress): boolean {
  if (isLoopback(ip) || ip === '::' || ip.startsWith('0.')) return false;
  if (ip.includes(':')) return !/^(fe[89ab][0-9a-f]|ff[0-9a-f]{2}):/.test(ip);
  const [first = 0, second = 0] = ip.split('.').map(Number);
  return first < 224 && !(first === 169 && second === 254);
}

/** A label selector with `matchLabels` and, where `withTerms`, `matchExpressions`. */
export function readSelector(fields: Fields, withTerms: boolean): LabelSelector {
  const matchLabels = fields.stringMap('matchLabels');
  const terms: SelectorTerm[] = [];
  for (const term of withTerms ? fields.objects('matchExpressions', TERMS_MAX) : []) {
    const key = term.string('key');
    const operator = term.oneOf('operator', OPERATORS);
    const values = term.strings('values', VALUES_MAX);
    if (key === '') term.problem('key', 'is missing');
    if (operator === undefined) term.problem('operator', 'is missing or unknown');
    else terms.push({ key, operator, values });
  }
  return { matchLabels, terms };
}

export function selectorOfLabels(matchLabels: Labels): LabelSelector {
  return { matchLabels, terms: [] };
}
