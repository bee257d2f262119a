/** Every setting of the node proxy and of the controller: the rows behind README's configuration table. */

import {
  hostPort,
  integer,
  oneOf,
  optionalPath,
  optionalHttpUrl,
  optionalText,
  path,
  ratio,
  text,
  readSettings,
  type Row,
  type Rows,
} from './rows.ts';

import { MeshError } from '../../base/errors.ts';
import { fail, ok, type Result } from '../../base/result.ts';

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
  nodeNamespace: {
    env: 'NODEMESH_NODE_NAMESPACE',
    default: '/proc/self/ns/net',
    doc: "the node's own network namespace; in a container that sees the host's processes `/proc/1/ns/net`",
    parse: path,
  },
  hostRoot: {
    env: 'NODEMESH_HOST_ROOT',
    default: '',
    doc: "where the host's file system is seen, for the CNI's namespaces; in a container that sees the host's processes `/proc/1/root`",
    parse: optionalPath,
  },
  cniConfDir: {
    env: 'NODEMESH_CNI_CONF_DIR',
    default: '',
    doc: "the container runtime's network configurations; empty: the CNI is left alone",
    parse: optionalPath,
  },
  cniBinDir: {
    env: 'NODEMESH_CNI_BIN_DIR',
    default: '/opt/cni/bin',
    doc: "the container runtime's CNI plugins",
    parse: path,
  },
  cniHostBinDir: {
    env: 'NODEMESH_CNI_HOST_BIN_DIR',
    default: '/opt/cni/bin',
    doc: 'the same folder as the container runtime sees it',
    parse: path,
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
  afterHandover: {
    env: 'NODEMESH_AFTER_HANDOVER',
    default: 'exit',
    doc: 'what the old proxy does once a successor has taken over and nothing is left: exit, or wait for SIGTERM, as in a pod, which would start it again',
    parse: oneOf('exit', 'wait'),
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

/** A waypoint's pod says who it is through the downward API; the certificate's identity is made of the same. */
const WAYPOINT_ROWS = {
  podName: { env: 'NODEMESH_POD_NAME', doc: 'name of this pod', parse: text },
  podNamespace: { env: 'NODEMESH_POD_NAMESPACE', doc: 'namespace of this pod', parse: text },
  serviceAccount: {
    env: 'NODEMESH_SERVICE_ACCOUNT',
    doc: 'service account of this pod: the name of its Gateway',
    parse: text,
  },
  trustDomain: {
    env: 'NODEMESH_TRUST_DOMAIN',
    default: 'cluster.local',
    doc: 'trust domain of the certificate authority',
    parse: text,
  },
  controller: NODE_ROWS.controller,
  controllerName: NODE_ROWS.controllerName,
  rootFile: NODE_ROWS.rootFile,
  tokenFile: {
    env: 'NODEMESH_TOKEN_FILE',
    default: '/var/run/nodemesh/token/token',
    doc: 'token that proves the service account, read anew for each connection',
    parse: path,
  },
  runDir: {
    env: 'NODEMESH_RUN_DIR',
    default: '/run/nodemesh',
    doc: 'admin socket',
    parse: path,
  },
  trustedHops: {
    env: 'NODEMESH_TRUSTED_HOPS',
    default: '',
    doc: 'NAMESPACE/ACCOUNT of proxies whose forwarding headers are believed, comma separated',
    parse: optionalText,
  },
  rateStoreFile: {
    env: 'NODEMESH_RATE_STORE_FILE',
    default: '/var/run/nodemesh/rate-store/url',
    doc: 'file with the URL of the Valkey or Redis that shared rate limits are counted in (`rediss://` for TLS); no such file: none',
    parse: path,
  },
  jwksPlainHttp: {
    env: 'NODEMESH_JWKS_PLAIN_HTTP',
    default: 'false',
    doc: 'keys of token issuers may be fetched over plain HTTP',
    parse: oneOf('true', 'false'),
  },
  otlpEndpoint: {
    env: 'NODEMESH_OTLP_ENDPOINT',
    default: '',
    doc: 'URL of the OTLP/HTTP collector that gets spans, e.g. `http://otel:4318`; empty: none, trace headers pass',
    parse: optionalHttpUrl,
  },
  traceRatio: {
    env: 'NODEMESH_TRACE_RATIO',
    default: '0',
    doc: 'share of requests to trace when the caller leaves it open, 0 to 1',
    parse: ratio,
  },
  metricsPort: NODE_ROWS.metricsPort,
  readinessPort: NODE_ROWS.readinessPort,
  drainS: {
    env: 'NODEMESH_DRAIN_S',
    default: '60',
    unit: 's',
    doc: 'how long running requests may go on when new ones are turned away',
    parse: integer(0, 604_800),
  },
  graceS: {
    env: 'NODEMESH_GRACE_S',
    default: '5',
    unit: 's',
    doc: 'how long SIGTERM keeps serving new requests, until clients know better',
    parse: integer(0, 604_800),
  },
  logLevel: LOG_LEVEL,
} satisfies Rows;

const CONTROLLER_ROWS = {
  source: {
    env: 'NODEMESH_SOURCE',
    default: 'auto',
    doc: 'files or kubernetes; auto: files when `NODEMESH_MANIFESTS` is set',
    parse: oneOf('auto', 'files', 'kubernetes'),
  },
  manifests: {
    env: 'NODEMESH_MANIFESTS',
    default: '',
    doc: 'files: folder of Kubernetes manifests to serve',
    parse: optionalPath,
  },
  kubeconfig: {
    env: 'NODEMESH_KUBECONFIG',
    default: '',
    doc: 'kubernetes: how to reach the API server; empty: as the pod this runs in',
    parse: optionalPath,
  },
  apiHost: {
    env: 'KUBERNETES_SERVICE_HOST',
    default: '',
    doc: 'kubernetes: API server, set by the kubelet',
    parse: optionalText,
  },
  apiPort: {
    env: 'KUBERNETES_SERVICE_PORT',
    default: '443',
    doc: 'kubernetes: its port, set by the kubelet',
    parse: optionalText,
  },
  replica: {
    env: 'NODEMESH_POD_NAME',
    default: '',
    doc: 'kubernetes: name of this controller among several; empty: the host name, a pod’s own',
    parse: optionalText,
  },
  stateDir: {
    env: 'NODEMESH_STATE_DIR',
    default: '/var/lib/nodemesh-controller',
    doc: 'admin socket; files: certificate authority and its state',
    parse: path,
  },
  caDir: {
    env: 'NODEMESH_CA_DIR',
    default: '',
    doc: 'files: plugged-in CA: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem; empty: our own',
    parse: optionalPath,
  },
  tokensFile: {
    env: 'NODEMESH_TOKENS_FILE',
    default: '',
    doc: 'files: lines of "NODE TOKEN" or "NAMESPACE/ACCOUNT TOKEN": who may join',
    parse: optionalPath,
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
  waypointImage: {
    env: 'NODEMESH_WAYPOINT_IMAGE',
    default: '',
    doc: 'kubernetes: image of the waypoints it makes; empty: it makes none',
    parse: optionalText,
  },
  waypointController: {
    env: 'NODEMESH_WAYPOINT_CONTROLLER',
    default: 'nodemesh-controller.nodemesh-system.svc:15012',
    doc: 'kubernetes: HOST:PORT at which waypoints find this controller',
    parse: text,
  },
  rootOut: {
    env: 'NODEMESH_ROOT_OUT',
    default: '',
    doc: 'files: where to write the roots for node proxies',
    parse: optionalText,
  },
  logLevel: LOG_LEVEL,
} satisfies Rows;

/** For `nodemesh admin`, in the pod of whichever program: where each keeps its sockets and ports. */
const ADMIN_ROWS = {
  runDir: NODE_ROWS.runDir,
  controllerStateDir: CONTROLLER_ROWS.stateDir,
  metricsPort: NODE_ROWS.metricsPort,
  readinessPort: NODE_ROWS.readinessPort,
} satisfies Rows;

/** For `nodemesh clean`, in the place of a node proxy. */
const CLEAN_ROWS = {
  runDir: NODE_ROWS.runDir,
  stateDir: NODE_ROWS.stateDir,
  nodeNamespace: NODE_ROWS.nodeNamespace,
  cniConfDir: NODE_ROWS.cniConfDir,
  cniBinDir: NODE_ROWS.cniBinDir,
  readinessPort: NODE_ROWS.readinessPort,
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
  readonly nodeNamespace: string;
  readonly hostRoot: string;
  readonly cniConfDir: string;
  readonly cniBinDir: string;
  readonly cniHostBinDir: string;
  readonly workers: number;
  readonly metricsPort: number;
  readonly readinessPort: number;
  readonly drainS: number;
  readonly afterHandover: 'exit' | 'wait';
  readonly graceS: number;
  readonly logLevel: LogLevel;
}

export interface WaypointConfig {
  readonly podName: string;
  readonly podNamespace: string;
  readonly serviceAccount: string;
  readonly trustDomain: string;
  readonly controller: { readonly host: string; readonly port: number };
  readonly controllerName: string;
  readonly rootFile: string;
  readonly tokenFile: string;
  readonly runDir: string;
  readonly trustedHops: string;
  readonly rateStoreFile: string;
  readonly jwksPlainHttp: 'true' | 'false';
  /** Empty: none. */
  readonly otlpEndpoint: string;
  readonly traceRatio: number;
  readonly metricsPort: number;
  readonly readinessPort: number;
  readonly drainS: number;
  readonly graceS: number;
  readonly logLevel: LogLevel;
}

export interface ControllerConfig {
  readonly source: 'files' | 'kubernetes';
  readonly manifests: string;
  readonly kubeconfig: string;
  readonly apiHost: string;
  readonly apiPort: string;
  readonly replica: string;
  readonly stateDir: string;
  readonly caDir: string;
  readonly tokensFile: string;
  readonly port: number;
  readonly metricsPort: number;
  readonly readinessPort: number;
  readonly trustDomain: string;
  readonly names: string;
  readonly istioLabels: 'true' | 'false';
  readonly waypointImage: string;
  readonly waypointController: string;
  readonly rootOut: string;
  readonly logLevel: LogLevel;
}

export interface AdminConfig {
  readonly runDir: string;
  readonly controllerStateDir: string;
  readonly metricsPort: number;
  readonly readinessPort: number;
}

export function readAdminConfig(get: (name: string) => string | undefined): Result<AdminConfig> {
  return readSettings(ADMIN_ROWS, get);
}

export type CleanConfig = Pick<
  NodeConfig,
  'runDir' | 'stateDir' | 'nodeNamespace' | 'cniConfDir' | 'cniBinDir' | 'readinessPort'
>;

export function readCleanConfig(get: (name: string) => string | undefined): Result<CleanConfig> {
  return readSettings(CLEAN_ROWS, get);
}

export function readNodeConfig(get: (name: string) => string | undefined): Result<NodeConfig> {
  return readSettings(NODE_ROWS, get);
}

export function readWaypointConfig(
  get: (name: string) => string | undefined,
): Result<WaypointConfig> {
  return readSettings(WAYPOINT_ROWS, get);
}

export function readControllerConfig(
  get: (name: string) => string | undefined,
): Result<ControllerConfig> {
  const read = readSettings(CONTROLLER_ROWS, get);
  if (!read.ok) return read;
  const { value } = read;
  const byManifests = value.manifests === '' ? 'kubernetes' : 'files';
  const source = value.source === 'auto' ? byManifests : value.source;
  if (source === 'files' && (value.manifests === '' || value.tokensFile === '')) {
    const message =
      'Cannot start: serving files needs both NODEMESH_MANIFESTS and NODEMESH_TOKENS_FILE';
    return fail(new MeshError('MESH_CONFIG_INVALID', message));
  }
  return ok(Object.freeze({ ...value, source }));
}

/** All rows, for the table in the README. */
export const CONFIGURATION: Readonly<Record<'node' | 'waypoint' | 'controller', Rows>> = {
  node: NODE_ROWS,
  waypoint: WAYPOINT_ROWS,
  controller: CONTROLLER_ROWS,
};
