/** Every setting of the node proxy and of the controller: the rows behind README's configuration table. */

import {
  hostPort,
  integer,
  oneOf,
  optionalPath,
  optionalText,
  path,
  text,
  readSettings,
  type Row,
  type Rows,
} from './rows.ts';

import type { Result } from '../../base/result.ts';

const LOG_LEVEL: Row<'debug' | 'info' | 'warn' | 'error'> = {
  env: 'NODEMESH_LOG_LEVEL',
  default: 'info',
  doc: 'debug, info, warn or error',
  parse: oneOf('debug', 'info', 'warn', 'error'),
};

const NODE_ROWS = {
  nodeName: { env: 'NODEMESH_NODE_NAME', doc: 'name of this node', parse: text },
  controller: {
    env: 'NODEMESH_CONTROLLER',
    default: 'nodemesh-controller.nodemesh-system.svc:15012',
    doc: 'HOST:PORT of discovery and CA',
    parse: hostPort,
  },
  controllerName: {
    env: 'NODEMESH_CONTROLLER_NAME',
    default: 'nodemesh-controller.nodemesh-system.svc',
    doc: 'DNS name the controller must prove',
    parse: text,
  },
  rootFile: {
    env: 'NODEMESH_ROOT_FILE',
    default: '/var/run/nodemesh/root/root-cert.pem',
    doc: 'PEM of the roots that vouch for the controller',
    parse: path,
  },
  tokenFile: {
    env: 'NODEMESH_TOKEN_FILE',
    default: '/var/run/nodemesh/token/token',
    doc: 'token that proves this node, read anew for each connection',
    parse: path,
  },
  runDir: {
    env: 'NODEMESH_RUN_DIR',
    default: '/run/nodemesh',
    doc: 'sockets and CNI spool',
    parse: path,
  },
  stateDir: {
    env: 'NODEMESH_STATE_DIR',
    default: '/var/lib/nodemesh',
    doc: 'last good configuration, without keys',
    parse: path,
  },
  keyDir: {
    env: 'NODEMESH_KEY_DIR',
    default: '',
    doc: 'memory-backed folder for keys over a restart; empty: keys die with the agent',
    parse: optionalPath,
  },
  workers: {
    env: 'NODEMESH_WORKERS',
    default: '2',
    doc: 'processes that carry traffic',
    parse: integer(1, 64),
  },
  metricsPort: {
    env: 'NODEMESH_METRICS_PORT',
    default: '15020',
    doc: 'Prometheus metrics, read only',
    parse: integer(1, 65_535),
  },
  readinessPort: {
    env: 'NODEMESH_READINESS_PORT',
    default: '15021',
    doc: 'readiness, read only',
    parse: integer(1, 65_535),
  },
  drainS: {
    env: 'NODEMESH_DRAIN_S',
    default: '3600',
    unit: 's',
    doc: 'how long established connections may go on after an upgrade',
    parse: integer(0, 604_800),
  },
  graceS: {
    env: 'NODEMESH_GRACE_S',
    default: '5',
    unit: 's',
    doc: 'how long SIGTERM keeps serving when there is no successor',
    parse: integer(0, 604_800),
  },
  logLevel: LOG_LEVEL,
} satisfies Rows;

const CONTROLLER_ROWS = {
  manifests: {
    env: 'NODEMESH_MANIFESTS',
    doc: 'folder of Kubernetes manifests to serve',
    parse: path,
  },
  stateDir: {
    env: 'NODEMESH_STATE_DIR',
    default: '/var/lib/nodemesh-controller',
    doc: 'certificate authority and its state',
    parse: path,
  },
  caDir: {
    env: 'NODEMESH_CA_DIR',
    default: '',
    doc: 'plugged-in CA: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem; empty: our own',
    parse: optionalPath,
  },
  tokensFile: {
    env: 'NODEMESH_TOKENS_FILE',
    doc: 'lines of "NODE TOKEN": who may join',
    parse: path,
  },
  port: {
    env: 'NODEMESH_PORT',
    default: '15012',
    doc: 'discovery and CA, TLS',
    parse: integer(1, 65_535),
  },
  metricsPort: {
    env: 'NODEMESH_METRICS_PORT',
    default: '15020',
    doc: 'Prometheus metrics, read only',
    parse: integer(1, 65_535),
  },
  readinessPort: {
    env: 'NODEMESH_READINESS_PORT',
    default: '15021',
    doc: 'readiness, read only',
    parse: integer(1, 65_535),
  },
  trustDomain: {
    env: 'NODEMESH_TRUST_DOMAIN',
    default: 'cluster.local',
    doc: 'trust domain of the certificate authority',
    parse: text,
  },
  names: {
    env: 'NODEMESH_CONTROLLER_NAMES',
    default: 'nodemesh-controller.nodemesh-system.svc',
    doc: 'DNS names and addresses in the controller certificate, comma separated',
    parse: text,
  },
  istioLabels: {
    env: 'NODEMESH_ISTIO_LABELS',
    default: 'false',
    doc: 'read the Istio ambient labels as ours',
    parse: oneOf('true', 'false'),
  },
  rootOut: {
    env: 'NODEMESH_ROOT_OUT',
    default: '',
    doc: 'where to write the roots for node proxies',
    parse: optionalText,
  },
  logLevel: LOG_LEVEL,
} satisfies Rows;

type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export interface NodeConfig {
  readonly nodeName: string;
  readonly controller: { readonly host: string; readonly port: number };
  readonly controllerName: string;
  readonly rootFile: string;
  readonly tokenFile: string;
  readonly runDir: string;
  readonly stateDir: string;
  readonly keyDir: string;
  readonly workers: number;
  readonly metricsPort: number;
  readonly readinessPort: number;
  readonly drainS: number;
  readonly graceS: number;
  readonly logLevel: LogLevel;
}

export interface ControllerConfig {
  readonly manifests: string;
  readonly stateDir: string;
  readonly caDir: string;
  readonly tokensFile: string;
  readonly port: number;
  readonly metricsPort: number;
  readonly readinessPort: number;
  readonly trustDomain: string;
  readonly names: string;
  readonly istioLabels: 'true' | 'false';
  readonly rootOut: string;
  readonly logLevel: LogLevel;
}

export function readNodeConfig(get: (name: string) => string | undefined): Result<NodeConfig> {
  return readSettings(NODE_ROWS, get);
}

export function readControllerConfig(
  get: (name: string) => string | undefined,
): Result<ControllerConfig> {
  return readSettings(CONTROLLER_ROWS, get);
}

/** All rows, for the table in the README. */
export const CONFIGURATION: Readonly<Record<'node' | 'controller', Rows>> = {
  node: NODE_ROWS,
  controller: CONTROLLER_ROWS,
};
