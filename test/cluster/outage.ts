/**
 * No controller and no API server (G05), and a node proxy that has to start meanwhile (G04): what runs goes on with
 * what is known. Short as a test, long as a soak.
 */

import { globSync, readFileSync } from 'node:fs';

import type { Test } from 'tap';

import { until, wait } from '../../src/demo/mesh.ts';
import { slowness } from '../support/slowness.ts';
import { useCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { SYSTEM } from './mesh.ts';
import { target } from './pod-line.ts';

const DB = { protocol: 'db', port: 5432 } as const;
const LONG = 20;
/** From the proxy's first instruction, not from its predecessor's last: in between is the kubelet. */
const SERVES_MS = 2000;
const RESTART_MS = 60_000;
const CLOCK_TICKS = 100;

/** Milliseconds since a process started. */
function ageMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const started = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  const uptimeMs = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1000;
  return uptimeMs - (started * 1000) / CLOCK_TICKS;
}

/** The oldest process of a pod's node proxy on this machine, by the pod's UID: nobody is there to be asked. */
function supervisorOf(podUid: string): number | undefined {
  const found = globSync('/proc/[0-9]*/cgroup').flatMap((path) => {
    const pid = Number(path.split('/')[2]);
    try {
      const isOurs = readFileSync(path, 'utf8').includes(`pod${podUid}`);
      return isOurs && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('nodemesh.js')
        ? [{ pid, ageMs: ageMs(pid) }]
        : [];
    } catch {
      return []; // It ended meanwhile.
    }
  });
  return found.toSorted((one, other) => other.ageMs - one.ageMs)[0]?.pid;
}

export async function testOutage(t: Test, seconds: number): Promise<void> {
  const cluster = useCluster(t);
  await cluster.mesh();
  const namespace = await cluster.namespace('outage', { mesh: true, strict: true });
  await cluster.apply([
    ...appObjects(namespace, 'web', { node: 'node-a' }),
    ...appObjects(namespace, 'db', { node: 'node-b', serve: DB }),
  ]);
  await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
  const web = await cluster.line(namespace, 'web');
  const db = target('db', await cluster.serviceAddress(namespace, 'db'), DB.port);
  await until('the way is open', 20_000, async () => (await web.probe(db)).ok);
  const proxies = await cluster.pods(SYSTEM, 'app.kubernetes.io/component=node');
  const proxy = proxies.find(({ node }) => node === 'node-a');
  const uid = proxy?.uid ?? '';
  const pid = supervisorOf(uid);
  if (pid === undefined) throw new Error('The node proxy of node-a has no process here');

  await web.hold('long', db, LONG);
  await web.load('load', [db]);
  await cluster.kubectl('-n', SYSTEM, 'scale', 'deployment/nodemesh-controller', '--replicas=0');
  await until('the controller is gone', 60_000, async () => {
    return (await cluster.pods(SYSTEM, 'app.kubernetes.io/component=controller')).length === 0;
  });
  await cluster.own.tool('stop', 'apiserver');
  try {
    await wait(seconds * 1000);
    const load = await web.loadStop('load');
    t.comment(`${load.sent} new connections in ${seconds} s without controller and API server`);
    t.ok(load.sent > seconds * 2, 'the load went on');
    t.equal(load.failed, 0, '0 new connections failed', { errors: load.errors });
    const long = await web.holdCounts('long');
    t.equal(long.lost + long.wrong, 0, '0 of 20 long connections were cut', {
      errors: long.errors,
    });

    const slow = slowness();
    process.kill(pid, 'SIGKILL');
    const killedMs = performance.now();
    await until('connections are refused or the successor serves', 5000, async () => {
      return !(await web.probe(db, 500)).ok || performance.now() - killedMs > 2000;
    });
    await until('the restarted node proxy serves', RESTART_MS, async () => {
      return (await web.probe(db, 500)).ok;
    });
    const servesMs = performance.now() - killedMs;
    const successor = supervisorOf(uid);
    const sinceStartMs = successor === undefined ? Number.NaN : ageMs(successor);
    t.comment(
      `served ${Math.round(sinceStartMs)} ms after its start, ${Math.round(servesMs)} ms after the kill; slowness ${slow.toFixed(2)}`,
    );
    const limitMs = SERVES_MS * slow;
    t.ok(sinceStartMs <= limitMs, 'G04 the node proxy serves within 2 s', { sinceStartMs, slow });
    await web.load('after', [db]);
    await wait(5000);
    const after = await web.loadStop('after');
    t.equal(after.failed, 0, 'and fails none from then on', { errors: after.errors });
  } finally {
    await cluster.own.tool('start', 'apiserver');
    await until('the API server is back', 60_000, async () => {
      return (await cluster.access.kubectl(['get', '--raw', '/readyz'])).code === 0;
    });
    await cluster.kubectl('-n', SYSTEM, 'scale', 'deployment/nodemesh-controller', '--replicas=1');
    // The kubelets and their like would sit out a minute's backoff; the mesh is not helped by it.
    await cluster.own.tool('reconnect');
    await cluster.rolledOut(SYSTEM, 'deployment/nodemesh-controller', 'daemonset/nodemesh-node');
  }
  await web.load('back', [db]);
  // Whoever is made now is heard of, by the mesh as by the cluster's DNS, from both nodes.
  await cluster.apply(appObjects(namespace, 'late', { node: 'node-b', serve: DB }));
  await cluster.rolledOut(namespace, 'deployment/late');
  const late = target('db', await cluster.serviceAddress(namespace, 'late'), DB.port);
  const lateMs = await until(
    'a new pod is reached',
    60_000,
    async () => (await web.probe(late)).ok,
  );
  t.comment(`a pod made afterwards is reached ${Math.round(lateMs)} ms after it was rolled out`);
  for (const line of [web, await cluster.line(namespace, 'db')]) {
    const named = target('db', `late.${namespace}`, DB.port);
    await until('names resolve again', 60_000, async () => (await line.probe(named)).ok);
  }
  const back = await web.loadStop('back');
  t.equal(back.failed, 0, '0 failed when they are back', { errors: back.errors });
}
