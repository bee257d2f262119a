/**
 * Where connections go: services and pods by IPv4 and IPv6, nearest endpoints, endpoints that are not ready, and
 * destinations the mesh does not know, which pass in plain text.
 */

import t, { type Test } from 'tap';

import { podNamed, probeFrom, untilWire } from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import type { Target } from '../../src/demo/traffic.ts';
import { createTestMesh, reasonToSkipMesh, type TestMesh } from './harness.ts';
import { connectFrom, exchange, listenIn } from './pod-sockets.ts';

const PORT = 7008;
const http = (host: string, port: number): Target => ({ host, port, protocol: 'http' });
const db = (host: string): Target => ({ host, port: 5432, protocol: 'db' });

/** Which versions of cart answer. */
async function versions(running: TestMesh, target: Target, count = 20): Promise<Set<string>> {
  const seen = new Set<string>();
  for (let index = 0; index < count; index++) {
    const { ok, text } = await probeFrom(running, 'web', target);
    seen.add(ok ? (/"version":"(v\d)"/.exec(text)?.[1] ?? text) : `failed: ${text}`);
  }
  return seen;
}

async function bothFamilies(t: Test, running: TestMesh): Promise<void> {
  const web = podNamed(running, 'web').place;
  const at = (name: string): { ip: string; ip6: string } => podNamed(running, name).place;
  running.wire.reset();
  for (const [name, target, client] of [
    ['service, IPv4', db('10.96.0.20'), web.ip],
    ['service, IPv6', db('fd96::20'), undefined],
    ['pod, IPv4', db(at('db').ip), web.ip],
    ['pod, IPv6', db(at('db').ip6), web.ip6],
  ] as const) {
    const { ok, text } = await probeFrom(running, 'web', target);
    t.ok(ok, `${name}: ${text}`);
    const seen = /ready for (?:::ffff:)?(\S+)/.exec(text)?.[1] ?? '';
    if (client === undefined) t.ok([web.ip, web.ip6].includes(seen as never), `${name}: ${seen}`);
    else t.equal(seen, client, `${name}: the application sees the client's own address`);
  }
  for (const [name, target] of [
    ['service, IPv4', http('10.96.0.10', 80)],
    ['service, IPv6', http('fd96::10', 80)],
  ] as const) {
    const seen = await versions(running, target, 24);
    t.same([...seen].toSorted(), ['v1', 'v2'], `${name}: both endpoints, on both nodes`);
  }
  for (const name of ['cart-v1', 'cart-v2']) {
    for (const host of [at(name).ip, at(name).ip6]) {
      const { ok, text } = await probeFrom(running, 'web', http(host, 8080));
      t.ok(ok && text.includes(`"${name}"`), `${name} at ${host}: ${text}`);
    }
  }
  await wait(100);
  const { tunnel, readable, plainNew } = running.wire.counts();
  t.ok(tunnel > 0);
  t.equal(readable + plainNew, 0, 'nothing of it in plain text between the nodes');
}

async function unknown(t: Test, running: TestMesh): Promise<void> {
  const web = podNamed(running, 'web').place;
  const server = await listenIn(running.native, running.mesh.topology.hub, PORT, (socket) => {
    socket.write(`you are ${socket.remoteAddress ?? ''}\n`);
    socket.pipe(socket);
  });
  t.teardown(() => server.close());
  for (const [host, client] of [
    ['172.31.0.1', web.ip],
    ['fd31::1', web.ip6],
  ] as const) {
    const socket = connectFrom(running.native, web, { host, port: PORT });
    const { received, ended } = await exchange(socket, 'say nothing secret\n');
    t.equal(ended, 'end');
    const text = String(received);
    t.ok(text.includes(client) && text.endsWith('say nothing secret\n'), `${host}: ${text}`);
  }
  t.ok(running.wire.counts().plainNew > 0, 'in plain text, as without the mesh');
  const started = performance.now();
  const refused = await exchange(
    connectFrom(running.native, web, { host: '172.31.0.1', port: PORT + 1 }),
    '',
  );
  t.equal(refused.ended, 'ECONNRESET', 'a port nobody listens on');
  t.ok(performance.now() - started < 1000);
  const outsider = podNamed(running, 'outsider').place;
  const plain = await listenIn(running.native, outsider, PORT, (socket) => socket.end('plain'));
  t.teardown(() => plain.close());
  const known = await exchange(
    connectFrom(running.native, web, { host: outsider.ip, port: PORT }),
    '',
  );
  t.equal(String(known.received), 'plain', 'a known pod without a tunnel');
}

async function nearest(t: Test, running: TestMesh): Promise<void> {
  const { mesh } = running;
  const before = mesh.readManifest('cluster.yaml');
  const cart = http('10.96.0.10', 80);
  for (const [field, value] of [
    ['trafficDistribution', 'PreferClose'],
    ['trafficDistribution', 'PreferSameZone'],
    ['trafficDistribution', 'PreferSameNode'],
  ] as const) {
    mesh.writeManifest(
      'cluster.yaml',
      before.replace('  selector: { app: cart }\n', `  ${field}: ${value}\n$&`),
    );
    await until(`${value} applies`, 10_000, async () => {
      const seen = await versions(running, cart, 12);
      return seen.size === 1 && seen.has('v2');
    });
    t.same([...(await versions(running, cart, 20))], ['v2'], `${value}: the near one alone`);
    mesh.writeManifest('cluster.yaml', before);
    await until(`${value} is gone`, 10_000, async () => (await versions(running, cart)).size === 2);
  }
  mesh.writeManifest(
    'cluster.yaml',
    before.replace('  selector: { app: cart }\n', '  trafficDistribution: PreferClose\n$&'),
  );
  const pods = mesh.readManifest('pods.yaml');
  mesh.writeManifest('pods.yaml', unready(pods, 'cart-v2'));
  await until('the near one is not ready', 10_000, async () => {
    const seen = await versions(running, cart, 12);
    return seen.size === 1 && seen.has('v1');
  });
  t.same([...(await versions(running, cart, 20))], ['v1'], 'the far one serves when it must');
  mesh.writeManifest('pods.yaml', pods);
  mesh.writeManifest('cluster.yaml', before);
}

function unready(pods: string, name: string): string {
  return pods
    .split('---\n')
    .map((document) =>
      document.includes(`  name: ${name}\n`)
        ? document.replace("type: Ready, status: 'True'", "type: Ready, status: 'False'")
        : document,
    )
    .join('---\n');
}

async function notReady(t: Test, running: TestMesh): Promise<void> {
  const { mesh } = running;
  const [pods, cluster] = [mesh.readManifest('pods.yaml'), mesh.readManifest('cluster.yaml')];
  const service = db('10.96.0.20');
  mesh.writeManifest('pods.yaml', unready(pods, 'db'));
  await until('db is out of its service', 10_000, async () => {
    return !(await probeFrom(running, 'web', service)).ok;
  });
  const byAddress = await probeFrom(running, 'web', db(podNamed(running, 'db').place.ip));
  t.ok(byAddress.ok, 'by its own address it still answers');
  mesh.writeManifest(
    'cluster.yaml',
    cluster.replace('  selector: { app: db }\n', '  publishNotReadyAddresses: true\n$&'),
  );
  const ms = await until('publishNotReadyAddresses applies', 10_000, async () => {
    return (await probeFrom(running, 'web', service)).ok;
  });
  t.pass(`served although not ready, after ${Math.round(ms)} ms`);
  mesh.writeManifest('cluster.yaml', cluster);
  await until('it is out again', 10_000, async () => {
    return !(await probeFrom(running, 'web', service)).ok;
  });
  mesh.writeManifest('pods.yaml', pods);
  await until('it is back', 10_000, async () => (await probeFrom(running, 'web', service)).ok);
}

t.setTimeout(180_000);

t.test('destinations', { skip: reasonToSkipMesh() }, async (t) => {
  const running = await createTestMesh(t);
  await untilWire(running, 'encrypted');
  await t.test('IPv4 and IPv6, services and pods', (t) => bothFamilies(t, running));
  await t.test('destinations the mesh does not know', (t) => unknown(t, running));
  await t.test('trafficDistribution', (t) => nearest(t, running));
  await t.test('publishNotReadyAddresses', (t) => notReady(t, running));
});
