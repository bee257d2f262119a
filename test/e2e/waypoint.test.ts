/** Waypoints on the demo's mesh: progressive rollouts, changes under load, and that nobody goes around one. */

import t, { type Test } from 'tap';

import {
  CART,
  describeLoad,
  logLines,
  podNamed,
  probeFrom,
  underLoad,
} from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import type { Target } from '../../src/demo/traffic.ts';
import { countOf, deployWaypoint, probes, route } from '../../src/demo/waypoint-story.ts';
import { createTestMesh, reasonToSkipMesh, shopNamespace, type TestMesh } from './harness.ts';

const skip = reasonToSkipMesh();
const CHANGES = 30;
const CHANGE_MS = 100;

function split(v1: number, v2: number, more = ''): string {
  return route(`    - backendRefs:
        - { name: cart-v1, port: 80, weight: ${v1} }
        - { name: cart-v2, port: 80, weight: ${v2} }
${more}`);
}

async function withWaypoint(t: Test): Promise<{ running: TestMesh; kill: () => Promise<void> }> {
  const running = await createTestMesh(t);
  running.mesh.writeManifest('route.yaml', split(1, 0));
  const waypoint = await deployWaypoint(running);
  await until('all go to v1, through the waypoint', 15_000, async () => {
    return countOf(await probes(running, 20), '"v1"') === 20;
  });
  const kill = async (): Promise<void> => {
    waypoint.kill('SIGKILL');
    await waypoint.exited;
  };
  return { running, kill };
}

t.test('a rollout in steps and 10 changes a second lose no request', { skip }, async (t) => {
  const { running } = await withWaypoint(t);
  const { mesh } = running;
  const traffic = { targets: [CART] };
  const rollout = await underLoad(
    running,
    'rollout',
    async () => {
      for (const percent of [10, 50, 100]) {
        mesh.writeManifest('route.yaml', split(100 - percent, percent));
        await until(`${percent} % go to v2`, 15_000, async () => {
          const share = countOf(await probes(running, 100), '"v2"');
          return Math.abs(share - percent) <= 15;
        });
      }
    },
    traffic,
  );
  t.equal(rollout.failed, 0, `0 → 10 → 50 → 100 %: ${describeLoad(rollout)}`);
  const changes = await underLoad(
    running,
    'changes',
    async () => {
      for (let change = 0; change < CHANGES; change++) {
        mesh.writeManifest('route.yaml', split(50 + (change % 2), 50));
        await wait(CHANGE_MS);
      }
    },
    traffic,
  );
  t.equal(
    changes.failed,
    0,
    `${CHANGES} changes in ${CHANGES * CHANGE_MS} ms: ${describeLoad(changes)}`,
  );

  mesh.writeManifest(
    'route.yaml',
    split(50, 0, '        - { name: nobody, port: 80, weight: 50 }\n'),
  );
  const failures = async (): Promise<number> =>
    (await probes(running, 100)).filter(({ ok }) => !ok).length;
  await until(
    'a backend that does not exist is in effect',
    15_000,
    async () => (await failures()) > 0,
  );
  const failed = await failures();
  t.ok(failed >= 25 && failed <= 75, `${failed} of 100 at half the weight`);
});

t.test(
  'T49 G06 a waypoint that is dead or bogus is a refusal, not a way around',
  { skip },
  async (t) => {
    const { running, kill } = await withWaypoint(t);
    const refused = async (why: string): Promise<void> => {
      let reached = -1;
      await until(why, 15_000, async () => {
        reached = (await probes(running, 10)).filter(({ text }) => text.includes('"app"')).length;
        return reached === 0;
      });
      const after = await probes(running, 20);
      t.equal(after.filter(({ text }) => text.includes('"app"')).length, 0, why);
      t.ok(after.every(({ ok }) => !ok));
    };
    await kill();
    await refused('its process is dead');
    const bogus = shopNamespace(true, 'nodemesh.dev/waypoint: nobody');
    running.mesh.writeManifest('namespace.yaml', bogus);
    await refused('no Gateway has this name');
    const reason = 'nobody.shop.missing-waypoint.invalid';
    await until('the log says why', 10_000, async () => {
      await probes(running, 10);
      return logLines(running, reason).length > 0;
    });
    running.mesh.writeManifest('namespace.yaml', shopNamespace(true));
    await until('without the label everything passes', 15_000, async () =>
      (await probes(running, 10)).every(({ ok }) => ok),
    );
  },
);

const POLICY = `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: web-reads, namespace: shop }
spec:
  targetRefs: [{ group: '', kind: Service, name: cart-v1 }]
  action: ALLOW
  rules:
    - from: [{ source: { principals: ['cluster.local/ns/shop/sa/web'] } }]
      to: [{ operation: { methods: [GET] } }]
`;

t.test(
  'T49 a port that an L7 policy governs is open to the waypoint alone',
  { skip },
  async (t) => {
    const { running } = await withWaypoint(t);
    const service: Target = { host: '10.96.0.11', port: 80, protocol: 'http' };
    const direct: Target = { ...service, host: podNamed(running, 'cart-v1').place.ip, port: 8_080 };
    t.ok((await probeFrom(running, 'web', direct)).ok, 'routes alone: a pod’s own address is open');
    t.ok((await probeFrom(running, 'outsider', direct)).ok);
    running.mesh.writeManifest('web-reads.yaml', POLICY);
    await until('nobody goes around the policy', 15_000, async () => {
      const tried = [];
      for (const from of ['web', 'outsider'])
        tried.push(await probeFrom(running, from, direct, 2_000));
      return tried.every(({ ok }) => !ok);
    });
    const allowed = await probeFrom(running, 'web', service);
    t.ok(allowed.ok && allowed.text.includes('"v1"'), allowed.text);
    const denied = await probeFrom(running, 'db', service);
    t.notOk(denied.text.includes('"app"'), 'db may not, whichever way');
  },
);
