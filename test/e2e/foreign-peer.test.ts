/** A foreign HBONE implementation (node:http2, by hand) against ours, both ways: headers, flow control, ends. */

import { randomBytes } from 'node:crypto';
import * as http2 from 'node:http2';
import type { Socket } from 'node:net';

import t, { type Test } from 'tap';

import { podNamed } from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import { FOREIGN_NODE, foreignManifest } from './foreign-manifests.ts';
import {
  addToken,
  exchangeThrough,
  openSession,
  openTunnel,
  requestCertificate,
  serveHbone,
  tokenOf,
  type ForeignCertificate,
  type HboneServer,
} from './foreign-mesh.ts';
import { createTestMesh, reasonToSkipMesh, type TestMesh } from './harness.ts';
import { connectFrom, exchange, listenIn, type Place } from './pod-sockets.ts';

const identity = (account: string): string => `spiffe://cluster.local/ns/shop/sa/${account}`;
const PORT = 7007;
type Answer = (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void;

interface Stage {
  readonly running: TestMesh;
  readonly foreign: Place & { readonly ip: string };
  readonly certificate: ForeignCertificate;
  /** What the foreign server on the foreign pod does with a CONNECT; tests replace it. */
  answer: Answer;
  server: HboneServer;
  serve(settings?: http2.Settings, certificate?: ForeignCertificate): Promise<void>;
  fromWeb(host: string, port: number): Socket;
}

const echo: Answer = (stream) => {
  stream.respond({
    ':status': 200,
    baggage: 'k8s.cluster.name=far,k8s.namespace.name=shop,k8s.deployment.name=foreign',
  });
  stream.pipe(stream);
};

async function setStage(t: Test): Promise<Stage> {
  const running = await createTestMesh(t, {
    manifests: {
      'foreign.yaml': foreignManifest([
        { name: 'foreign', host: 20, marker: 'annotation' },
        { name: 'native', host: 21, marker: 'label' },
      ]),
    },
  });
  const nodeA = running.mesh.nodeNamed('node-a');
  const foreign = running.mesh.topology.addPod('foreign', nodeA, 20);
  const token = addToken(running, FOREIGN_NODE);
  let certificate: ForeignCertificate | undefined;
  await until('the CA knows the foreign node', 10_000, async () => {
    certificate = await requestCertificate(running, token, identity('foreign')).catch(
      () => undefined,
    );
    return certificate !== undefined;
  });
  if (certificate === undefined) throw new Error('no certificate');
  const own = certificate;
  const web = podNamed(running, 'web').place;
  const makeServer = (settings?: http2.Settings, other = own): Promise<HboneServer> =>
    serveHbone(
      running,
      foreign,
      other,
      (stream, headers) => stage.answer(stream, headers),
      settings,
    );
  const stage: Stage = {
    running,
    foreign,
    certificate,
    answer: echo,
    server: await makeServer(),
    async serve(settings, other) {
      stage.server.close();
      stage.server = await makeServer(settings, other);
    },
    fromWeb: (host, port) => connectFrom(running.native, web, { host, port }),
  };
  t.teardown(() => stage.server.close());
  return stage;
}

/** What our proxy sends, and what a foreign server may do. */
async function oursToForeign(t: Test, stage: Stage): Promise<void> {
  const { foreign } = stage;
  await t.test('headers of HBONE 1.3, by pod address and by service', async (t) => {
    for (const [host, port] of [
      [foreign.ip, 8080],
      ['10.96.1.20', 80],
    ] as const) {
      const socket = stage.fromWeb(host, port);
      const bytes = randomBytes(200_000);
      const exchanged = exchange(socket, bytes);
      const { received, ended } = await exchanged;
      t.equal(ended, 'end');
      t.ok(received.equals(bytes), 'half close, byte-exact');
      const request = stage.server.requests.at(-1);
      const headers = request?.headers ?? {};
      t.equal(request?.peer, identity('web'), 'with the identity of the pod');
      t.equal(headers[':method'], 'CONNECT');
      t.equal(headers[':authority'], `${foreign.ip}:8080`);
      for (const name of [':scheme', ':path', ':protocol']) t.notOk(name in headers, `no ${name}`);
      const suffix = host === foreign.ip ? '' : ';host=foreign.shop.svc.cluster.local';
      t.match(String(headers['forwarded']), new RegExp(`^for="10\\.42\\.1\\.10:\\d+"${suffix}$`));
      t.match(String(headers['traceparent']), /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
      const baggage = Object.fromEntries(
        String(headers['baggage'])
          .split(',')
          .map((member) => member.split('=') as [string, string]),
      );
      t.match(baggage, {
        'k8s.cluster.name': 'Kubernetes',
        'k8s.namespace.name': 'shop',
        'service.name': 'web',
        'service.version': 'v1',
        'cloud.region': 'local',
        'cloud.availability_zone': 'zone-a',
      });
      t.ok(
        Object.keys(baggage).some((key) => /^k8s\.(pod|deployment|job|cronjob)\.name$/.test(key)),
      );
    }
    t.equal(stage.server.requests.filter(({ peer }) => peer !== identity('web')).length, 0);
  });

  await t.test('refusals reach the application as resets', async (t) => {
    for (const status of [400, 401, 503]) {
      stage.answer = (stream) => stream.respond({ ':status': status }, { endStream: true });
      const { received, ended } = await exchange(stage.fromWeb(foreign.ip, 8080), 'hello');
      t.equal(ended, 'ECONNRESET', `status ${status}`);
      t.equal(received.length, 0);
    }
    stage.answer = echo;
  });

  await t.test('small windows, one stream per session, small frames', async (t) => {
    await stage.serve({ initialWindowSize: 1000, maxConcurrentStreams: 1, maxFrameSize: 16_384 });
    const bytes = randomBytes(300_000);
    const results = await Promise.all(
      Array.from({ length: 5 }, () => exchange(stage.fromWeb(foreign.ip, 8080), bytes)),
    );
    t.ok(results.every(({ received }) => received.equals(bytes)));
    t.equal(stage.server.requests.length, 5);
    t.ok(stage.server.sessions.size <= 10, `${stage.server.sessions.size} sessions`);
  });

  await t.test('settings that change, pings, and a GOAWAY under way', async (t) => {
    await stage.serve();
    const first = stage.fromWeb(foreign.ip, 8080);
    first.write('one');
    await until('echoed', 3000, () => first.read() !== null);
    const [session] = stage.server.sessions;
    if (session === undefined) throw new Error('no session');
    const pinged = await new Promise<boolean>((resolve) => {
      session.ping((error) => resolve(error === null));
    });
    t.ok(pinged, 'our client answers a ping');
    await new Promise<void>((resolve) => {
      session.settings({ initialWindowSize: 100_000, maxHeaderListSize: 9000 }, () => resolve());
    });
    t.pass('and acknowledges new settings');
    const goneBefore = stage.server.requests.length;
    // Graceful: GOAWAY, and the session closes when its streams have ended.
    session.close();
    await wait(100);
    const second = await exchange(stage.fromWeb(foreign.ip, 8080), 'two');
    t.equal(String(second.received), 'two', 'a new connection gets another session');
    t.equal(stage.server.requests.length, goneBefore + 1);
    const rest = await exchange(first, 'three');
    t.equal(String(rest.received), 'three', 'the old one goes on');
    t.equal(rest.ended, 'end');
  });

  await t.test('a stream or session that breaks is a reset for the application', async (t) => {
    for (const [name, act] of [
      // `close(code)` of node:http2 ends the stream before it resets it; this one resets at once.
      ['the stream', (stream) => stream.destroy(new Error('broken'))],
      ['the session', (stream) => stream.session?.destroy()],
      ['the socket', (stream) => stream.session?.socket.destroy()],
    ] as const satisfies readonly (readonly [
      string,
      (stream: http2.ServerHttp2Stream) => void,
    ])[]) {
      stage.answer = (stream) => {
        stream.respond({ ':status': 200 });
        stream.write('part');
        setTimeout(() => act(stream), 50);
      };
      const { ended } = await exchange(stage.fromWeb(foreign.ip, 8080), 'x', { end: false });
      t.equal(ended, 'ECONNRESET', name);
    }
    stage.answer = echo;
    const again = await exchange(stage.fromWeb(foreign.ip, 8080), 'again');
    t.equal(String(again.received), 'again', 'and the next connection is served');
  });

  await t.test('T46 an answer with another identity is refused', async (t) => {
    const other = await requestCertificate(
      stage.running,
      tokenOf(stage.running, 'node-b'),
      identity('cart'),
    );
    await stage.serve({}, other);
    const { ended, received } = await exchange(stage.fromWeb(foreign.ip, 8080), 'secret');
    t.equal(ended, 'ECONNRESET');
    t.equal(received.length, 0);
    t.equal(stage.server.requests.length, 0, 'no request was sent');
    await stage.serve();
  });

  await t.test('a pod that says by label that it speaks HBONE', async (t) => {
    const { running } = stage;
    const native = running.mesh.topology.addPod('native', running.mesh.nodeNamed('node-a'), 21);
    const certificate = await requestCertificate(
      running,
      tokenOf(running, FOREIGN_NODE),
      identity('native'),
    );
    const server = await serveHbone(running, native, certificate, echo);
    const { received } = await exchange(stage.fromWeb('10.96.1.21', 80), 'hello');
    t.equal(String(received), 'hello');
    t.equal(server.requests[0]?.headers[':authority'], `${native.ip}:8080`);
    server.close();
  });
}

/** A foreign client against our server. */
async function foreignToOurs(t: Test, stage: Stage): Promise<void> {
  const { running, foreign, certificate } = stage;
  const db = podNamed(running, 'db').place;
  const server = await listenIn(running.native, db, PORT, (socket) => socket.pipe(socket));
  t.teardown(() => server.close());
  const open = (settings: http2.Settings = {}): ReturnType<typeof openSession> =>
    openSession(running, foreign, { host: db.ip, port: 15_008 }, certificate, settings);

  await t.test('our settings, identity, answer and baggage', async (t) => {
    const session = await open();
    t.equal(session.peer, identity('db'));
    const { remoteSettings } = session.session;
    t.ok((remoteSettings.maxConcurrentStreams ?? 0) >= 100, 'at least 100 streams');
    t.ok((remoteSettings.initialWindowSize ?? 0) >= 65_535);
    t.ok((remoteSettings.maxHeaderListSize ?? 0) >= 16_384);
    const tunnel = await openTunnel(session, `${db.ip}:${PORT}`, {
      baggage: ['k8s.cluster.name=far', 'k8s.pod.name=foreign,unknown=1;p=2,=,,a'],
      forwarded: 'for="10.42.1.20:4711";host="db.shop.svc.cluster.local"',
      traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-00`,
      'x-unknown': 'kept to itself',
    });
    t.equal(tunnel.status, 200);
    const baggage = String(tunnel.headers['baggage']);
    for (const member of ['k8s.namespace.name=shop', 'service.name=db', 'service.version=v1']) {
      t.ok(baggage.split(',').includes(member), member);
    }
    const bytes = randomBytes(500_000);
    t.ok((await exchangeThrough(tunnel, bytes)).equals(bytes), 'half close, byte-exact');
    const latency = await new Promise<number>((resolve, reject) => {
      session.session.ping((error, ms) => (error === null ? resolve(ms) : reject(error)));
    });
    t.ok(latency < 2000, 'our server answers a ping');
    session.close();
  });

  await t.test('a hundred streams at once on a session with small windows', async (t) => {
    const session = await open({ initialWindowSize: 2000, maxFrameSize: 16_384 });
    const bytes = randomBytes(40_000);
    const results = await Promise.all(
      Array.from({ length: 100 }, async () => {
        const tunnel = await openTunnel(session, `${db.ip}:${PORT}`);
        return exchangeThrough(tunnel, bytes);
      }),
    );
    t.ok(results.every((result) => result.equals(bytes)));
    session.close();
  });

  await t.test('large frames, and bytes before the answer', async (t) => {
    const session = await open({ maxFrameSize: 1_048_576, initialWindowSize: 4_194_304 });
    const stream = session.session.request({
      ':method': 'CONNECT',
      ':authority': `${db.ip}:${PORT}`,
    });
    stream.on('error', () => {});
    const bytes = randomBytes(3_000_000);
    stream.end(bytes);
    const chunks: Buffer[] = [];
    for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
    t.ok(Buffer.concat(chunks).equals(bytes));
    session.close();
  });

  await t.test('a reset of the client reaches the application as a reset', async (t) => {
    const seen: string[] = [];
    const reset = await listenIn(running.native, db, PORT + 1, (socket) => {
      socket.on('error', (error: NodeJS.ErrnoException) => seen.push(error.code ?? ''));
      socket.on('end', () => seen.push('end'));
      socket.resume();
    });
    for (const code of ['CANCEL', 'INTERNAL_ERROR'] as const) {
      const session = await open();
      const abort = new AbortController();
      const stream = session.session.request(
        { ':method': 'CONNECT', ':authority': `${db.ip}:${PORT + 1}` },
        { signal: abort.signal },
      );
      stream.on('error', () => {});
      await new Promise((resolve) => stream.once('response', resolve));
      stream.write('some');
      await wait(50);
      // `close(code)` would end the stream before it resets it.
      if (code === 'CANCEL') abort.abort();
      else stream.destroy(new Error('broken'));
      await until('the application notices', 3000, () => seen.length > 0);
      t.same(seen.splice(0), ['ECONNRESET'], code);
      session.close();
    }
    const session = await open();
    await openTunnel(session, `${db.ip}:${PORT + 1}`);
    session.socket.destroy();
    await until('the application notices', 3000, () => seen.length > 0);
    t.same(seen, ['ECONNRESET'], 'the whole session');
    reset.close();
  });

  await t.test('running streams outlive a GOAWAY of the client', async (t) => {
    const session = await open();
    const tunnel = await openTunnel(session, `${db.ip}:${PORT}`);
    session.session.goaway();
    await wait(50);
    t.equal(String(await exchangeThrough(tunnel, 'still here')), 'still here');
    session.close();
  });
}

t.setTimeout(180_000);

t.test('a foreign HBONE peer', { skip: reasonToSkipMesh() }, async (t) => {
  const stage = await setStage(t);
  await t.test('our client, its server', (t) => oursToForeign(t, stage));
  await t.test('its client, our server', (t) => foreignToOurs(t, stage));
  t.equal(stage.running.wire.counts().readable, 0);
});
