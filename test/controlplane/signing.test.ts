/** T01, T02, T10: who may have which certificate, against a brute-force oracle; T09: how often. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import type { Identity } from '../../src/core/identity.ts';
import type { Namespace, Pod } from '../../src/controlplane/objects.ts';
import {
  createSigningLimits,
  maySign,
  SIGNING_BURST,
  SIGNING_CONCURRENCY,
  SIGNING_PER_SECOND,
} from '../../src/controlplane/signing.ts';
import { Model, namespace, pod, type PodShape } from './build.ts';

const NOW_MS = Date.UTC(2026, 0, 1, 12);
const NODE_A = { kind: 'node', node: 'node-a' } as const;
const NODE_B = { kind: 'node', node: 'node-b' } as const;
const NODES = ['node-a', 'node-b', 'node-c'];
const SPACES = ['shop', 'other', 'kube-system'];
const ACCOUNTS = ['web', 'db'];

/** The rule in as few words as possible, over the objects alone. */
function oracle(
  pods: Iterable<Pod>,
  spaces: ReadonlyMap<string, Namespace>,
  nodeName: string,
  identity: Identity,
): boolean {
  for (const { meta, node, serviceAccount, phase, deletionMs, hostNetwork } of pods) {
    if (node !== nodeName || node === '') continue;
    if (meta.namespace !== identity.namespace || serviceAccount !== identity.serviceAccount)
      continue;
    if (phase === 'Succeeded' || phase === 'Failed') continue;
    if (deletionMs !== undefined && NOW_MS >= deletionMs) continue;
    if (hostNetwork || meta.namespace === 'kube-system') continue;
    const label = meta.labels.get('nodemesh.dev/mesh');
    const inherited = spaces.get(meta.namespace)?.meta.labels.get('nodemesh.dev/mesh');
    if ((label ?? inherited) !== 'enabled') continue;
    return identity.trustDomain === 'cluster.local';
  }
  return false;
}

t.test('T01 random clusters: signing agrees with the oracle in 100,000 cases', (t) => {
  const random = createSeededRandom(7);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random.next() * list.length)] as T;
  const chance = (share: number): boolean => random.next() < share;
  const label = (): Record<string, string> =>
    chance(0.4) ? { 'nodemesh.dev/mesh': pick(['enabled', 'enabled', 'disabled']) } : {};
  const model = new Model();
  const pods = new Map<string, Pod>();
  const spaces = new Map<string, Namespace>();
  let cases = 0;
  let mismatches = 0;
  let granted = 0;
  for (let round = 0; cases < 100_000; round++) {
    for (let change = 0; change < 3; change++) {
      const path = `${pick(SPACES)}/${pick(['p1', 'p2', 'p3', 'p4'])}`;
      const kind = random.next();
      if (kind < 0.2) {
        const space = namespace(pick(SPACES), label()) as Namespace;
        spaces.set(space.meta.name, space);
        model.put(space);
      } else if (kind < 0.36) {
        pods.delete(path);
        model.remove('Pod', path);
      } else {
        const shape: PodShape = {
          // Names come back with other UIDs, on other nodes (T10).
          uid: `${path.replace('/', '-')}-${Math.floor(random.next() * 3)}`,
          sa: pick(ACCOUNTS),
          node: pick([...NODES, '']),
          labels: label(),
          phase: pick(['Pending', 'Running', 'Running', 'Succeeded', 'Failed']),
          hostNetwork: chance(0.1),
          ...(chance(0.2)
            ? { deleted: new Date(NOW_MS + pick([-1000, 0, 1000])).toISOString() }
            : {}),
        };
        const object = pod(path, shape) as Pod;
        pods.set(path, object);
        model.put(object);
      }
    }
    model.settleAll();
    for (const node of [...NODES, '']) {
      for (const ns of SPACES) {
        for (const serviceAccount of [...ACCOUNTS, 'default']) {
          const trustDomain = chance(0.9) ? 'cluster.local' : 'elsewhere.example';
          const identity = { trustDomain, namespace: ns, serviceAccount };
          const result = maySign(
            model.world,
            { kind: 'node', node },
            identity,
            'cluster.local',
            NOW_MS,
          );
          const expected = oracle(pods.values(), spaces, node, identity);
          cases++;
          if (result.ok) granted++;
          if (result.ok !== expected) mismatches++;
        }
      }
    }
  }
  t.equal(mismatches, 0);
  t.ok(granted > 1_000, `${granted} of ${cases} granted`);
  t.end();
});

t.test('T01 each refusal says why, for the audit log', (t) => {
  const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' };
  const on = { 'nodemesh.dev/mesh': 'enabled' };
  const rows: [PodShape | undefined, string, string, RegExp][] = [
    [undefined, 'node-a', 'cluster.local', /no pod/],
    [{ labels: on }, 'node-b', 'cluster.local', /no pod/],
    [{ labels: on }, 'node-a', 'other.example', /serves/],
    [{ labels: on, hostNetwork: true }, 'node-a', 'cluster.local', /host network/],
    [{ labels: on, phase: 'Failed' }, 'node-a', 'cluster.local', /ended/],
    [{ labels: on, deleted: '2020-01-01T00:00:00Z' }, 'node-a', 'cluster.local', /ended/],
    [{}, 'node-a', 'cluster.local', /not enrolled/],
    [{ labels: on, node: '' }, '', 'cluster.local', /no node/],
  ];
  for (const [shape, node, trustDomain, reason] of rows) {
    const model = new Model();
    if (shape !== undefined) model.put(pod('shop/p', { sa: 'web', ...shape }));
    model.settleAll();
    const result = maySign(model.world, { kind: 'node', node }, identity, trustDomain, NOW_MS);
    t.match(result, { ok: false, error: { code: 'MESH_CA_REFUSED', message: reason } });
  }
  t.end();
});

t.test(
  'T02 a pod that is gone loses its certificate at once; one that is leaving keeps it',
  (t) => {
    const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' };
    const labels = { 'nodemesh.dev/mesh': 'enabled' };
    const model = new Model().put(pod('shop/p', { uid: 'u', sa: 'web', ip: '10.0.0.1', labels }));
    model.settleAll().captured('node-a', 'u').settleAll();
    const signs = (): boolean => maySign(model.world, NODE_A, identity, 'cluster.local', NOW_MS).ok;
    t.equal(signs(), true);
    model.put(pod('shop/p', { uid: 'u', sa: 'web', ip: '10.0.0.1' })).publish();
    t.equal(signs(), true, 'still served while others are told');
    model.settleAll();
    t.equal(signs(), false);
    model.put(pod('shop/p', { uid: 'u', sa: 'web', ip: '10.0.0.1', labels })).settleAll();
    t.equal(signs(), true);
    model.remove('Pod', 'shop/p');
    t.equal(signs(), false, 'before anything is published');
    t.end();
  },
);

t.test('T01 a workload gets its own identity only, while a pod of that account lives', (t) => {
  const { pods } = new Model().put(pod('shop/w-1', { sa: 'waypoint', ip: '10.0.0.1' })).world;
  const source = { pods, isAttached: () => false };
  const sign = (account: string, podName?: string, namespace = 'shop'): boolean => {
    const caller = { kind: 'workload', namespace: 'shop', serviceAccount: 'waypoint' } as const;
    const identity = { trustDomain: 'cluster.local', namespace, serviceAccount: account };
    return maySign(source, { ...caller, pod: podName }, identity, 'cluster.local', NOW_MS).ok;
  };
  t.equal(sign('waypoint'), true, 'enrolled or not');
  t.equal(sign('waypoint', 'w-1'), true);
  t.equal(sign('waypoint', 'w-2'), false, 'a token of a pod that is gone');
  t.equal(sign('web'), false);
  t.equal(sign('waypoint', undefined, 'other'), false);
  pods.put(pod('shop/w-1', { sa: 'waypoint', phase: 'Failed' }) as Pod);
  t.equal(sign('waypoint'), false);
  t.end();
});

t.test('a pod that another data plane captured on its node can be signed for', (t) => {
  const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' };
  const annotations = { 'ambient.istio.io/redirection': 'enabled' };
  const model = new Model()
    .put(pod('shop/p', { sa: 'web', ip: '10.0.0.1', annotations }))
    .settleAll();
  t.equal(maySign(model.world, NODE_A, identity, 'cluster.local', NOW_MS).ok, true);
  t.equal(maySign(model.world, NODE_B, identity, 'cluster.local', NOW_MS).ok, false);
  t.end();
});

t.test('T09 one node cannot take more than its share, and others do not notice', async (t) => {
  const clock = createFakeClock();
  const limits = createSigningLimits(clock);
  const enter = (node: string): boolean => {
    const place = limits.enter(node);
    if (place.ok) place.value[Symbol.dispose]();
    return place.ok;
  };
  let granted = 0;
  for (let request = 0; request < 1_000; request++) if (enter('flood')) granted++;
  t.equal(granted, SIGNING_BURST);
  t.match(limits.enter('flood'), { error: { code: 'MESH_LIMIT_EXCEEDED', retryable: true } });
  t.equal(enter('quiet'), true);
  await clock.advance(1_000);
  granted = 0;
  for (let request = 0; request < 1_000; request++) if (enter('flood')) granted++;
  t.equal(granted, SIGNING_PER_SECOND);
  const places = Array.from({ length: SIGNING_CONCURRENCY }, () => limits.enter('busy'));
  t.equal(enter('busy'), false);
  const [first] = places;
  if (first?.ok === true) {
    first.value[Symbol.dispose]();
    first.value[Symbol.dispose]();
  }
  t.equal(enter('busy'), true);
  limits.forget('flood');
  t.equal(enter('flood'), true, 'a node that left begins anew');
});
