/**
 * `meshctl uninstall`: takes the mesh away in an order in which nobody's traffic is cut by surprise and nothing is left:
 * pods leave the mesh, the node proxies go, every node is cleaned, and then everything else.
 */

import { WAYPOINT_CLASS } from '../../controlplane/gateway-objects.ts';
import {
  enrolledNames,
  findInUse,
  GATEWAY_GROUP,
  MESH_LABEL,
  WAYPOINT_LABEL,
  type InUse,
} from '../install/in-use.ts';
import { cleanerOf, CLEANER } from '../install/cleaner.ts';
import { NAMESPACE, NODE, type KubeObject } from '../install/kube-object.ts';
import { baseObjects, meshObjects } from '../install/objects.ts';
import { DEFAULT_VALUES } from '../install/values.ts';
import type { Cluster } from '../cluster.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import type { KubeItem } from '../kube-shapes.ts';
import { pathOf } from '../resource-path.ts';
import { surveyMesh } from '../survey/survey.ts';
import { waitUntil } from '../wait-until.ts';

export interface UninstallArgs {
  /** Even though pods are in the mesh: they are un-enrolled first. */
  readonly force: boolean;
  /** The CRDs too, and with them every policy that users wrote. */
  readonly purgeCrds: boolean;
  readonly dryRun: boolean;
  readonly timeoutMs: number;
  readonly version: string;
}

const DAEMON_SET = `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/${NODE}`;
const CLEANER_PATH = `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/${CLEANER}`;
const PODS = `/api/v1/namespaces/${NAMESPACE}/pods`;
/** More are counted, not named. */
const NAMED_MAX = 10;

function refuse(inUse: InUse, io: CommandIo): ExitCode {
  const names = enrolledNames(inUse);
  const more = names.length > NAMED_MAX ? ', …' : '';
  io.err(`error: the mesh is in use: ${names.slice(0, NAMED_MAX).join(', ')}${more}\n`);
  io.err(
    'cause: their traffic would fall back to plain text, and be refused where STRICT is expected\n',
  );
  const namespaces = inUse.namespaces.filter(({ enrolled }) => enrolled).map(({ name }) => name);
  if (namespaces.length > 0) io.err(`try:   meshctl namespace remove ${namespaces.join(' ')}\n`);
  io.err('       meshctl uninstall --force takes all of them out of the mesh first\n');
  return EXIT.problem;
}

/** Labels go first; proxies let go of their pods while everything still stands. Then the waypoints. */
async function unenrol(
  inUse: InUse,
  cluster: Cluster,
  io: CommandIo,
  timeoutMs: number,
): Promise<void> {
  const labels = { [MESH_LABEL]: null, [WAYPOINT_LABEL]: null };
  for (const { name, path } of [...inUse.namespaces, ...inUse.services, ...inUse.pods]) {
    await cluster.merge(path, { metadata: { labels } });
    io.out(`${name} has no label of ours any more\n`);
  }
  if (inUse.pods.length > 0) {
    io.err('the templates of those pods may still have the label; new pods would, too\n');
  }
  const isDone = await waitUntil(io, timeoutMs, async () => {
    const { controller } = await surveyMesh(cluster, io.now());
    // Without a controller nobody tells the nodes; cleaning them does it then.
    if (controller.connectedNodes === undefined) return true;
    return [...controller.phases.values()].every(({ phase }) => phase === 'plain');
  });
  if (!isDone) {
    io.err(
      'warning: some pods did not leave the mesh in time; cleaning their nodes cuts their connections\n',
    );
  }
  for (const { name, path } of inUse.waypoints) {
    await cluster.remove(path);
    io.out(`${name} is deleted\n`);
  }
}

async function hasPods(cluster: Cluster, component: string): Promise<boolean> {
  const labelSelector = `app.kubernetes.io/name=nodemesh,app.kubernetes.io/component=${component}`;
  return ((await cluster.list(PODS, { labelSelector })) ?? []).length > 0;
}

/** Node proxies away, then a cleaner on every node until each says that nothing is left. */
async function cleanNodes(
  daemonSet: KubeItem,
  args: UninstallArgs,
  cluster: Cluster,
  io: CommandIo,
): Promise<boolean> {
  const { timeoutMs } = args;
  await cluster.remove(DAEMON_SET);
  io.err('waiting for the node proxies to end\n');
  if (!(await waitUntil(io, timeoutMs, async () => !(await hasPods(cluster, 'node')))))
    return false;
  await cluster.apply(CLEANER_PATH, cleanerOf(daemonSet, args.version));
  io.err('cleaning every node: rules, CNI entry, state\n');
  const isClean = await waitUntil(io, timeoutMs, async () => {
    const item = (await cluster.get(CLEANER_PATH)) as KubeItem | undefined;
    const {
      observedGeneration,
      desiredNumberScheduled: wanted,
      numberReady: ready,
    } = (item?.status ?? {}) as Record<string, number>;
    return (
      observedGeneration !== undefined &&
      observedGeneration > 0 &&
      wanted !== undefined &&
      (ready ?? 0) >= wanted
    );
  });
  if (!isClean) return false;
  await cluster.remove(CLEANER_PATH);
  return waitUntil(io, timeoutMs, async () => !(await hasPods(cluster, 'cleaner')));
}

/** In reverse of installing; the namespace last, with all that the controller made in it. */
function leftovers(args: UninstallArgs): KubeObject[] {
  const [namespace, ...crds] = baseObjects(args.version);
  const values = DEFAULT_VALUES;
  const mesh = meshObjects(values, args.version).filter(
    ({ metadata }) => metadata.namespace === undefined || metadata.namespace !== NAMESPACE,
  );
  const own = namespace === undefined ? [] : [namespace];
  return [...mesh.toReversed(), ...(args.purgeCrds ? crds : []), ...own];
}

export async function uninstall(
  args: UninstallArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const inUse = await findInUse(cluster);
  const isUsed = enrolledNames(inUse).length > 0;
  const labelled = [...inUse.namespaces, ...inUse.services, ...inUse.pods];
  if (isUsed && !args.force) return refuse(inUse, io);
  const objects = leftovers(args);
  if (args.dryRun) {
    for (const { name } of labelled) io.out(`${name} would lose the labels of ours\n`);
    for (const { name } of inUse.waypoints) io.out(`${name} would be deleted\n`);
    io.out('every node would be cleaned: rules, CNI entry, state\n');
    for (const { kind, metadata } of objects) io.out(`${kind} ${metadata.name} would be deleted\n`);
    return EXIT.good;
  }
  if (labelled.length + inUse.waypoints.length > 0)
    await unenrol(inUse, cluster, io, args.timeoutMs);
  const daemonSet = ((await cluster.get(DAEMON_SET)) ?? (await cluster.get(CLEANER_PATH))) as
    | KubeItem
    | undefined;
  if (daemonSet !== undefined && !(await cleanNodes(daemonSet, args, cluster, io))) {
    io.err(
      `error: not every node could be cleaned in time\ntry:   kubectl get pods -n ${NAMESPACE} -o wide, then meshctl uninstall again, which goes on from here\n`,
    );
    return EXIT.problem;
  }
  if (await cluster.remove(`${GATEWAY_GROUP}/gatewayclasses/${WAYPOINT_CLASS}`)) {
    io.out(`GatewayClass ${WAYPOINT_CLASS} is deleted\n`);
  }
  for (const object of objects) {
    if (await cluster.remove(pathOf(object)))
      io.out(`${object.kind} ${object.metadata.name} is deleted\n`);
  }
  const isGone = await waitUntil(io, args.timeoutMs, async () => {
    const states = await Promise.all(objects.map((object) => cluster.get(pathOf(object))));
    return states.every((state) => state === undefined);
  });
  if (!isGone) {
    io.err(
      `error: not everything is gone yet\ntry:   kubectl get namespace ${NAMESPACE} -o yaml, which says what it waits for\n`,
    );
    return EXIT.problem;
  }
  if (!args.purgeCrds)
    io.err('the CRDs and what users wrote of their kinds stay; --purge-crds removes them\n');
  return EXIT.good;
}
