/** Two controllers over one API server: what each publishes of one pod, whoever its node is connected to. */

import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { unwrap } from '../../src/base/result.ts';
import { createNullCaptureStore } from '../../src/controlplane/capture-store.ts';
import { unauthenticated } from '../../src/controlplane/caller.ts';
import { createControlPlane, type ControlPlane } from '../../src/controlplane/service.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { captureReportResource } from '../../src/discovery/codec-local.ts';
import { decodeAddress } from '../../src/discovery/codec-workload.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { recordName } from '../../src/kubernetes/enrolment-record.ts';
import { createReflectorMetrics } from '../../src/kubernetes/metrics.ts';
import { createReplicas } from '../../src/kubernetes/replicas.ts';
import { createSharedEnrolment } from '../../src/kubernetes/shared-enrolment.ts';
import { namespace, own, pod } from '../controlplane/build.ts';
import { createTestCa } from '../identity/fixtures.ts';
import { startFakeApi, type FakeApi } from './fake-api.ts';
import { keepObjects, type Kept } from './fake-objects.ts';

const NS = 'nodemesh-system';
const MAPS = `/api/v1/namespaces/${NS}/configmaps`;
const LEASES = `/apis/coordination.k8s.io/v1/namespaces/${NS}/leases`;
const STRICT_KEY = 'nodemesh-system/istio_converted_static_strict';
const enabled = { 'nodemesh.dev/mesh': 'enabled' };
const strict = own('MeshConfig', 'nodemesh-system/default', { mtls: { mode: 'STRICT' } });
const web = pod('shop/web', { uid: 'u1', sa: 'web', ip: '10.0.0.1', phase: 'Running' });
const WEB_NODE = 'node-a';
const WEB = 'Kubernetes//Pod/shop/web';

interface Cluster {
  readonly api: FakeApi;
  readonly kept: Map<string, Kept>;
  refuse: number | undefined;
}

interface Controller {
  readonly plane: ControlPlane;
  /** Nodes connected here that have not acknowledged what is published. */
  readonly behind: Set<string>;
  leads: boolean;
  readonly enrol: (on: boolean) => void;
  readonly connect: (node: string) => Promise<void>;
  readonly report: (node: string, ...uids: readonly string[]) => void;
  readonly disconnect: (node: string) => void;
  /** How clients see the pod. */
  readonly sees: () => string;
  /** Whether the pod's node is told to hold it. */
  readonly holds: () => Promise<boolean>;
  readonly stop: () => Promise<void>;
}

async function startCluster(t: Test): Promise<Cluster> {
  const api = await startFakeApi(t, createSystemClock());
  const cluster: { refuse: number | undefined } = { refuse: undefined };
  const kept = keepObjects(api, { watched: [MAPS, LEASES], refuse: () => cluster.refuse });
  return Object.assign(cluster, { api, kept });
}

async function startController(
  t: Test,
  cluster: Cluster,
  identity: string,
  on: boolean = true,
): Promise<Controller> {
  const common = {
    clock: createSystemClock(),
    random: createSeededRandom(1),
    logger: createNullLogger(),
    registry: createNullRegistry(),
    metrics: createReflectorMetrics(createNullRegistry()),
    client: cluster.api.client,
    namespace: NS,
    identity,
  };
  const state = { leads: false };
  const leads = (): boolean => state.leads;
  const replicas = createReplicas({ ...common, leads });
  const sharing = createSharedEnrolment({ ...common, replicas, leads });
  const behind = new Set<string>();
  const plane = await createControlPlane({
    ...common,
    ca: await createTestCa(),
    authenticator: { authenticate: () => Promise.resolve(unauthenticated('nobody')) },
    captureStore: createNullCaptureStore(),
    sharing,
    behind: () => behind,
    tuning: { gatherMs: 2, acknowledgeMarginMs: 10 },
  });
  plane.apply(
    [namespace('shop', on ? enabled : {}), strict, web].map((object) => ({ type: 'put', object })),
  );
  await plane.sourceSynced();
  const client = (node: string) => ({ id: node, caller: { kind: 'node' as const, node } });
  // Of a node that has no pods: sees what all see, and reports nothing.
  const view = await plane.hooks.viewFor(client('looker'));
  plane.hooks.onClientGone(client('looker'));
  let stopped = false;
  const stop = async (): Promise<void> => {
    if (stopped) return;
    stopped = true;
    await plane[Symbol.asyncDispose]();
    await sharing[Symbol.asyncDispose]();
  };
  t.teardown(stop);
  return Object.assign(state, {
    plane,
    behind,
    stop,
    enrol: (wanted: boolean) =>
      plane.apply([{ type: 'put', object: namespace('shop', wanted ? enabled : {}) }]),
    connect: async (node: string) => void (await plane.hooks.viewFor(client(node))),
    disconnect: (node: string) => plane.hooks.onClientGone(client(node)),
    report(node: string, ...uids: readonly string[]) {
      const reports = uids.map((uid) =>
        captureReportResource({ podUid: uid as PodUid, state: 'captured', reason: '' }),
      );
      plane.hooks.onReports(client(node), TYPE_URL.captureReport, reports);
    },
    sees() {
      const body = view.get(TYPE_URL.address)?.get(WEB)?.body;
      const address = body && unwrap(decodeAddress(body));
      if (address?.kind !== 'workload') return 'absent';
      const { tunnelProtocol, authorizationPolicies } = address.workload;
      const isStrict = authorizationPolicies.includes(STRICT_KEY);
      return isStrict ? `${tunnelProtocol} strict` : tunnelProtocol;
    },
    async holds() {
      const found = plane.status().pods.find(({ podUid }) => podUid === 'u1');
      return Promise.resolve(found?.phase !== 'plain');
    },
  });
}

async function until(what: string, holds: () => boolean, limitMs: number = 4_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

t.test(
  'what a node reports to one controller, all publish; STRICT waits for everybody’s nodes',
  async (t) => {
    const cluster = await startCluster(t);
    const a = await startController(t, cluster, 'one');
    const b = await startController(t, cluster, 'two');
    await a.connect(WEB_NODE);
    await b.connect('node-b');
    t.equal(a.sees(), 'none');
    b.behind.add('node-b');
    a.report(WEB_NODE, 'u1');
    await until('HBONE at both', () => a.sees() === 'hbone' && b.sees() === 'hbone');
    await pause(300);
    t.equal(a.sees(), 'hbone', 'a node of the other controller has not acknowledged');
    b.behind.clear();
    await until('STRICT at both', () => a.sees() === 'hbone strict' && b.sees() === 'hbone strict');
  },
);

t.test('back out in order: the pod’s node first, then everybody’s, then it lets go', async (t) => {
  const cluster = await startCluster(t);
  const a = await startController(t, cluster, 'one');
  const b = await startController(t, cluster, 'two');
  await a.connect(WEB_NODE);
  await b.connect('node-b');
  a.report(WEB_NODE, 'u1');
  await until('STRICT at both', () => a.sees() === 'hbone strict' && b.sees() === 'hbone strict');
  a.behind.add(WEB_NODE);
  a.enrol(false);
  b.enrol(false);
  await until('relaxed', () => a.sees() === 'hbone');
  await pause(200);
  t.equal(b.sees(), 'hbone', 'the node that enforces STRICT has not acknowledged');
  b.behind.add('node-b');
  a.behind.clear();
  await until('plain at both', () => a.sees() === 'none' && b.sees() === 'none');
  await pause(200);
  t.ok(await a.holds(), 'a node elsewhere may still open tunnels');
  b.behind.clear();
  let held = true;
  await until('it lets go', () => {
    void a.holds().then((holds) => (held = holds));
    return !held;
  });
  await until('nothing is left of it', () => !cluster.kept.has(`${MAPS}/${recordName(WEB_NODE)}`));
});

t.test(
  'a controller that starts again takes no pod out of the tunnel, not for a moment',
  async (t) => {
    const cluster = await startCluster(t);
    const first = await startController(t, cluster, 'one');
    await first.connect(WEB_NODE);
    first.report(WEB_NODE, 'u1');
    await until('STRICT', () => first.sees() === 'hbone strict');
    await first.stop();
    // Under another name, as a Deployment's pods have; no node is connected yet.
    const second = await startController(t, cluster, 'two');
    t.equal(second.sees(), 'hbone strict', 'in its first answer');
    second.leads = true;
    await pause(100);
    t.equal(second.sees(), 'hbone strict');
    await second.connect(WEB_NODE);
    await pause(100);
    t.equal(second.sees(), 'hbone strict', 'its node has not reported yet');
    const record = cluster.kept.get(`${MAPS}/${recordName(WEB_NODE)}`);
    t.match(record, { data: { node: WEB_NODE, home: 'two', pods: 'u1 enrolled' } });
  },
);

t.test(
  'F12: a node that moves takes its home along; the old home’s word counts no more',
  async (t) => {
    const cluster = await startCluster(t);
    const a = await startController(t, cluster, 'one');
    const b = await startController(t, cluster, 'two');
    await a.connect(WEB_NODE);
    a.report(WEB_NODE, 'u1');
    await until('STRICT at both', () => a.sees() === 'hbone strict' && b.sees() === 'hbone strict');
    await b.connect(WEB_NODE);
    const home = (): unknown =>
      (
        cluster.kept.get(`${MAPS}/${recordName(WEB_NODE)}`)?.['data'] as
          | { home?: string }
          | undefined
      )?.home;
    await until('the new home', () => home() === 'two');
    // Only the old one hears that the pod is not wanted any more; it is not its to act on.
    a.enrol(false);
    await pause(200);
    t.equal(a.sees(), 'hbone strict');
    b.enrol(false);
    await until('plain at both', () => a.sees() === 'none' && b.sees() === 'none');
  },
);

t.test('a home that died is replaced by the leader, and by no other', async (t) => {
  const cluster = await startCluster(t);
  const a = await startController(t, cluster, 'one');
  await a.connect(WEB_NODE);
  a.report(WEB_NODE, 'u1');
  await until('STRICT', () => a.sees() === 'hbone strict');
  await a.stop();
  const b = await startController(t, cluster, 'two', false);
  await pause(100);
  t.equal(b.sees(), 'hbone strict', 'nobody has decided yet');
  b.leads = true;
  await until('un-enrolled by the leader', () => b.sees() === 'none', 8_000);
});

t.test(
  'F04: what cannot be stored is published all the same, a little later, and stored in the end',
  async (t) => {
    const cluster = await startCluster(t);
    const a = await startController(t, cluster, 'one');
    await a.connect(WEB_NODE);
    cluster.refuse = 503;
    const startMs = performance.now();
    a.report(WEB_NODE, 'u1');
    await until('HBONE', () => a.sees().startsWith('hbone'));
    t.ok(performance.now() - startMs >= 1_500, 'not before it was tried');
    cluster.refuse = undefined;
    await until('stored', () => cluster.kept.has(`${MAPS}/${recordName(WEB_NODE)}`), 12_000);
    await until('STRICT', () => a.sees() === 'hbone strict', 12_000);
  },
);
