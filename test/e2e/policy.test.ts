/**
 * Policies through the whole mesh, from the manifest to the connection: every case is tried to a pod on the same
 * node, to its twin on the other one, and from the pod to itself, and decides the same (T23, T24).
 */

import t, { type Test } from 'tap';

import {
  DB,
  holdCounts,
  holdOpen,
  holdStop,
  linesOf,
  LONG_CONNECTIONS,
  podNamed,
  probeFrom,
  proxyOn,
} from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import type { Target } from '../../src/demo/traffic.ts';
import { createTestMesh, reasonToSkipMesh, type TestMesh } from './harness.ts';

const skip = reasonToSkipMesh();
const APPLIES_MS = 8000;

const http = (host: string, port: number): Target => ({ host, port, protocol: 'http' });
/** Both twins of `cart`, by pod address, and the caller's own service. */
const LOCAL = http('10.42.1.11', 8080);
const REMOTE = http('10.42.2.10', 8080);
const OWN_SERVICE = http('10.96.0.30', 80);

interface Outcome {
  readonly local: boolean;
  readonly remote: boolean;
  readonly db: boolean;
  readonly own: boolean;
  readonly outsider: boolean;
}

const ALL: Outcome = { local: true, remote: true, db: true, own: true, outsider: true };

/** What gets through now: from `web`, and from `outsider` to a twin of cart. */
async function look(running: TestMesh): Promise<Outcome> {
  const timeoutMs = 2000;
  const [local, remote, db, own, outsider] = await Promise.all([
    probeFrom(running, 'web', LOCAL, timeoutMs),
    probeFrom(running, 'web', REMOTE, timeoutMs),
    probeFrom(running, 'web', DB, timeoutMs),
    probeFrom(running, 'web', OWN_SERVICE, timeoutMs),
    probeFrom(running, 'outsider', REMOTE, timeoutMs),
  ]);
  return { local: local.ok, remote: remote.ok, db: db.ok, own: own.ok, outsider: outsider.ok };
}

const same = (a: Outcome, b: Outcome): boolean => JSON.stringify(a) === JSON.stringify(b);

/** Writes a manifest, waits for its effect, sees that it lasts, and takes it away again. */
async function tryCase(
  t: Test,
  running: TestMesh,
  name: string,
  manifest: string,
  wanted: Partial<Outcome>,
): Promise<void> {
  const goal = { ...ALL, ...wanted };
  let seen = ALL;
  running.mesh.writeManifest('case.yaml', manifest);
  // Also where nothing is to change, it gets the time to.
  if (same(goal, ALL)) await wait(500);
  await until(name, APPLIES_MS, async () => same((seen = await look(running)), goal)).catch(
    () => {},
  );
  t.same(seen, goal, name);
  t.same(await look(running), goal, `${name}, still`);
  running.mesh.removeManifest('case.yaml');
  await until(`all pass after: ${name}`, APPLIES_MS, async () => same(await look(running), ALL));
}

function policy(action: string, app: string, rules: string, extra = ''): string {
  const selector = app === '' ? '' : `\n  selector: { matchLabels: { app: ${app} } }`;
  return `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: the-case, namespace: shop${extra} }
spec:${selector}
  action: ${action}
  rules: ${rules}
`;
}

function mtls(mode: string, where: string, spec = ''): string {
  return `apiVersion: nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: { name: the-case, namespace: ${where} }
spec:${spec}
  mtls: { mode: ${mode} }
`;
}

function meshConfig(spec: string): string {
  return `apiVersion: nodemesh.dev/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: nodemesh-system }
spec: { ${spec} }
`;
}

const WEB = '"cluster.local/ns/shop/sa/web"';
const from = (source: string, to = ''): string => `[{ from: [{ source: { ${source} } }]${to} }]`;
const onPort = (ports: string): string => `, to: [{ operation: { ${ports} } }]`;
const CART_REFUSED = { local: false, remote: false } as const;

const CASES: readonly (readonly [name: string, manifest: string, outcome: Partial<Outcome>])[] = [
  ['DENY of a principal', policy('DENY', 'cart', from(`principals: [${WEB}]`)), CART_REFUSED],
  [
    'DENY of the caller itself',
    policy('DENY', 'web', from(`principals: [${WEB}]`)),
    { own: false },
  ],
  [
    'DENY of everybody but a principal',
    policy('DENY', 'cart', from(`notPrincipals: [${WEB}]`)),
    { outsider: false },
  ],
  [
    'DENY of a namespace, everywhere',
    policy('DENY', '', from('namespaces: ["shop"]')),
    { ...CART_REFUSED, db: false, own: false },
  ],
  [
    'DENY by port and not another',
    policy('DENY', '', from(`principals: [${WEB}]`, onPort('ports: ["5432"]'))),
    { db: false },
  ],
  [
    'DENY of all ports but one',
    policy('DENY', '', from(`principals: [${WEB}]`, onPort('notPorts: ["5432"]'))),
    { ...CART_REFUSED, own: false },
  ],
  [
    'DENY of a source address',
    policy('DENY', 'cart', from('ipBlocks: ["10.42.1.10/32"]')),
    CART_REFUSED,
  ],
  [
    'ALLOW of another principal alone',
    policy('ALLOW', 'cart', from('principals: ["cluster.local/ns/shop/sa/db"]')),
    { ...CART_REFUSED, outsider: false },
  ],
  [
    'ALLOW of the namespace',
    policy('ALLOW', 'cart', from('namespaces: ["shop"]')),
    { outsider: false },
  ],
  [
    'ALLOW of whoever is not of the namespace',
    policy('ALLOW', 'cart', from('principals: ["*"], notNamespaces: ["shop"]')),
    { ...CART_REFUSED, outsider: false },
  ],
  ['a DENY that cannot be read', policy('DENY', 'db', '[{ frm: [] }]'), { db: false }],
  [
    'an ALLOW that cannot be read',
    policy('ALLOW', 'cart', from('principals: ["a*b"]')),
    { ...CART_REFUSED, outsider: false },
  ],
  ['a mode that cannot be read', mtls('STRIKT', 'shop'), { outsider: false }],
  ['AUDIT refuses nobody', policy('AUDIT', 'cart', from(`principals: [${WEB}]`)), {}],
  [
    'dry-run refuses nobody',
    policy(
      'DENY',
      'cart',
      from(`principals: [${WEB}]`),
      ', annotations: { nodemesh.dev/dry-run: "true" }',
    ),
    {},
  ],
  ['STRICT for the mesh', meshConfig('mtls: { mode: STRICT }'), { outsider: false }],
  ['STRICT for the root namespace', mtls('STRICT', 'nodemesh-system'), { outsider: false }],
  ['STRICT for the namespace', mtls('STRICT', 'shop'), { outsider: false }],
  [
    'STRICT for a workload',
    mtls('STRICT', 'shop', '\n  selector: { matchLabels: { app: cart } }'),
    { outsider: false },
  ],
  [
    'PERMISSIVE for a port of a STRICT workload',
    mtls(
      'STRICT',
      'shop',
      '\n  selector: { matchLabels: { app: cart } }\n  portLevelMtls: { 8080: { mode: PERMISSIVE } }',
    ),
    {},
  ],
  [
    'STRICT for a port of a PERMISSIVE workload',
    mtls(
      'PERMISSIVE',
      'shop',
      '\n  selector: { matchLabels: { app: cart } }\n  portLevelMtls: { 8080: { mode: STRICT } }',
    ),
    { outsider: false },
  ],
];

/** Transports of the records of calls from web to its neighbour on the node, since `skipped` records. */
function transports(running: TestMesh, skipped: number): Set<string> {
  const lines = linesOf(proxyOn(running, 'node-a'), '"dst.workload":"cart-v2"').filter((line) =>
    line.includes('"src.workload":"web"'),
  );
  return new Set(lines.slice(skipped).map((line) => /"transport":"(\w+)"/.exec(line)?.[1] ?? ''));
}

const recordCount = (running: TestMesh): number =>
  linesOf(proxyOn(running, 'node-a'), '"dst.workload":"cart-v2"').filter((line) =>
    line.includes('"src.workload":"web"'),
  ).length;

/** Calls the neighbour until only `transport` is used for it. */
async function untilTransport(t: Test, running: TestMesh, transport: string): Promise<void> {
  const expected = new Set([transport]);
  let used = new Set<string>();
  await until(`calls on the node go by ${transport}`, APPLIES_MS, async () => {
    const skipped = recordCount(running);
    const { ok } = await probeFrom(running, 'web', LOCAL);
    await until('a record', 3000, () => recordCount(running) > skipped);
    await wait(50);
    used = transports(running, skipped);
    return ok && [...used].join() === transport;
  }).catch(() => {});
  t.same(used, expected, `calls on the node go by ${transport}`);
}

for (const delivery of ['auto', 'tunnel'] as const) {
  t.test(
    `T23 T24 policies decide the same near and far with localDelivery ${delivery}`,
    { skip },
    async (t) => {
      const running = await createTestMesh(t, {
        manifests: { 'mesh-config.yaml': meshConfig(`localDelivery: ${delivery}`) },
      });
      await until('all pass', APPLIES_MS, async () => same(await look(running), ALL));
      await untilTransport(t, running, delivery === 'auto' ? 'direct' : 'hbone');
      for (const [name, manifest, outcome] of CASES) {
        if (manifest.includes('kind: MeshConfig')) {
          running.mesh.removeManifest('mesh-config.yaml');
          const config = manifest.replace('spec: { ', `spec: { localDelivery: ${delivery}, `);
          await tryCase(t, running, name, config, outcome);
          running.mesh.writeManifest('mesh-config.yaml', meshConfig(`localDelivery: ${delivery}`));
        } else await tryCase(t, running, name, manifest, outcome);
      }
      const refused = linesOf(proxyOn(running, 'node-a'), '"policy":"shop/the-case"');
      t.ok(refused.length > 0, 'records name the policy');
      t.ok(
        linesOf(proxyOn(running, 'node-b'), 'shop/the-case').some((line) => line.includes('audit')),
        'the AUDIT policy is in the records of what it saw',
      );
    },
  );
}

t.test(
  'a revoked permission closes live connections within 1 s on both paths, and the log names the policy',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    const { mesh } = running;
    // cart-v1 is db's neighbour: its connections take the direct path.
    const names = ['web', 'cart-v1'];
    for (const name of names) await holdOpen(running, name, { from: name, target: DB });
    mesh.writeManifest('case.yaml', policy('DENY', 'db', from('namespaces: ["shop"]')));
    const ms = await until('all are closed', 5000, async () => {
      const counts = await Promise.all(names.map((name) => holdCounts(running, name, name)));
      return counts.every(({ lost }) => lost === LONG_CONNECTIONS);
    });
    t.ok(ms <= 1000, `closed after ${Math.round(ms)} ms`);
    for (const name of names) await holdStop(running, name, name);
    await until('the records name the policy', 3000, () => {
      const records = linesOf(proxyOn(running, 'node-b'), '"policy":"shop/the-case"');
      const transports = ['hbone', 'direct'].map(
        (transport) => records.filter((line) => line.includes(`"transport":"${transport}"`)).length,
      );
      return transports.every((count) => count >= LONG_CONNECTIONS);
    });
  },
);

t.test('a NetworkPolicy that selects either pod ends the direct path', { skip }, async (t) => {
  const running = await createTestMesh(t, { workers: 1 });
  const { mesh } = running;
  t.equal(podNamed(running, 'web').place.node, podNamed(running, 'cart-v2').place.node);
  await untilTransport(t, running, 'direct');
  for (const labels of ['app: web', 'app: cart, version: v2']) {
    mesh.writeManifest('network-policy.yaml', networkPolicy(labels));
    await untilTransport(t, running, 'hbone');
    mesh.removeManifest('network-policy.yaml');
    await untilTransport(t, running, 'direct');
  }
});

const networkPolicy = (labels: string): string => `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: some, namespace: shop }
spec:
  podSelector: { matchLabels: { ${labels} } }
  ingress: [{}]
`;
