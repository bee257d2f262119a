/** What `meshctl check` asks of a mesh that is installed. */

import { NAMESPACE } from '../install/kube-object.ts';
import type { NodeProxy } from '../survey/node-proxies.ts';
import type { Survey } from '../survey/survey.ts';
import { formatDuration } from '../table.ts';
import { good, problem, unknown, warning, type Check, type Finding } from './check.ts';

const HOUR_MS = 3_600_000;
/** A 24-hour certificate is renewed at half its life; with this much left, renewal has failed for long. */
const EXPIRY_PROBLEM_MS = HOUR_MS;
const EXPIRY_WARNING_MS = 6 * HOUR_MS;
const LAG_WARNING_S = 0.5;
const RESTARTS_WARNING = 5;
/** More are counted, not named. */
const NAMED_MAX = 5;

function logsOf(pod: string): string {
  return `kubectl logs -n ${NAMESPACE} ${pod}`;
}

function named(names: readonly string[]): string {
  const shown = names.slice(0, NAMED_MAX).join(', ');
  return names.length > NAMED_MAX ? `${shown} and ${names.length - NAMED_MAX} more` : shown;
}

function checkInstalled({ namespace, controller, nodeProxies }: Survey): Finding[] {
  const missing = [
    namespace === undefined && `the namespace ${NAMESPACE}`,
    controller.desired === undefined && 'the controller',
    nodeProxies.desired === undefined && 'the node proxies',
  ].filter((name) => name !== false);
  if (missing.length === 0) return [good('everything is installed')];
  const hint = 'meshctl install | kubectl apply -f -';
  return [
    problem(
      `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} not there`,
      undefined,
      hint,
    ),
  ];
}

function checkPodSecurity({ namespace }: Survey): Finding[] {
  if (namespace === undefined) return [];
  const enforced = namespace.metadata?.labels?.['pod-security.kubernetes.io/enforce'];
  if (enforced === 'privileged') return [good('Pod Security admits the node proxies')];
  const cause = `${NAMESPACE} enforces "${enforced ?? 'the default of the cluster'}"`;
  const hint = 'meshctl install --crds | kubectl apply -f -';
  return [warning('Pod Security may refuse the node proxies', cause, hint)];
}

function checkController({ controller }: Survey): Finding[] {
  const { desired, ready, pods } = controller;
  if (desired === undefined) return [];
  const text = `controller ready ${ready}/${desired}`;
  if (ready >= desired) return [good(text)];
  const hint =
    pods[0] === undefined
      ? `kubectl describe deploy -n ${NAMESPACE}`
      : logsOf(pods[0].metadata?.name ?? '');
  const cause = 'running workloads go on; what changes is not heard until it is back';
  return [ready === 0 ? problem(text, cause, hint) : warning(text, undefined, hint)];
}

function checkLeader({ controller }: Survey): Finding[] {
  const { ready, leader, pods } = controller;
  if (ready === 0) return [];
  if (leader === undefined) return [warning('no controller leads: nothing is written to status')];
  const isOne = pods.some(({ metadata }) => metadata?.name === leader);
  if (isOne) return [good(`${leader} leads`)];
  return [warning(`the leader ${leader} is gone; another takes over within 15 s`)];
}

function checkProxyCount({ nodeProxies }: Survey): Finding[] {
  const { desired, ready } = nodeProxies;
  if (desired === undefined) return [];
  const text = `node proxies ready ${ready}/${desired}`;
  if (ready >= desired && desired > 0) return [good(text)];
  if (desired === 0)
    return [problem('no node is to have a proxy', 'no node matches the node selector')];
  return [problem(text, undefined, 'meshctl proxy list')];
}

function currentProxies({ nodeProxies }: Survey): readonly NodeProxy[] {
  return nodeProxies.proxies.filter(({ leaving }) => !leaving);
}

function checkProxies(survey: Survey): Finding[] {
  return currentProxies(survey).flatMap((proxy): Finding[] => {
    const { node, pod, ready, waiting, answers, restarts } = proxy;
    const found: Finding[] = [];
    if (waiting !== undefined) {
      found.push(
        problem(
          `${node}: its proxy does not run`,
          waiting,
          `kubectl describe pod -n ${NAMESPACE} ${pod}`,
        ),
      );
    } else if (!ready) {
      const cause = answers?.blockers.join('; ');
      found.push(
        problem(`${node}: its proxy is not ready`, cause === '' ? undefined : cause, logsOf(pod)),
      );
    }
    if (restarts >= RESTARTS_WARNING) {
      found.push(
        warning(
          `${node}: its proxy was restarted ${restarts} times`,
          undefined,
          `${logsOf(pod)} --previous`,
        ),
      );
    }
    return found;
  });
}

function checkConfiguration(survey: Survey): Finding[] {
  const asked = currentProxies(survey).filter(({ answers }) => answers !== undefined);
  const stale = asked.filter(({ answers }) => (answers?.configAgeS ?? 0) > 0);
  if (asked.length === 0) return [];
  if (stale.length === 0) return [good(`configuration is synced on ${asked.length} nodes`)];
  return stale.map(({ node, pod, answers }) =>
    problem(
      `${node}: has not heard from a controller for ${formatDuration((answers?.configAgeS ?? 0) * 1000)}`,
      'it serves with what it knew then',
      logsOf(pod),
    ),
  );
}

function checkLag(survey: Survey): Finding[] {
  return currentProxies(survey)
    .filter(({ answers }) => (answers?.lagS ?? 0) > LAG_WARNING_S)
    .map(({ node, answers }) =>
      warning(
        `${node}: a process of its proxy stood still for ${Math.round((answers?.lagS ?? 0) * 1000)} ms`,
        'the node has too little CPU, or the proxy too much to do',
      ),
    );
}

function checkVersions({ controller, nodeProxies }: Survey): Finding[] {
  const versions = new Set([
    controller.version,
    ...nodeProxies.proxies.map(({ version }) => version),
  ]);
  versions.delete(undefined);
  if (versions.size <= 1) return [];
  const cause = `there are ${[...versions].join(', ')}`;
  return [
    warning(
      'not all parts have the same version',
      cause,
      `kubectl rollout status -n ${NAMESPACE} ds/nodemesh-node`,
    ),
  ];
}

function checkCaptured({ enrolment }: Survey): Finding[] {
  const { namespaces, workloads } = enrolment;
  if (namespaces.length === 0) return [good('no namespace is in the mesh yet')];
  const failed = workloads.filter(({ state }) => state === 'failed');
  const found = failed
    .slice(0, NAMED_MAX)
    .map(({ namespace, name, reason }) =>
      problem(
        `${namespace}/${name} is not in the mesh: its connections are refused`,
        reason,
        'meshctl workload list',
      ),
    );
  for (const { name, wanted, captured } of namespaces) {
    const waiting = workloads
      .filter(
        (pod) => pod.namespace === name && (pod.state === 'waiting' || pod.state === 'joining'),
      )
      .map((pod) => pod.name);
    if (waiting.length > 0) {
      found.push(
        warning(
          `${name}: ${captured}/${wanted} pods are in the mesh`,
          `on their way: ${named(waiting)}`,
          `meshctl workload list -n ${name}`,
        ),
      );
    }
  }
  if (found.length > 0) return found;
  const total = namespaces.reduce((sum, { captured }) => sum + captured, 0);
  return [good(`${total} pods of ${namespaces.length} namespaces are in the mesh`)];
}

function checkHostNetwork({ enrolment }: Survey): Finding[] {
  const names = enrolment.workloads
    .filter(({ state }) => state === 'host-network')
    .map(({ namespace, name }) => `${namespace}/${name}`);
  if (names.length === 0) return [];
  return [
    warning(
      `${names.length} ${names.length === 1 ? 'pod uses the network of its node and' : 'pods use the network of their node and'} cannot be in the mesh`,
      named(names),
    ),
  ];
}

function checkExpiry(survey: Survey): Finding[] {
  const held = currentProxies(survey).flatMap(({ node, answers }) =>
    (answers?.certificates ?? []).map((certificate) => ({ node, ...certificate })),
  );
  if (held.length === 0) return [];
  const late = held
    .map((one) => ({ ...one, leftMs: one.notAfterMs - survey.nowMs }))
    .filter(({ leftMs }) => leftMs < EXPIRY_WARNING_MS)
    .toSorted((a, b) => a.leftMs - b.leftMs);
  if (late.length === 0) return [good(`${held.length} certificates are valid`)];
  return late.slice(0, NAMED_MAX).map(({ node, identity, leftMs }) => {
    const when = leftMs <= 0 ? 'has expired' : `expires in ${formatDuration(leftMs)}`;
    const text = `${node}: the certificate of ${identity} ${when}`;
    const cause = 'it should have been renewed at half its life';
    return leftMs < EXPIRY_PROBLEM_MS
      ? problem(text, cause, `kubectl logs -n ${NAMESPACE} deploy/nodemesh-controller`)
      : warning(text, cause);
  });
}

function checkObjects({ controller }: Survey): Finding[] {
  if (controller.connectedNodes === undefined) return [];
  const { problems } = controller;
  if (problems.length === 0) return [good('every policy and setting is accepted')];
  return problems.map(({ key, reason, message }) => warning(`${key}: ${message}`, reason));
}

function checkGaps({ gaps }: Survey): Finding[] {
  return gaps.map(({ what, reason }) => unknown(`could not find out: ${what}`, reason));
}

export const MESH_CHECKS: readonly Check<Survey>[] = [
  { code: 'MC001', category: 'installation', run: checkInstalled },
  { code: 'MC002', category: 'installation', run: checkPodSecurity },
  { code: 'MC003', category: 'installation', run: checkVersions },
  { code: 'MC011', category: 'controller', run: checkController },
  { code: 'MC012', category: 'controller', run: checkLeader },
  { code: 'MC021', category: 'node proxies', run: checkProxyCount },
  { code: 'MC022', category: 'node proxies', run: checkProxies },
  { code: 'MC023', category: 'node proxies', run: checkConfiguration },
  { code: 'MC024', category: 'node proxies', run: checkLag },
  { code: 'MC031', category: 'enrolment', run: checkCaptured },
  { code: 'MC032', category: 'enrolment', run: checkHostNetwork },
  { code: 'MC041', category: 'certificates', run: checkExpiry },
  { code: 'MC051', category: 'configuration', run: checkObjects },
  { code: 'MC091', category: 'could not find out', run: checkGaps },
];
