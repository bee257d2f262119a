/** `meshctl workload list`: the pods of enrolled namespaces and how each stands to the mesh. */

import type { Cluster } from '../cluster.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import { writeList, type Column, type ListArgs } from '../list-report.ts';
import { selection } from '../selection.ts';
import type { Workload, WorkloadState } from '../survey/enrolment.ts';
import { surveyMesh } from '../survey/survey.ts';
import { formatDuration } from '../table.ts';

export interface WorkloadListArgs extends ListArgs {
  readonly namespace: string | undefined;
}

const SHOWN: Readonly<Record<WorkloadState, string>> = {
  in: 'yes',
  joining: 'joining',
  leaving: 'leaving',
  failed: 'FAILED',
  waiting: 'waiting',
  'host-network': 'host network',
  static: 'static pod',
  out: 'no',
};

function columnsOf(nowMs: number): readonly Column<Workload>[] {
  const expiry = ({ certificateNotAfterMs: end }: Workload): string | undefined =>
    end === undefined ? undefined : formatDuration(end - nowMs);
  return [
    { head: 'NAMESPACE', cell: ({ namespace }) => namespace },
    { head: 'NAME', cell: ({ name }) => name },
    { head: 'POD-IP', cell: ({ podIp }) => podIp },
    { head: 'NODE', cell: ({ node }) => node },
    { head: 'MESH', cell: ({ state }) => SHOWN[state] },
    { head: 'WAYPOINT', cell: ({ waypoint }) => waypoint },
    { head: 'IDENTITY', cell: ({ identity }) => identity },
    { head: 'CERT-EXPIRY', cell: expiry },
    { head: 'REASON', cell: ({ reason }) => reason, wide: true },
  ];
}

function workloadJson({ certificateNotAfterMs: end, ...workload }: Workload): object {
  return {
    ...workload,
    certificateNotAfter: end === undefined ? undefined : new Date(end).toISOString(),
  };
}

export async function workloadList(
  args: WorkloadListArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const { enrolment, gaps, nowMs } = await surveyMesh(cluster, io.now());
  const { namespace } = args;
  const where = namespace === undefined ? '' : `/namespaces/${namespace}`;
  const isSelected = await selection(cluster, `/api/v1${where}/pods`, args.selector);
  const chosen = enrolment.workloads.filter(
    (workload) =>
      (namespace === undefined || workload.namespace === namespace) &&
      isSelected(`${workload.namespace}/${workload.name}`),
  );
  for (const { what, reason } of gaps) io.err(`could not find out: ${what}: ${reason}\n`);
  const none = namespace === undefined ? 'No namespace' : `Nothing in ${namespace}`;
  writeList(io, args, {
    kind: 'WorkloadList',
    items: chosen,
    columns: columnsOf(nowMs),
    json: workloadJson,
    name: ({ name }) => `pod/${name}`,
    empty: `${none} is in the mesh; try: meshctl namespace add NAME\n`,
  });
  const failed = chosen.filter(({ state }) => state === 'failed');
  for (const { namespace: of, name, reason } of failed) io.err(`${of}/${name}: ${reason}\n`);
  if (failed.length > 0) return EXIT.problem;
  return gaps.length > 0 ? EXIT.unknown : EXIT.good;
}
