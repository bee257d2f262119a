/**
 * What an installation can be told: the same values, with the same names and defaults, as the Helm chart's
 * `values.yaml` (a test compares them). Given values are laid over the defaults; a name that no default has, or a value
 * of another type, is a mistake that names its path, never ignored.
 */

import { MeshError } from '../../base/errors.ts';

type Json = Readonly<Record<string, unknown>>;

export interface ImageValues {
  readonly repository: string;
  /** Empty: the version of this meshctl. */
  readonly tag: string;
  /** `sha256:…`; wins over the tag. */
  readonly digest: string;
  readonly pullPolicy: string;
}

/** What both the controller and the node proxies can be given. */
export interface PodValues {
  readonly resources: Json;
  readonly nodeSelector: Json;
  readonly tolerations: readonly unknown[];
  readonly affinity: Json;
  readonly podLabels: Readonly<Record<string, string>>;
  readonly podAnnotations: Readonly<Record<string, string>>;
  readonly priorityClassName: string;
  readonly extraEnv: readonly unknown[];
}

export interface ControllerValues extends PodValues {
  readonly replicas: number;
  /** A fixed address of the service. Node proxies then need no DNS to find the controller. */
  readonly clusterIP: string;
}

export interface NodeValues extends PodValues {
  readonly workers: number;
  /** Seconds that established connections may go on after an upgrade. */
  readonly drainSeconds: number;
  readonly cniConfDir: string;
  readonly cniBinDir: string;
}

export interface InstallValues {
  readonly image: ImageValues;
  readonly imagePullSecrets: readonly unknown[];
  readonly trustDomain: string;
  /** Read the Istio ambient labels as ours. */
  readonly istioLabels: boolean;
  readonly logLevel: string;
  readonly controller: ControllerValues;
  readonly node: NodeValues;
  readonly networkPolicies: { readonly enabled: boolean };
}

const POD_DEFAULTS = {
  nodeSelector: { 'kubernetes.io/os': 'linux' },
  affinity: {},
  podLabels: {},
  podAnnotations: {},
  extraEnv: [],
} as const;

export const DEFAULT_VALUES: InstallValues = {
  image: { repository: 'nodemesh', tag: '', digest: '', pullPolicy: 'IfNotPresent' },
  imagePullSecrets: [],
  trustDomain: 'cluster.local',
  istioLabels: false,
  logLevel: 'info',
  controller: {
    replicas: 1,
    clusterIP: '',
    resources: { requests: { cpu: '100m', memory: '192Mi' }, limits: { memory: '1Gi' } },
    tolerations: [],
    priorityClassName: 'system-cluster-critical',
    ...POD_DEFAULTS,
  },
  node: {
    workers: 2,
    drainSeconds: 3600,
    cniConfDir: '/etc/cni/net.d',
    cniBinDir: '/opt/cni/bin',
    resources: { requests: { cpu: '100m', memory: '256Mi' }, limits: { memory: '2Gi' } },
    tolerations: [
      { operator: 'Exists', effect: 'NoSchedule' },
      { operator: 'Exists', effect: 'NoExecute' },
    ],
    priorityClassName: 'system-node-critical',
    ...POD_DEFAULTS,
  },
  networkPolicies: { enabled: true },
};

/** Objects whose keys are the user's own. */
const FREE = new Set(['resources', 'nodeSelector', 'affinity', 'podLabels', 'podAnnotations']);

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(path: string, reason: string): MeshError {
  return new MeshError('MESH_USAGE', `Cannot read the value "${path}": ${reason}`);
}

function nameOfType(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  return isObject(value) ? 'an object' : `a ${typeof value}`;
}

/** As Helm does it: objects are merged, lists replaced, and null takes a key away where keys are free. */
function overlay(base: Json, over: Json, path: string, free: boolean): Json {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const at = path === '' ? key : `${path}.${key}`;
    const before = base[key];
    if (!free && !Object.hasOwn(base, key)) {
      throw invalid(at, `there is none of this name; known are ${Object.keys(base).join(', ')}`);
    }
    if (!free && nameOfType(value) !== nameOfType(before)) {
      throw invalid(at, `it must be ${nameOfType(before)}, not ${nameOfType(value)}`);
    }
    if (isObject(value)) {
      merged[key] = overlay(isObject(before) ? before : {}, value, at, free || FREE.has(key));
    } else if (value === null) delete merged[key];
    else merged[key] = value;
  }
  return merged;
}

/** `values` laid over the defaults, later ones win. Throws `MESH_USAGE` naming what is wrong. */
export function readValues(...values: readonly unknown[]): InstallValues {
  let merged = DEFAULT_VALUES as unknown as Json;
  for (const given of values) {
    if (given === null || given === undefined) continue;
    if (!isObject(given)) throw invalid('', `values must be an object, not ${nameOfType(given)}`);
    merged = overlay(merged, given, '', false);
  }
  const result = merged as unknown as InstallValues;
  const { controller, node, logLevel } = result;
  if (!Number.isInteger(controller.replicas) || controller.replicas < 1) {
    throw invalid('controller.replicas', 'it must be a whole number from 1');
  }
  if (!Number.isInteger(node.workers) || node.workers < 1 || node.workers > 64) {
    throw invalid('node.workers', 'it must be a whole number from 1 to 64');
  }
  if (!Number.isInteger(node.drainSeconds) || node.drainSeconds < 0) {
    throw invalid('node.drainSeconds', 'it must be a whole number of seconds');
  }
  if (!['debug', 'info', 'warn', 'error'].includes(logLevel)) {
    throw invalid('logLevel', 'it must be debug, info, warn or error');
  }
  return result;
}

/** One `--set a.b=c`: numbers, true and false are read as such, everything else is text. */
export function parseSetting(text: string): Json {
  const equals = text.indexOf('=');
  if (equals <= 0) throw invalid(text, 'write --set NAME=VALUE');
  const path = text.slice(0, equals).split('.');
  const given = text.slice(equals + 1);
  const value: unknown = /^(?:true|false|-?(?:0|[1-9]\d{0,14}))$/.test(given)
    ? (JSON.parse(given) as unknown)
    : given;
  return path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value) as Json;
}
