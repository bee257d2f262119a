/** `meshctl install --apply`: the objects that `install` prints, applied server-side, and waited for. */

import { MeshError } from '../../base/errors.ts';
import type { Cluster } from '../cluster.ts';
import { CONTROLLER, NAMESPACE, NODE, type KubeObject } from '../install/kube-object.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import type { KubeItem } from '../kube-shapes.ts';
import { pathOf } from '../resource-path.ts';
import { waitUntil } from '../wait-until.ts';

export interface ApplyArgs {
  readonly wait: boolean;
  readonly timeoutMs: number;
}

const APPS = `/apis/apps/v1/namespaces/${NAMESPACE}`;

interface Progress {
  readonly ready: number;
  readonly wanted: number;
  /** The controllers of Kubernetes have seen what was applied, and every pod is of it. */
  readonly current: boolean;
}

function number(item: KubeItem | undefined, field: string): number {
  const value = item?.status?.[field];
  return typeof value === 'number' ? value : 0;
}

async function progressOf(cluster: Cluster): Promise<{ controller: Progress; nodes: Progress }> {
  const [deployment, daemonSet] = (await Promise.all([
    cluster.get(`${APPS}/deployments/${CONTROLLER}`),
    cluster.get(`${APPS}/daemonsets/${NODE}`),
  ])) as (KubeItem | undefined)[];
  const isSeen = (item: KubeItem | undefined): boolean =>
    number(item, 'observedGeneration') >= (item?.metadata?.generation ?? 0);
  const replicas = Number(deployment?.spec?.['replicas'] ?? 1);
  const scheduled = number(daemonSet, 'desiredNumberScheduled');
  return {
    controller: {
      ready: number(deployment, 'readyReplicas'),
      wanted: replicas,
      current: isSeen(deployment) && number(deployment, 'updatedReplicas') >= replicas,
    },
    nodes: {
      ready: number(daemonSet, 'numberReady'),
      wanted: scheduled,
      current: isSeen(daemonSet) && number(daemonSet, 'updatedNumberScheduled') >= scheduled,
    },
  };
}

function isDone({ ready, wanted, current }: Progress): boolean {
  return current && wanted > 0 && ready >= wanted;
}

export async function applyObjects(
  objects: readonly KubeObject[],
  args: ApplyArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  for (const object of objects) {
    await cluster.apply(pathOf(object), object).catch((error: unknown) => {
      if (!(error instanceof MeshError)) throw error;
      const message = `Cannot apply ${object.kind} "${object.metadata.name}": ${error.message}; what was applied before stays, and installing again goes on from here`;
      throw new MeshError(error.code, message, { cause: error, details: error.details });
    });
    io.out(`${object.kind} ${object.metadata.name} is applied\n`);
  }
  if (!args.wait) {
    io.err('try: meshctl check\n');
    return EXIT.good;
  }
  let said = '';
  const isReady = await waitUntil(io, args.timeoutMs, async () => {
    const { controller, nodes } = await progressOf(cluster);
    const line = `controller ready ${controller.ready}/${controller.wanted}, node proxies ready ${nodes.ready}/${nodes.wanted}`;
    if (line !== said) io.err(`${line}\n`);
    said = line;
    return isDone(controller) && isDone(nodes);
  });
  if (isReady) return EXIT.good;
  io.err('error: not everything is ready in time\ntry:   meshctl check\n');
  return EXIT.problem;
}
