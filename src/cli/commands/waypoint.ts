/**
 * `meshctl waypoint apply|generate|list|status|delete`: L7 for a namespace. `apply` makes the Gateway, waits until it
 * serves, and only then leads the namespace's services through it, so that no request meets a waypoint that is not
 * ready; `delete` goes the same way back.
 */

import { stringify } from 'yaml';

import { MeshError } from '../../base/errors.ts';
import type { Cluster } from '../cluster.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import { writeList, type ListArgs } from '../list-report.ts';
import { isStructured, type OutputFormat } from '../output-format.ts';
import { writeStructured } from '../report.ts';
import { waitUntil } from '../wait-until.ts';

export interface WaypointArgs {
  readonly name: string;
  readonly namespace: string;
  readonly purpose: 'service' | 'workload' | 'all';
  /** Namespaces that may name it, besides its own. */
  readonly from: 'Same' | 'All';
}

export interface WaypointApplyArgs extends WaypointArgs {
  /** Lead the namespace through it. */
  readonly enroll: boolean;
  readonly wait: boolean;
  readonly timeoutMs: number;
}

export interface WaypointDeleteArgs {
  readonly name: string;
  readonly namespace: string;
  /** Although other namespaces name it. */
  readonly force: boolean;
}

export interface WaypointListArgs extends ListArgs {
  /** Undefined: all. */
  readonly namespace: string | undefined;
}

const GROUP = '/apis/gateway.networking.k8s.io/v1';
const CLASS = 'nodemesh-waypoint';
const CONTROLLER = 'nodemesh.dev/waypoint';
const LABEL = 'nodemesh.dev/waypoint';
const NAMESPACE_LABEL = 'nodemesh.dev/waypoint-namespace';
const GATEWAY_LABEL = 'gateway.networking.k8s.io/gateway-name';
const PORT = 15_008;

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

interface GatewayObject {
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly spec: { readonly gatewayClassName: string };
  readonly status?: {
    readonly conditions?: readonly Condition[];
    readonly addresses?: readonly { readonly value: string }[];
    readonly listeners?: readonly { readonly attachedRoutes: number }[];
  };
}

interface Labelled {
  readonly metadata: {
    readonly name: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly status?: { readonly conditions?: readonly Condition[] };
}

function manifest({ name, namespace, purpose, from }: WaypointArgs): Record<string, unknown> {
  const labels = purpose === 'service' ? {} : { labels: { 'nodemesh.dev/waypoint-for': purpose } };
  const allowed = from === 'Same' ? {} : { allowedRoutes: { namespaces: { from } } };
  return {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'Gateway',
    metadata: { name, namespace, ...labels },
    spec: {
      gatewayClassName: CLASS,
      listeners: [{ name: 'mesh', port: PORT, protocol: 'HBONE', ...allowed }],
    },
  };
}

function gatewayPath(namespace: string, name: string): string {
  return `${GROUP}/namespaces/${namespace}/gateways/${name}`;
}

function conditionOf(gateway: GatewayObject | undefined, type: string): Condition | undefined {
  return gateway?.status?.conditions?.find((condition) => condition.type === type);
}

async function requireGatewayApi(cluster: Cluster): Promise<void> {
  if ((await cluster.list(`${GROUP}/gateways`)) !== undefined) return;
  const message = `Cannot make a waypoint: context ${cluster.context} has no Gateway API (gateway.networking.k8s.io/v1); install its CRDs first`;
  throw new MeshError('MESH_USAGE', message);
}

export function waypointGenerate(args: WaypointArgs, io: CommandIo): ExitCode {
  io.out(stringify(manifest(args)));
  return EXIT.good;
}

export async function waypointApply(
  args: WaypointApplyArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const { name, namespace } = args;
  await requireGatewayApi(cluster);
  if ((await cluster.get(`/api/v1/namespaces/${namespace}`)) === undefined) {
    const message = `Cannot make a waypoint in namespace "${namespace}": there is none of this name in context ${cluster.context}`;
    throw new MeshError('MESH_USAGE', message);
  }
  await cluster.apply(`${GROUP}/gatewayclasses/${CLASS}`, {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'GatewayClass',
    metadata: { name: CLASS },
    spec: { controllerName: CONTROLLER },
  });
  await cluster.apply(gatewayPath(namespace, name), manifest(args));
  io.out(`waypoint ${namespace}/${name} applied\n`);
  if (args.wait) {
    let said = '';
    const isReady = await waitUntil(io, args.timeoutMs, async () => {
      const gateway = (await cluster.get(gatewayPath(namespace, name))) as GatewayObject;
      const programmed = conditionOf(gateway, 'Programmed');
      const line = programmed?.message ?? 'the controller has not seen it yet';
      if (line !== said) io.err(`waypoint: ${line}\n`);
      said = line;
      return programmed?.status === 'True';
    });
    if (!isReady) {
      io.err(
        `error: waypoint ${namespace}/${name} is not ready yet; the namespace does not go through it\n`,
      );
      io.err(`try:   meshctl -n ${namespace} waypoint status ${name}\n`);
      return EXIT.problem;
    }
  }
  if (!args.enroll) return EXIT.good;
  await cluster.merge(`/api/v1/namespaces/${namespace}`, {
    metadata: { labels: { [LABEL]: name, [NAMESPACE_LABEL]: null } },
  });
  io.out(`namespace ${namespace}: requests to its services pass waypoint ${name}\n`);
  return EXIT.good;
}

/** Namespaces whose label leads to the waypoint. */
async function namespacesOf(
  cluster: Cluster,
  namespace: string,
  name: string,
): Promise<readonly string[]> {
  const all = ((await cluster.list('/api/v1/namespaces')) ?? []) as readonly Labelled[];
  return all
    .filter(({ metadata }) => {
      const home = metadata.labels?.[NAMESPACE_LABEL] ?? metadata.name;
      return metadata.labels?.[LABEL] === name && home === namespace;
    })
    .map(({ metadata }) => metadata.name);
}

export async function waypointDelete(
  args: WaypointDeleteArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const { name, namespace, force } = args;
  const path = gatewayPath(namespace, name);
  const gateway = (await cluster.get(path)) as GatewayObject | undefined;
  if (gateway?.spec.gatewayClassName !== CLASS) {
    const message = `Cannot delete waypoint "${namespace}/${name}": there is none of this name in context ${cluster.context}; see meshctl waypoint list -A`;
    throw new MeshError('MESH_USAGE', message);
  }
  const users = await namespacesOf(cluster, namespace, name);
  const others = users.filter((user) => user !== namespace);
  if (others.length > 0 && !force) {
    const message = `Cannot delete waypoint "${namespace}/${name}": namespaces ${others.join(', ')} go through it and would be refused; use --force`;
    throw new MeshError('MESH_USAGE', message);
  }
  for (const user of force ? users : users.filter((one) => one === namespace)) {
    await cluster.merge(`/api/v1/namespaces/${user}`, {
      metadata: { labels: { [LABEL]: null, [NAMESPACE_LABEL]: null } },
    });
    io.out(`namespace ${user} does not go through it any more\n`);
  }
  await cluster.remove(path);
  io.out(`waypoint ${namespace}/${name} deleted\n`);
  return EXIT.good;
}

interface WaypointRow {
  readonly namespace: string;
  readonly name: string;
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
  readonly address: string;
  readonly attachedRoutes: number;
  readonly namespaces: readonly string[];
}

async function rowsOf(
  cluster: Cluster,
  namespace: string | undefined,
  selector?: string,
): Promise<WaypointRow[]> {
  const where = namespace === undefined ? '' : `/namespaces/${namespace}`;
  const query = selector === undefined ? {} : { labelSelector: selector };
  const found = (await cluster.list(`${GROUP}${where}/gateways`, query)) ?? [];
  const rows: WaypointRow[] = [];
  for (const gateway of found as readonly GatewayObject[]) {
    if (gateway.spec.gatewayClassName !== CLASS) continue;
    const { metadata, status } = gateway;
    const programmed = conditionOf(gateway, 'Programmed');
    rows.push({
      namespace: metadata.namespace,
      name: metadata.name,
      ready: programmed?.status === 'True',
      reason: programmed?.reason ?? 'Unknown',
      message: programmed?.message ?? 'the controller has not seen it yet',
      address: status?.addresses?.[0]?.value ?? '',
      attachedRoutes: status?.listeners?.[0]?.attachedRoutes ?? 0,
      namespaces: await namespacesOf(cluster, metadata.namespace, metadata.name),
    });
  }
  return rows;
}

export async function waypointList(
  args: WaypointListArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  writeList(io, args, {
    kind: 'WaypointList',
    items: await rowsOf(cluster, args.namespace, args.selector),
    columns: [
      { head: 'NAMESPACE', cell: ({ namespace }) => namespace },
      { head: 'NAME', cell: ({ name }) => name },
      { head: 'READY', cell: ({ ready, reason }) => (ready ? 'yes' : `no: ${reason}`) },
      { head: 'ADDRESS', cell: ({ address }) => address },
      { head: 'ROUTES', cell: ({ attachedRoutes }) => String(attachedRoutes) },
      { head: 'USED BY', cell: ({ namespaces }) => namespaces.join(', ') },
      { head: 'MESSAGE', cell: ({ message }) => message, wide: true },
    ],
    json: (row) => row,
    name: ({ name }) => `gateway.gateway.networking.k8s.io/${name}`,
    empty: 'There is no waypoint; try: meshctl waypoint apply\n',
  });
  return EXIT.good;
}

export async function waypointStatus(
  args: { readonly name: string; readonly namespace: string; readonly output: OutputFormat },
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const { name, namespace } = args;
  const row = (await rowsOf(cluster, namespace)).find((entry) => entry.name === name);
  if (row === undefined) {
    io.err(`error: there is no waypoint "${namespace}/${name}"; try: meshctl waypoint list -A\n`);
    return EXIT.problem;
  }
  const labelSelector = `${GATEWAY_LABEL}=${name}`;
  const pods = (await cluster.list(`/api/v1/namespaces/${namespace}/pods`, {
    labelSelector,
  })) as readonly Labelled[];
  const isReady = ({ status }: Labelled): boolean =>
    status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') ?? false;
  const processes = pods.map((pod) => ({ name: pod.metadata.name, ready: isReady(pod) }));
  if (isStructured(args.output)) {
    writeStructured(io, args.output, 'WaypointStatus', { ...row, processes });
  } else {
    const used = row.namespaces.length === 0 ? 'no namespace' : row.namespaces.join(', ');
    io.out(`waypoint  ${namespace}/${name}  ${row.ready ? 'ready' : `not ready: ${row.reason}`}\n`);
    io.out(`          ${row.message}\n`);
    io.out(`address   ${row.address === '' ? 'none' : row.address}:${PORT}\n`);
    io.out(`used by   ${used}; ${row.attachedRoutes} routes\n`);
    for (const { name: pod, ready } of processes) {
      io.out(`process   ${pod}  ${ready ? 'ready' : 'not ready'}\n`);
    }
  }
  return row.ready ? EXIT.good : EXIT.problem;
}
