/** `meshctl status`: the mesh on one screen, and what is wrong with it below. */

import { runChecks, type CheckResult } from '../checks/check.ts';
import { exitCodeOf, formatResult } from '../checks/format.ts';
import { MESH_CHECKS } from '../checks/mesh-checks.ts';
import type { Cluster } from '../cluster.ts';
import { NAMESPACE } from '../install/kube-object.ts';
import type { CommandIo, ExitCode } from '../io.ts';
import { isPodReady, nameOf } from '../kube-shapes.ts';
import { formatList } from '../list-report.ts';
import { isStructured, type OutputFormat } from '../output-format.ts';
import { writeStructured } from '../report.ts';
import { createStyle, type Level, type Style } from '../style.ts';
import type { EnrolmentSurvey } from '../survey/enrolment.ts';
import type { MeshEvent } from '../survey/events.ts';
import { surveyMesh, type Survey } from '../survey/survey.ts';
import { cutLines, formatDuration, formatTable } from '../table.ts';
import { PROXY_COLUMNS, proxyJson } from './proxy-list.ts';

export interface StatusArgs {
  readonly output: OutputFormat;
}

const EVENTS_SHOWN = 5;
const EVENT_AGE_MAX_MS = 3_600_000;
/** More nodes than fit a screen: the worst are shown. */
const PROXIES_SHOWN = 12;
/** The kubelet's words for what a start may have to wait for. */
const STARTING = new Set(['Unhealthy', 'FailedMount', 'FailedCreatePodSandBox', 'BackOff']);
const NOT_INSTALLED = 'not installed';

interface Counts {
  readonly wanted: number;
  readonly captured: number;
  readonly failed: number;
}

function countPods({ namespaces, workloads }: EnrolmentSurvey): Counts {
  return {
    wanted: namespaces.reduce((sum, { wanted }) => sum + wanted, 0),
    captured: namespaces.reduce((sum, { captured }) => sum + captured, 0),
    failed: workloads.filter(({ state }) => state === 'failed').length,
  };
}

function nextExpiryMs({ nodeProxies }: Survey): number | undefined {
  const all = nodeProxies.proxies.flatMap(({ answers }) => answers?.certificates ?? []);
  return all.length === 0 ? undefined : Math.min(...all.map(({ notAfterMs }) => notAfterMs));
}

/** Of the checks whose category bears the name of the line. */
function levelOf(results: readonly CheckResult[], category: string): Level {
  const levels = results.filter((result) => result.category === category).map(({ level }) => level);
  for (const level of ['problem', 'unknown', 'warning'] as const) {
    if (levels.includes(level)) return level;
  }
  return 'good';
}

function summaryLines(survey: Survey, results: readonly CheckResult[], style: Style): string {
  const { controller, nodeProxies, enrolment, nowMs } = survey;
  const { wanted, captured, failed } = countPods(enrolment);
  const asked = nodeProxies.proxies.filter(({ answers }) => answers !== undefined);
  const synced = asked.filter(({ answers }) => answers?.configAgeS === 0).length;
  const certificates = asked.reduce(
    (sum, { answers }) => sum + (answers?.certificates.length ?? 0),
    0,
  );
  const expiryMs = nextExpiryMs(survey);
  const rows: (readonly [category: string, ...cells: string[]])[] = [
    [
      'controller',
      controller.desired === undefined
        ? NOT_INSTALLED
        : `ready ${controller.ready}/${controller.desired}`,
      controller.leader === undefined ? '' : `leader ${controller.leader}`,
      controller.version ?? '',
    ],
    [
      'node proxies',
      nodeProxies.desired === undefined
        ? NOT_INSTALLED
        : `ready ${nodeProxies.ready}/${nodeProxies.desired}`,
      asked.length === 0 ? '' : `configuration synced on ${synced}/${asked.length}`,
      [...new Set(nodeProxies.proxies.map(({ version }) => version ?? '?'))].join(', '),
    ],
    [
      'enrolment',
      `${captured}/${wanted} pods`,
      enrolment.namespaces.length === 0
        ? 'no namespace yet'
        : `in ${enrolment.namespaces.map(({ name }) => name).join(', ')}`,
      failed > 0 ? style.paint('problem', `${failed} failed`) : '',
    ],
    [
      'certificates',
      `${certificates} held`,
      expiryMs === undefined ? '' : `first expires in ${formatDuration(expiryMs - nowMs)}`,
      '',
    ],
  ];
  const cells = rows.map(([category, ...rest]) => [
    style.symbol(rest[0] === NOT_INSTALLED ? 'problem' : levelOf(results, category)),
    style.bold(category),
    ...rest.map((text) => (text === '' ? ' ' : text)),
  ]);
  return formatTable(['', '', '', '', ''], cells, { headers: false });
}

function proxyTable(survey: Survey): string {
  const { proxies } = survey.nodeProxies;
  if (proxies.length === 0) return '';
  const worst = proxies.toSorted((a, b) => Number(a.ready) - Number(b.ready));
  const shown = proxies.length > PROXIES_SHOWN ? worst.slice(0, PROXIES_SHOWN) : proxies;
  const more = proxies.length - shown.length;
  const rest = more > 0 ? `… and ${more} more: meshctl proxy list\n` : '';
  return `\n${formatList(PROXY_COLUMNS, shown)}${rest}`;
}

/** What went wrong while a pod started says nothing any more once the pod is ready. */
function isOver({ reason, about }: MeshEvent, survey: Survey): boolean {
  const ready = [
    ...survey.controller.pods.filter(isPodReady).map(nameOf),
    ...survey.nodeProxies.proxies.filter((proxy) => proxy.ready).map(({ pod }) => pod),
  ];
  return STARTING.has(reason) && ready.some((name) => about === `Pod ${NAMESPACE}/${name}`);
}

function recentEvents(survey: Survey): readonly MeshEvent[] {
  return survey.events.filter(
    (event) => survey.nowMs - event.timeMs < EVENT_AGE_MAX_MS && !isOver(event, survey),
  );
}

function lastErrors(survey: Survey, style: Style, columns: number | undefined): string {
  const recent = recentEvents(survey);
  if (recent.length === 0) return '';
  const rows = recent
    .slice(0, EVENTS_SHOWN)
    .map(({ timeMs, about, reason, note }) => [
      formatDuration(survey.nowMs - timeMs),
      about.replace(` ${NAMESPACE}/`, ' '),
      reason,
      note,
    ]);
  const text = formatTable(['', '', '', ''], rows, { headers: false, indent: '  ' });
  return `\n${style.bold('last warnings')}\n${cutLines(text, columns)}`;
}

function statusJson(survey: Survey, results: readonly CheckResult[]): Record<string, unknown> {
  const { controller, nodeProxies, enrolment, gaps, context } = survey;
  const { desired, ready, version, image, leader } = controller;
  const expiryMs = nextExpiryMs(survey);
  return {
    context,
    meshNamespace: NAMESPACE,
    controller: { desired, ready, version, image, leader },
    nodeProxies: {
      desired: nodeProxies.desired,
      ready: nodeProxies.ready,
      updated: nodeProxies.updated,
      items: nodeProxies.proxies.map(proxyJson),
    },
    enrolment: { ...countPods(enrolment), namespaces: enrolment.namespaces },
    certificates: {
      held: nodeProxies.proxies.reduce(
        (sum, { answers }) => sum + (answers?.certificates.length ?? 0),
        0,
      ),
      firstExpiry: expiryMs === undefined ? undefined : new Date(expiryMs).toISOString(),
    },
    warnings: recentEvents(survey).map(({ timeMs, ...event }) => ({
      time: new Date(timeMs).toISOString(),
      ...event,
    })),
    problems: results.filter(({ level }) => level !== 'good'),
    gaps,
  };
}

export async function status(args: StatusArgs, io: CommandIo, cluster: Cluster): Promise<ExitCode> {
  const survey = await surveyMesh(cluster, io.now());
  const results = runChecks(MESH_CHECKS, survey);
  const exitCode = exitCodeOf(results);
  if (isStructured(args.output)) {
    writeStructured(io, args.output, 'Status', statusJson(survey, results));
    return exitCode;
  }
  const style = createStyle(io);
  io.out(`${style.bold('nodemesh')} in ${NAMESPACE}, context ${survey.context}\n\n`);
  io.out(summaryLines(survey, results, style));
  io.out(proxyTable(survey));
  io.out(lastErrors(survey, style, io.columns));
  const wrong = results.filter(({ level }) => level !== 'good');
  if (wrong.length > 0) io.out(`\n${wrong.map((result) => formatResult(result, style)).join('')}`);
  return exitCode;
}
