/** What `nodemesh admin` printed inside a pod, taken apart. Anything may be missing: the pod may run another version. */

import type { Cluster, PodRef } from '../cluster.ts';

interface AdminAnswer {
  readonly from?: string;
  readonly pid?: number;
  readonly path?: string;
  readonly status?: number;
  readonly body?: unknown;
  readonly error?: string;
}

export interface AdminAnswers {
  /** The body of the first good answer. */
  first(from: string, path: string): unknown;
  /** Bodies of all good answers with the process that gave them. */
  all(
    from: string,
    path: string,
  ): readonly { readonly pid: number | undefined; readonly body: unknown }[];
}

const PROGRAM = ['/usr/local/bin/node', '/app/dist/bin/nodemesh.js', 'admin', 'GET'] as const;

export function readAdminAnswers(stdout: string): AdminAnswers {
  const { answers = [] } = JSON.parse(stdout) as { answers?: readonly AdminAnswer[] };
  const all = (from: string, path: string): { pid: number | undefined; body: unknown }[] =>
    answers
      .filter((answer) => answer.from === from && answer.path === path && answer.body !== undefined)
      // Readiness that says no says why.
      .filter(({ status }) => status === 200 || (status === 503 && from === 'port'))
      .map(({ pid, body }) => ({ pid, body }));
  return { all, first: (from, path) => all(from, path)[0]?.body };
}

/** Asks every process in the pod; rejects when the program could not be run there, or said nothing sensible. */
export async function askPod(
  cluster: Cluster,
  pod: PodRef,
  paths: readonly string[],
): Promise<AdminAnswers> {
  const { stdout } = await cluster.exec(pod, [...PROGRAM, ...paths]);
  return readAdminAnswers(stdout);
}

/** One section of `/config_dump/NAME`, which is wrapped in its name. */
export function sectionOf(body: unknown, name: string): unknown {
  if (typeof body !== 'object' || body === null) return undefined;
  return (body as Readonly<Record<string, unknown>>)[name];
}

/** Values of one metric in Prometheus text, with the text of its labels. */
export function metricValues(
  text: unknown,
  name: string,
): { readonly labels: string; readonly value: number }[] {
  if (typeof text !== 'string') return [];
  return text.split('\n').flatMap((line) => {
    if (!line.startsWith(name)) return [];
    const match = /^([\w:]+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (match?.[1] !== name) return [];
    return [{ labels: match[2] ?? '', value: Number(match[3]) }];
  });
}
