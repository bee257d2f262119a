/** `meshctl namespace add|remove|list`: who is in the mesh. Running pods join and leave without a restart. */

import { MeshError } from '../../base/errors.ts';
import type { Cluster } from '../cluster.ts';
import { NEVER_ENROLLED } from '../install/guards.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import { writeList, type ListArgs } from '../list-report.ts';
import { MESH_LABEL } from '../install/in-use.ts';
import { selection } from '../selection.ts';
import type { EnrolledNamespace } from '../survey/enrolment.ts';
import { surveyMesh } from '../survey/survey.ts';
import { waitUntil } from '../wait-until.ts';

export interface NamespaceChangeArgs {
  readonly names: readonly string[];
  readonly wait: boolean;
  readonly timeoutMs: number;
  /** Only say what would be done. */
  readonly dryRun: boolean;
}

function stateOf(
  namespaces: readonly EnrolledNamespace[],
  name: string,
): EnrolledNamespace | undefined {
  return namespaces.find((namespace) => namespace.name === name);
}

async function requireNamespaces(cluster: Cluster, names: readonly string[]): Promise<void> {
  for (const name of names) {
    if (NEVER_ENROLLED.includes(name)) {
      const message = `Cannot change namespace "${name}": the mesh needs it in order to run, so it is never in the mesh`;
      throw new MeshError('MESH_USAGE', message);
    }
    if ((await cluster.get(`/api/v1/namespaces/${name}`)) === undefined) {
      const message = `Cannot change namespace "${name}": there is none of this name in context ${cluster.context}; see kubectl get namespaces`;
      throw new MeshError('MESH_USAGE', message);
    }
  }
}

async function setLabel(cluster: Cluster, name: string, value: 'enabled' | null): Promise<void> {
  await cluster.merge(`/api/v1/namespaces/${name}`, {
    metadata: { labels: { [MESH_LABEL]: value } },
  });
}

export async function namespaceAdd(
  args: NamespaceChangeArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  await requireNamespaces(cluster, args.names);
  for (const name of args.names) {
    if (args.dryRun) io.out(`namespace ${name} would be labelled ${MESH_LABEL}=enabled\n`);
    else {
      await setLabel(cluster, name, 'enabled');
      io.out(`namespace ${name} is enrolled: its running pods join without a restart\n`);
    }
  }
  if (args.dryRun || !args.wait) return EXIT.good;
  let said = '';
  const isDone = await waitUntil(io, args.timeoutMs, async () => {
    const { namespaces, workloads } = (await surveyMesh(cluster, io.now())).enrolment;
    const line = args.names
      .map(
        (name) =>
          `${name} ${stateOf(namespaces, name)?.captured ?? 0}/${stateOf(namespaces, name)?.wanted ?? 0}`,
      )
      .join(', ');
    if (line !== said) io.err(`in the mesh: ${line}\n`);
    said = line;
    const own = workloads.filter(({ namespace }) => args.names.includes(namespace));
    return own.every(({ state }) => !['waiting', 'joining', 'leaving', 'failed'].includes(state));
  });
  if (isDone) return EXIT.good;
  io.err('error: not every pod is in the mesh yet; try: meshctl workload list\n');
  return EXIT.problem;
}

export async function namespaceRemove(
  args: NamespaceChangeArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  await requireNamespaces(cluster, args.names);
  for (const name of args.names) {
    if (args.dryRun) io.out(`namespace ${name} would lose its label ${MESH_LABEL}\n`);
    else {
      await setLabel(cluster, name, null);
      io.out(
        `namespace ${name} leaves the mesh: its pods go on in plain text, none is restarted\n`,
      );
    }
  }
  if (args.dryRun || !args.wait) return EXIT.good;
  const isDone = await waitUntil(io, args.timeoutMs, async () => {
    const survey = await surveyMesh(cluster, io.now());
    const phases = [...survey.controller.phases.values()].filter(({ phase }) => phase !== 'plain');
    const leaving = await podUids(cluster, args.names);
    return phases.every(({ podUid }) => !leaving.has(podUid));
  });
  if (isDone) return EXIT.good;
  io.err('error: some pods are still in the mesh; a label of their own may keep them there\n');
  return EXIT.problem;
}

async function podUids(cluster: Cluster, names: readonly string[]): Promise<Set<string>> {
  const lists = await Promise.all(
    names.map((name) => cluster.list(`/api/v1/namespaces/${name}/pods`)),
  );
  return new Set(
    lists.flatMap((items) =>
      ((items ?? []) as { readonly metadata?: { readonly uid?: string } }[]).map(
        ({ metadata }) => metadata?.uid ?? '',
      ),
    ),
  );
}

export async function namespaceList(
  args: ListArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const { enrolment, gaps } = await surveyMesh(cluster, io.now());
  const isSelected = await selection(cluster, '/api/v1/namespaces', args.selector);
  for (const { what, reason } of gaps) io.err(`could not find out: ${what}: ${reason}\n`);
  writeList(io, args, {
    kind: 'NamespaceList',
    items: enrolment.namespaces.filter(({ name }) => isSelected(name)),
    columns: [
      { head: 'NAME', cell: ({ name }) => name },
      { head: 'ENROLLED', cell: ({ label }) => label ?? 'some pods' },
      { head: 'IN MESH', cell: ({ captured, wanted }) => `${captured}/${wanted}` },
      { head: 'WAYPOINT', cell: ({ waypoint }) => waypoint },
    ],
    json: (namespace) => namespace,
    name: ({ name }) => `namespace/${name}`,
    empty: 'No namespace is in the mesh; try: meshctl namespace add NAME\n',
  });
  return gaps.length > 0 ? EXIT.unknown : EXIT.good;
}
