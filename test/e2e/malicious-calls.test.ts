/**
 * Everything a malicious neighbour may try on the mesh's ports, from captured and uncaptured pods, from nodes and
 * from beside them: nothing passes that policy does not allow, nothing is dialled, nothing loops (T20–T22, T40–T44).
 */

import { readdirSync } from 'node:fs';
import * as http2 from 'node:http2';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';

import t, { type Test } from 'tap';

import { childrenOf, DB, podNamed, probeFrom, proxyOn } from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import { startProcess } from '../../src/demo/processes.ts';
import { createTestMesh, reasonToSkipMesh, type TestMesh } from './harness.ts';
import { exchangeThrough, openSession, openTunnel } from './foreign-mesh.ts';
import { createPluggedCaFolder, type PluggedCa } from './plugged-ca.ts';
import { connectFrom, exchange, listenIn, type Place, type PodServer } from './pod-sockets.ts';

const OWN_PORTS = [15_001, 15_006, 15_008, 15_053, 15_020, 15_021];
const APP_PORT = 7006;
const SILENCE_MS = 1500;
const DAY_MS = 86_400_000;
const STRICT = `apiVersion: nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;
const DENY_CART = `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: no-cart-to-db, namespace: shop }
spec:
  selector: { matchLabels: { app: db } }
  action: DENY
  rules:
    - from: [{ source: { principals: ['cluster.local/ns/shop/sa/cart'] } }]
`;
const REQUEST = 'GET / HTTP/1.0\r\n\r\n';

interface Stage {
  readonly running: TestMesh;
  readonly ca: PluggedCa;
  readonly places: Readonly<Record<string, Place & { readonly ip: string; readonly ip6?: string }>>;
  /** Listens on `APP_PORT` in db, where calls are aimed at. */
  readonly target: PodServer;
  /** The same port wherever a call must not be led. */
  readonly sentinels: ReadonlyMap<string, PodServer>;
}

async function setStage(t: Test): Promise<Stage> {
  const ca = createPluggedCaFolder(t);
  const running = await createTestMesh(t, {
    controllerSettings: ca.settings,
    manifests: { 'strict.yaml': STRICT, 'deny.yaml': DENY_CART },
  });
  const { native, mesh } = running;
  const { hub } = mesh.topology;
  const places: Record<string, Place & { readonly ip: string; readonly ip6?: string }> = {
    hub: { netns: hub.netns, ip: '172.31.0.1' },
  };
  for (const node of mesh.topology.nodes) places[node.name] = node;
  for (const [name, pod] of running.pods) places[name] = pod.place;
  const at = (name: string): Place => places[name] ?? { netns: '' };
  const target = await listenIn(native, at('db'), APP_PORT, (socket) => {
    socket.end(`from ${socket.remoteAddress ?? ''}\n`);
    socket.resume();
  });
  t.teardown(() => target.close());
  const sentinels = new Map<string, PodServer>();
  for (const name of ['web', 'cart-v1', 'cart-v2', 'outsider', 'node-a', 'node-b', 'hub']) {
    const server = await listenIn(native, at(name), APP_PORT, (socket) =>
      socket.end('wrong place'),
    );
    t.teardown(() => server.close());
    sentinels.set(name, server);
  }
  await until('STRICT applies', 10_000, async () => !(await probeFrom(running, 'outsider', DB)).ok);
  return { running, ca, places, target, sentinels };
}

const strayed = ({ sentinels }: Stage): string[] =>
  [...sentinels].flatMap(([name, server]) => (server.accepted() > 0 ? [name] : []));

/** T22, T21: every own port of everybody, from everywhere, in plain text. */
async function ownPorts(t: Test, stage: Stage): Promise<void> {
  const { running, places } = stage;
  const wrong: string[] = [];
  let calls = 0;
  const workers = ['node-a', 'node-b'].flatMap((node) =>
    childrenOf(proxyOn(running, node), 'worker'),
  );
  const call = async (from: string, to: string, port: number): Promise<void> => {
    const place = places[from];
    if (place === undefined) return;
    const socket = connectFrom(running.native, place, { host: to, port });
    const timeoutMs = SILENCE_MS;
    const { received, ended } = await exchange(socket, REQUEST, { end: false, timeoutMs });
    calls++;
    // A TLS alert is all that port 15008 may say to plain text.
    const isAlert = port === 15_008 && received.length <= 7 && received[0] === 0x15;
    const isOnNode = ['node-a', 'node-b', 'hub'].includes(from);
    const isLoopback = to === '127.0.0.1' || to === '::1';
    const isNode =
      ['172.31.0.1', '172.31.0.11', '172.31.0.12'].includes(to) || (isOnNode && isLoopback);
    // Metrics and readiness of a node are for everybody to read; see the README's ports.
    if (isNode && (port === 15_020 || port === 15_021)) return;
    if (received.length > 0 && !isAlert) {
      wrong.push(`${from} → ${to}:${port}: ${ended}, "${String(received.subarray(0, 60))}"`);
    }
    if (ended === 'timeout') wrong.push(`${from} → ${to}:${port}: left open`);
  };
  const froms = ['web', 'cart-v2', 'outsider', 'node-a', 'node-b', 'hub'];
  for (const from of froms) {
    const own = places[from]?.ip ?? '';
    const others = ['web', 'cart-v2', 'db', 'outsider', 'node-a', 'node-b'].map(
      (name) => places[name]?.ip ?? '',
    );
    const tos = new Set([own, '127.0.0.1', '::1', places['db']?.ip6 ?? '::1', ...others]);
    await Promise.all([...tos].flatMap((to) => OWN_PORTS.map((port) => call(from, to, port))));
  }
  t.ok(calls >= 100, `${calls} calls`);
  t.same(wrong, [], 'each was refused, closed, or answered with a TLS alert');
  await wait(200);
  const open = workers.map((pid) => readdirSync(`/proc/${pid}/fd`).length);
  t.ok(
    open.every((count) => count < 150),
    `no loop: workers have ${open.join(', ')} descriptors`,
  );
  t.same(
    ['node-a', 'node-b'].flatMap((node) => childrenOf(proxyOn(running, node), 'worker')),
    workers,
    'no worker died',
  );
}

/** T20: plain text to every application port under STRICT. */
async function plainText(t: Test, stage: Stage): Promise<void> {
  const { running, places, target } = stage;
  const before = target.accepted();
  const results: string[] = [];
  for (const from of ['outsider', 'node-a', 'node-b', 'hub']) {
    for (const [to, port] of [
      ['db', 5432],
      ['db', APP_PORT],
      ['db', 9999],
      ['cart-v1', 8080],
      ['cart-v2', 8080],
      ['web', 8080],
    ] as const) {
      for (const host of [places[to]?.ip, places[to]?.ip6]) {
        const place = places[from];
        if (host === undefined || place === undefined) continue;
        const socket = connectFrom(running.native, place, { host, port });
        const { received, ended } = await exchange(socket, REQUEST, { end: false });
        const good = received.length === 0 && ['ECONNRESET', 'ECONNREFUSED'].includes(ended);
        if (!good) results.push(`${from} → ${host}:${port}: ${ended}, ${received.length} bytes`);
      }
    }
  }
  t.same(results, [], 'reset with 0 bytes');
  t.equal(target.accepted(), before, 'the application saw none of it');
}

/** T21: TLS clients without the right certificate. */
async function wrongCertificates(t: Test, stage: Stage): Promise<void> {
  const { running, ca, places, target } = stage;
  const db = places['db'];
  const hub = places['hub'];
  if (db === undefined || hub === undefined) return;
  const now = Date.now();
  const uri = (text: string): { uris: Buffer[] } => ({ uris: [Buffer.from(text)] });
  const clients: Record<string, Parameters<typeof openSession>[3]> = {
    'no certificate': {},
    'another root with the same name': ca.issueForeign(),
    expired: ca.issue({ notBeforeMs: now - 2 * DAY_MS, notAfterMs: now - DAY_MS }),
    'not valid yet': ca.issue({ notBeforeMs: now + DAY_MS, notAfterMs: now + 2 * DAY_MS }),
    'server purpose alone': ca.issue({ purposes: ['1.3.6.1.5.5.7.3.1'] }),
    'code signing': ca.issue({ purposes: ['1.3.6.1.5.5.7.3.3'] }),
    'no name': ca.issue({ uris: [] }),
    'a DNS name alone': ca.issue({ uris: [], names: [[2, Buffer.from('web.shop')]] }),
    'two identities': ca.issue({
      uris: ['web', 'db'].map((sa) => Buffer.from(`spiffe://cluster.local/ns/shop/sa/${sa}`)),
    }),
    'another trust domain': ca.issue(uri('spiffe://evil.local/ns/shop/sa/web')),
    'not a workload': ca.issue(uri('spiffe://cluster.local/ns/shop')),
    'an https URI': ca.issue(uri('https://cluster.local/ns/shop/sa/web')),
    'a CA': ca.issue({ isCa: true }),
    'no digital signature': ca.issue({ keyUsage: Buffer.from([2, 0x04]) }),
  };
  const before = target.accepted();
  const letIn: string[] = [];
  const attempt = async (
    name: string,
    certificate: Parameters<typeof openSession>[3],
  ): Promise<boolean> => {
    try {
      const session = await openSession(running, hub, { host: db.ip, port: 15_008 }, certificate);
      try {
        const tunnel = await openTunnel(session, `${db.ip}:${APP_PORT}`);
        letIn.push(`${name}: status ${tunnel.status}`);
        return tunnel.status === 200;
      } finally {
        session.close();
      }
    } catch {
      return false;
    }
  };
  for (const [name, certificate] of Object.entries(clients)) await attempt(name, certificate);
  t.same(letIn, [], `${Object.keys(clients).length} wrong certificates, none let in`);
  const { key, cert } = ca.issue();
  for (const [name, options] of [
    ['TLS 1.2', { maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] }],
    ['HTTP/1.1', { ALPNProtocols: ['http/1.1'] }],
    ['no ALPN', {}],
  ] as const) {
    const raw = connectFrom(running.native, hub, { host: db.ip, port: 15_008 });
    const socket = connectTls({ socket: raw, key, cert, rejectUnauthorized: false, ...options });
    socket.on('error', () => raw.destroy());
    const { received } = await exchange(socket, REQUEST, { end: false, timeoutMs: SILENCE_MS });
    t.equal(received.length, 0, `${name}: nothing came back`);
    raw.destroy();
  }
  t.equal(target.accepted(), before, 'the application saw none of it');
  t.ok(await attempt('control', ca.issue()), 'a good certificate of the same make is let in');
}

/** T40–T43: authorities and requests that mean something else than this pod. */
async function wrongAuthorities(t: Test, stage: Stage): Promise<void> {
  const { running, ca, places, target } = stage;
  const db = places['db'];
  const hub = places['hub'];
  if (db === undefined || hub === undefined) return;
  const ip = (name: string): string => places[name]?.ip ?? '';
  const hidden = startProcess({
    netns: db.netns,
    args: ['-e', "net.createServer((s) => s.end('secret')).listen(9000, '127.0.0.1')"],
    env: {},
    logFile: join(running.dir, 'log', 'hidden.log'),
    ipc: false,
  });
  t.teardown(() => hidden.kill('SIGKILL'));
  const number = db.ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const hex = `0x${number.toString(16).padStart(8, '0')}`;
  const refused: readonly (readonly [authority: string, status: number])[] = [
    ...['web', 'cart-v1', 'cart-v2', 'outsider', 'node-a', 'node-b', 'hub'].map(
      (name) => [`${ip(name)}:${APP_PORT}`, 400] as const,
    ),
    ...[
      '127.0.0.1:9000',
      '[::1]:9000',
      '0.0.0.0:9000',
      '[::]:9000',
      '169.254.169.254:80',
      '169.254.7.127:80',
      '[::ffff:127.0.0.1]:9000',
      '[fe80::1%25eth0]:80',
      '[fe80::1]:80',
      `[${db.ip6 ?? ''}]:${APP_PORT}`,
      '255.255.255.255:80',
      '224.0.0.1:80',
      `10.96.0.20:5432`,
      `${number}:${APP_PORT}`,
      `${hex}:${APP_PORT}`,
      `012.052.02.013:${APP_PORT}`,
      `127.1:9000`,
      `0177.0.0.1:9000`,
      `10.42.523:${APP_PORT}`,
      db.ip,
      `${db.ip}:`,
      `${db.ip}:0`,
      `${db.ip}:65536`,
      `${db.ip}:-1`,
      `${db.ip}:+80`,
      `${db.ip}:0x50`,
      `${db.ip}:http`,
      `user@${db.ip}:${APP_PORT}`,
      `${db.ip}:${APP_PORT}/path`,
      `${db.ip}:${APP_PORT}#`,
      `https://${db.ip}:${APP_PORT}`,
      `[${db.ip}]:${APP_PORT}`,
      `*:${APP_PORT}`,
      `.:${APP_PORT}`,
      `-db:${APP_PORT}`,
    ].map((authority) => [authority, 400] as const),
    ...[
      `localhost:9000`,
      `example.com:80`,
      `metadata.google.internal:80`,
      `cart.shop.svc.cluster.local:80`,
      `db.shop.svc.cluster.local:1`,
      `db.other.svc.cluster.local:5432`,
      `shop.svc.cluster.local:5432`,
      `svc.cluster.local:5432`,
      `nodemesh-controller.nodemesh-system.svc:15012`,
      ...[15_001, 15_006, 15_008, 15_053].map((port) => `${db.ip}:${port}`),
      `${db.ip}:9000`,
      `${db.ip}:1`,
    ].map((authority) => [authority, 503] as const),
  ];
  const session = await openSession(running, hub, { host: db.ip, port: 15_008 }, ca.issue());
  t.equal(session.peer, 'spiffe://cluster.local/ns/shop/sa/db');
  const before = target.accepted();
  const wrong: string[] = [];
  for (const [authority, expected] of refused) {
    try {
      const { status, stream, headers } = await openTunnel(session, authority);
      if (status !== expected) wrong.push(`${authority}: ${status}, ${expected} expected`);
      if (headers['baggage'] !== undefined) wrong.push(`${authority}: baggage on a refusal`);
      stream.destroy();
    } catch (error) {
      wrong.push(`${authority}: ${String(error)}`);
    }
  }
  t.same(wrong, [], `${refused.length} authorities refused with their status`);
  t.equal(target.accepted(), before, 'the application saw none of them');
  const good = await openTunnel(session, `${db.ip}:${APP_PORT}`);
  t.equal(good.status, 200, 'and the session still serves');
  t.match(String(await exchangeThrough(good, '')), 'from ', 'with the application behind it');

  const requests: readonly http2.OutgoingHttpHeaders[] = [
    { ':method': 'GET', ':path': '/', ':scheme': 'https', ':authority': `${db.ip}:${APP_PORT}` },
    { ':method': 'POST', ':path': '/', ':scheme': 'https', ':authority': `${db.ip}:${APP_PORT}` },
    {
      ':method': 'connect',
      ':path': '/',
      ':scheme': 'https',
      ':authority': `${db.ip}:${APP_PORT}`,
    },
    { ':method': 'CONNECT', ':authority': `${db.ip}:${APP_PORT}`, ':protocol': 'websocket' },
    {
      ':method': 'CONNECT',
      ':authority': `${db.ip}:${APP_PORT}`,
      ':protocol': 'connect-tcp',
      ':path': '/',
      ':scheme': 'https',
    },
  ];
  const served = target.accepted();
  for (const request of requests) {
    const other = await openSession(running, hub, { host: db.ip, port: 15_008 }, ca.issue());
    const answer = await new Promise<string>((resolve) => {
      const stream = other.session.request(request, { endStream: false });
      stream.on('response', (headers) => resolve(String(headers[':status'])));
      stream.on('error', () => resolve('reset'));
      stream.on('close', () => resolve('reset'));
    }).catch(String);
    const name = `${String(request[':method'])} ${String(request[':protocol'] ?? request[':path'])}`;
    t.ok(['400', 'reset'].includes(answer), `${name}: ${answer}`);
    other.close();
  }
  t.equal(target.accepted(), served, 'the application saw none of it');
  session.close();
}

/** T44 and policy: what a client says of itself is not what it is. */
async function forgedHeaders(t: Test, stage: Stage): Promise<void> {
  const { running, ca, places } = stage;
  const db = places['db'];
  const hub = places['hub'];
  if (db === undefined || hub === undefined) return;
  const lies: http2.OutgoingHttpHeaders = {
    baggage: `k8s.namespace.name=shop,k8s.deployment.name=web,service.name=${'x'.repeat(3000)}`,
    forwarded: 'for="1.2.3.4:5";host=db.shop.svc.cluster.local',
    traceparent: `00-${'0'.repeat(32)}-zz-00`,
    'x-forwarded-for': '1.2.3.4',
    'x-forwarded-network': 'elsewhere',
    'x-istio-source': 'waypoint',
    'x-forwarded-client-cert': 'URI=spiffe://cluster.local/ns/shop/sa/web',
  };
  const to = { host: db.ip, port: 15_008 };
  const web = await openSession(running, hub, to, ca.issue());
  const tunnel = await openTunnel(web, `${db.ip}:${APP_PORT}`, lies);
  t.equal(tunnel.status, 200);
  const said = String(await exchangeThrough(tunnel, ''));
  t.match(said, /172\.31\.0\.1\n$/, 'the application sees the address the tunnel came from');
  const hostname = await openTunnel(web, 'db.shop.svc.cluster.local:5432', lies);
  t.equal(hostname.status, 200, 'its own service by name');
  hostname.stream.destroy();
  web.close();
  const uris = [Buffer.from('spiffe://cluster.local/ns/shop/sa/cart')];
  const cart = await openSession(running, hub, to, ca.issue({ uris }));
  const denied = await openTunnel(cart, `${db.ip}:${APP_PORT}`, lies);
  t.equal(denied.status, 401, 'policy looks at the certificate');
  t.equal(denied.headers['baggage'], undefined);
  cart.close();
}

t.setTimeout(180_000);

t.test('malicious calls', { skip: reasonToSkipMesh() }, async (t) => {
  const stage = await setStage(t);
  await t.test('T22 the own ports of pods and nodes', (t) => ownPorts(t, stage));
  await t.test('T20 plain text under STRICT', (t) => plainText(t, stage));
  await t.test('T21 TLS with the wrong certificate', (t) => wrongCertificates(t, stage));
  await t.test('T40 T41 T42 T43 requests for somewhere else', (t) => wrongAuthorities(t, stage));
  await t.test('T44 forged headers', (t) => forgedHeaders(t, stage));
  t.same(strayed(stage), [], 'nothing arrived anywhere else');
  t.ok((await probeFrom(stage.running, 'web', DB)).ok, 'web reaches db');
  t.notOk(podNamed(stage.running, 'db').program.process.child.killed);
});
