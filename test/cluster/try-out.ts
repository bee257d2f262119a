/**
 * `make cluster`: a real two-node Kubernetes on this machine, nodemesh installed as a user would, a small shop, and
 * the proof that it is in the mesh: encrypted between the nodes, open connections kept, strangers refused, a policy kept,
 * and requests routed, split and governed by a waypoint.
 * It stays for playing with. `--once` takes it down afterwards; the exit code says whether everything held.
 */

import { spawn } from 'node:child_process';
import { join } from 'node:path';

import { createSystemClock } from '../../src/base/clock.ts';
import { until } from '../../src/demo/mesh.ts';
import { openWire, type Wire } from '../../src/demo/wire.ts';
import { loadNative } from '../../src/linux/native.ts';
import { accessOwnCluster, CLUSTER_PROGRAM, type ClusterAccess } from './cluster-access.ts';
import { isPodTraffic } from './pod-traffic.ts';
import { ensureMesh } from './mesh.ts';
import { openPodLine, target, type PodLine } from './pod-line.ts';
import { showWaypoint } from './try-out-waypoint.ts';

const ID = process.env['CLUSTER_ID'] ?? 'main';
const SHOP = join(import.meta.dirname, 'shop.yaml');
const ROLLOUT_TIMEOUT = '120s';
const ENROL_MS = 60_000;
/** From ready pods until a Service leads to them on every node. */
const SERVICES_MS = 60_000;
const ROUNDS = 20;

const DB = target('db', 'db.shop', 5432);
const CART = target('http', 'cart.shop', 80);

const STRICT = `apiVersion: nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;
const ONLY_CART = `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: only-cart, namespace: shop }
spec:
  selector: { matchLabels: { app: db } }
  action: ALLOW
  rules: [{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/cart'] } }] }]
`;

const startMs = performance.now();
let failures = 0;

function say(text: string): void {
  const seconds = ((performance.now() - startMs) / 1000).toFixed(0).padStart(4);
  process.stdout.write(`${seconds} s  ${text}\n`);
}

function check(good: boolean, what: string, seen = ''): void {
  if (!good) failures++;
  say(`${good ? '   ✓' : '   ✗'} ${what}${seen === '' ? '' : ` (${seen})`}`);
}

function tool(...args: readonly string[]): Promise<number> {
  return new Promise((resolve) => {
    const env = { ...process.env, CLUSTER_ID: ID };
    const child = spawn(CLUSTER_PROGRAM, args, { env, stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', () => resolve(-1));
    child.on('exit', (code) => resolve(code ?? -1));
  });
}

async function kubectl(
  access: ClusterAccess,
  args: readonly string[],
  input = '',
): Promise<string> {
  const done = await access.kubectl(args, { input });
  if (done.code !== 0) throw new Error(`kubectl ${args.join(' ')}: ${done.err}`);
  return done.out;
}

async function lineOf(access: ClusterAccess, namespace: string, app: string): Promise<PodLine> {
  const args = ['-n', namespace, 'get', 'pods', '-l', `app=${app}`, '-o', 'name'];
  const pod = (await kubectl(access, args)).split('\n')[0]?.replace('pod/', '') ?? '';
  return openPodLine(access, { namespace, pod });
}

/** `ROUNDS` connections to db and cart; whether all were answered, and what the wire showed of them. */
async function shopAround(web: PodLine, wire: Wire) {
  wire.reset();
  let good = 0;
  for (let round = 0; round < ROUNDS; round++) {
    good += Number((await web.probe(round % 2 === 0 ? DB : CART)).ok);
  }
  return { good, ...wire.counts() };
}

async function story(access: ClusterAccess): Promise<void> {
  const hub = access.own?.hub ?? '';
  say('Installing nodemesh: make image; meshctl install | kubectl apply -f -');
  await ensureMesh(access);
  say('Deploying a small shop: web → cart, db');
  // What an earlier run left is in the mesh already.
  await kubectl(access, ['delete', 'namespace', 'shop', 'street', '--ignore-not-found']);
  await kubectl(access, ['apply', '-f', SHOP]);
  for (const name of ['shop/web', 'shop/cart-v1', 'shop/cart-v2', 'shop/db', 'street/outsider']) {
    const [namespace = '', deployment = ''] = name.split('/');
    const status = [
      'rollout',
      'status',
      `deployment/${deployment}`,
      `--timeout=${ROLLOUT_TIMEOUT}`,
    ];
    await kubectl(access, ['-n', namespace, ...status]);
  }
  const wire = openWire(loadNative(), createSystemClock(), {
    netns: `/run/netns/${hub}`,
    device: 'v-node-a',
    ignores: (segment) => !isPodTraffic(segment),
  });
  const web = await lineOf(access, 'shop', 'web');
  const outsider = await lineOf(access, 'street', 'outsider');
  try {
    const shopWorks = async () => (await shopAround(web, wire)).good === ROUNDS;
    await until('the shop works', SERVICES_MS, shopWorks);
    say('Before: not in the mesh');
    await web.hold('long', DB, 5);
    const before = await shopAround(web, wire);
    check(before.good === ROUNDS, 'the shop works', `${before.good} of ${ROUNDS} connections`);
    check(before.readable > 0, 'everybody on the wire can read it', `"${before.plainSample}"`);

    say('kubectl label namespace shop nodemesh.dev/mesh=enabled');
    const pods = ['-n', 'shop', 'get', 'pods', '-o', 'jsonpath={.items[*].metadata.uid}'];
    const uids = await kubectl(access, pods);
    await kubectl(access, [
      'label',
      'namespace',
      'shop',
      'nodemesh.dev/mesh=enabled',
      '--overwrite',
    ]);
    const enrolMs = await until('the shop is encrypted', ENROL_MS, async () => {
      const { good, plainNew, tunnel } = await shopAround(web, wire);
      return good === ROUNDS && plainNew === 0 && tunnel > 0;
    });
    const after = await shopAround(web, wire);
    check(
      after.good === ROUNDS,
      'the shop works',
      `${(enrolMs / 1000).toFixed(1)} s after the label`,
    );
    check(
      after.plainNew === 0 && after.tunnel > 0,
      'new connections are encrypted',
      `${after.tunnel} tunnel frames, ${after.plainNew} readable, such as "${after.tunnelSample}"`,
    );
    check((await kubectl(access, pods)) === uids, 'no pod was restarted or replaced');
    const long = await web.holdStop('long');
    check(long.lost === 0 && long.wrong === 0, 'open connections went on', `${long.open} of 5`);

    say('kubectl apply: PeerAuthentication STRICT in shop');
    await kubectl(access, ['apply', '-f', '-'], STRICT);
    await until('the outsider is refused', ENROL_MS, async () => {
      return !(await outsider.probe(DB, 2000)).ok;
    });
    const refused = await outsider.probe(DB, 2000);
    check(!refused.ok, 'outsider, which is not in the mesh, is refused', refused.text);
    check((await web.probe(DB)).ok, 'web is not');
    const ready = [
      '-n',
      'shop',
      'get',
      'deployments',
      '-o',
      'jsonpath={.items[*].status.readyReplicas}',
    ];
    check((await kubectl(access, ready)) === '2 1 1 1', 'the kubelet still reaches its probes');

    say('kubectl apply: AuthorizationPolicy that lets only cart to db');
    await kubectl(access, ['apply', '-f', '-'], ONLY_CART);
    await until('web is refused', ENROL_MS, async () => !(await web.probe(DB, 2000)).ok);
    const denied = await web.probe(DB, 2000);
    check(!denied.ok, 'web is refused', denied.text);
    const cart = await lineOf(access, 'shop', 'cart');
    check((await cart.probe(DB)).ok, 'cart is not');
    cart.close();
    await kubectl(access, [
      '-n',
      'shop',
      'delete',
      'authorizationpolicies.nodemesh.dev',
      'only-cart',
    ]);
    await until('web is let in again', ENROL_MS, async () => (await web.probe(DB)).ok);
    check(true, 'and web is let in again when the policy is gone');
    await showWaypoint({
      access,
      web,
      cart: CART,
      say,
      check,
      apply: async (manifest) => void (await kubectl(access, ['apply', '-f', '-'], manifest)),
    });
  } finally {
    web.close();
    outsider.close();
    wire.close();
  }
}

function printWhatToTry(): void {
  process.stdout.write(`
The cluster stays. Try (as root; CLUSTER_ID=${ID} is what you have):

  test/cluster/cluster kubectl get pods -A -o wide
  test/cluster/cluster kubectl -n shop exec deploy/web -- wget -qO- http://cart
  test/cluster/cluster kubectl -n street exec deploy/outsider -- wget -qO- -T 2 http://cart.shop     # refused
  test/cluster/cluster kubectl -n shop exec deploy/web -- wget -qO- --header 'x-tester: yes' http://cart  # v2, by the waypoint
  test/cluster/cluster kubectl -n shop edit httproute cart                                           # another split
  test/cluster/cluster run node_modules/.bin/node src/bin/meshctl.ts waypoint status -n shop         # or: list, delete
  test/cluster/cluster kubectl -n shop logs deploy/waypoint -f                                       # each request
  test/cluster/cluster kubectl label namespace shop nodemesh.dev/mesh-                               # leaves the mesh
  test/cluster/cluster kubectl -n nodemesh-system logs -l app.kubernetes.io/component=node -f
  test/cluster/cluster run node_modules/.bin/node src/bin/meshctl.ts --help
  test/cluster/cluster node node-a nft list ruleset                                                  # inside a node

  make cluster-down                                                                                  # removes it
`);
}

async function main(): Promise<number> {
  const once = process.argv.includes('--once');
  if ((await tool('up')) !== 0) return 1;
  try {
    await story(accessOwnCluster(ID));
  } catch (error) {
    check(false, error instanceof Error ? error.message : String(error));
  }
  say(failures === 0 ? 'Everything held' : `${failures} did not hold`);
  if (once) await tool('down');
  else printWhatToTry();
  return failures === 0 ? 0 : 1;
}

process.exitCode = await main();
