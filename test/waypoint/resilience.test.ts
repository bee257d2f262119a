/** Traffic policies through a real waypoint: tunnels, sockets and applications that fail as they are told. */

import { createServer as createH2Server, type ServerHttp2Stream } from 'node:http2';
import type { ServerResponse } from 'node:http';
import { createServer as createNetServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';

import t from 'tap';

import type { SpiffeId } from '../../src/core/identity.ts';
import {
  DEFAULT_BALANCING,
  DEFAULT_LIMITS,
  DEFAULT_OUTLIERS,
  DEFAULT_TIMEOUTS,
} from '../../src/core/traffic-policy.ts';
import { createSystemClock } from '../../src/base/clock.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { RateStore } from '../../src/waypoint/rate-limiter.ts';
import { createRedisRateStore } from '../../src/waypoint/redis-rate-store.ts';
import { key } from '../state/build.ts';
import { freePort } from '../support/free-port.ts';
import { app, grpcCall, mesh, retries, status } from './apps.ts';
import { ask, rigFor, type Answer } from './ask.ts';
import { buildBackend, buildRule, buildSet } from './build-routes.ts';
import type { Rig } from './rig.ts';
import { findServer, startServer } from './redis-server.ts';
import { layer, rateLimit, traffic } from './traffic-builder.ts';

t.test('a retry elsewhere hides a failing endpoint, body and all', async (t) => {
  const [bad, good] = [app('bad'), app('good')];
  bad.handle = status(503);
  good.handle = (request, response) => void request.pipe(response);
  const { get, policy, rig } = await mesh(t, bad, good);
  policy(retries({ conditions: ['5xx'] }));
  const body = 'x'.repeat(10_000);
  for (let i = 0; i < 20; i++) {
    const answer = await get({ method: 'POST', body });
    t.equal(answer.status, 200);
    t.equal(answer.body, body);
  }
  t.equal(good.hits, 20);
  t.ok(bad.hits > 0, 'it was asked, too');
  const attempts = rig.records.reduce((sum, record) => sum + record.attempts, 0);
  t.equal(attempts, 20 + bad.hits);
});

t.test('without a policy an answer of the application is never asked for again', async (t) => {
  const bad = app('bad');
  bad.handle = status(503);
  const { get, rig } = await mesh(t, bad);
  t.equal((await get()).status, 503);
  t.equal(bad.hits, 1);
  t.match(rig.records, [{ status: 503, attempts: 1, flag: '-' }]);
});

t.test('without a policy an endpoint that refuses connections is replaced', async (t) => {
  const good = app('good');
  const { get, rig } = await mesh(t, good);
  const closed = createNetServer().listen(0, '127.0.0.1');
  await once(closed, 'listening');
  const port = (closed.address() as AddressInfo).port;
  closed.close();
  await once(closed, 'close');
  const [dead] = [...rig.state.services.endpoints(key('app'))];
  if (dead === undefined) throw new Error('No endpoint');
  const services = new Map([
    [key('app'), [{ servicePort: 80, targetPort: port, appProtocol: 'UNKNOWN' as const }]],
  ]);
  rig.state.applyAddresses({ workloads: [{ ...dead, uid: `${dead.uid}-dead`, services }] });
  for (let i = 0; i < 20; i++) t.equal((await get()).body, 'good');
  t.ok(rig.records.some(({ attempts }) => attempts === 2));
});

t.test('a body too large to keep is not sent twice', async (t) => {
  const [bad, other] = [app('bad'), app('other')];
  bad.handle = other.handle = status(503);
  const { get, policy } = await mesh(t, bad, other);
  policy(retries({ conditions: ['5xx'] }));
  t.equal((await get({ method: 'POST', body: Buffer.alloc(100_000) })).status, 503);
  t.equal(bad.hits + other.hits, 1);
});

t.test('the budget bounds what a failing service is asked besides; beyond it 503', async (t) => {
  const bad = app('bad');
  bad.handle = status(500);
  const { get, policy, rig } = await mesh(t, bad);
  const budget = { percent: 20, intervalMs: 60_000, minPerSecond: 0 };
  policy(retries({ conditions: ['5xx'], budget }));
  const answers: Answer[] = [];
  for (let i = 0; i < 50; i++) answers.push(await get());
  t.equal(bad.hits, 60, '50 requests and a fifth of them again');
  t.equal(answers.filter((answer) => answer.status === 500).length, 10);
  t.equal(answers.filter((answer) => answer.status === 503).length, 40);
  const over = rig.records.filter(({ flag }) => flag === 'RETRY_BUDGET');
  t.equal(over.length, 40);
  t.match(over[0], { errorCode: 'MESH_LIMIT_EXCEEDED', error: /budget/ });
});

t.test('Retry-After is waited for, and a longer one is passed on', async (t) => {
  const bad = app('bad');
  bad.handle = (request, response) => {
    bad.handle = (_, again) => void again.end('well');
    status(503, { 'retry-after': '1' })(request, response);
  };
  const { get, policy } = await mesh(t, bad);
  policy(retries({ statusCodes: [503] }));
  const startMs = performance.now();
  t.equal((await get()).body, 'well');
  t.ok(performance.now() - startMs >= 1_000);
  bad.handle = status(503, { 'retry-after': '2' });
  const answer = await get();
  t.equal(answer.status, 503);
  t.equal(answer.headers['retry-after'], '2');
});

t.test('a try that takes too long is made elsewhere; a request that does gets 504', async (t) => {
  const [slow, good] = [app('slow'), app('good')];
  slow.handle = () => {};
  const { get, policy, rig } = await mesh(t, slow, good);
  policy({ ...retries({ conditions: ['gateway-error'], perTryTimeoutMs: 400 }) });
  for (let i = 0; i < 6 && slow.hits < 2; i++) t.equal((await get()).body, 'good');
  t.ok(slow.hits > 0);
  good.handle = () => {};
  const seen = rig.records.length;
  policy({ timeouts: { ...DEFAULT_TIMEOUTS, requestMs: 150 } });
  t.equal((await get()).status, 504);
  t.match(rig.records[seen], { flag: 'TIMEOUT', errorCode: 'MESH_DEADLINE_EXCEEDED' });
});

t.test("a rule's backendRequest holds until the response has ended", async (t) => {
  const slow = app('slow');
  slow.handle = (_, response) => {
    response.writeHead(200);
    response.write('a part');
  };
  const { get, rig } = await mesh(t, slow);
  const rule = buildRule({ backends: [buildBackend('app')], backendRequestTimeoutMs: 150 });
  rig.setRoutes('app', buildSet([rule]));
  await t.rejects(get(), 'cut short, and seen to be');
  await rig.recorded(1);
  t.match(rig.records, [{ status: 200, flag: 'TIMEOUT', errorCode: 'MESH_DEADLINE_EXCEEDED' }]);
  slow.handle = (_, response) => void response.end('all');
  t.equal((await get()).body, 'all');
});

t.test('an endpoint that fails is taken out, probed by one request, and comes back', async (t) => {
  const [sick, good] = [app('sick'), app('good')];
  sick.handle = status(500);
  const { get, policy } = await mesh(t, sick, good);
  policy({
    balancing: { ...DEFAULT_BALANCING, algorithm: 'round-robin' },
    outliers: { ...DEFAULT_OUTLIERS, consecutiveFailures: 3, ejectionBaseMs: 1_500 },
  });
  while (sick.hits < 3) await get();
  const hits = sick.hits;
  for (let i = 0; i < 10; i++) t.equal((await get()).body, 'good');
  t.equal(sick.hits, hits, 'nobody asks it');
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  t.equal((await get()).status, 500, 'the probe');
  for (let i = 0; i < 10; i++) t.equal((await get()).body, 'good');
  t.equal(sick.hits, hits + 1, 'one');
  sick.handle = (_, response) => void response.end('sick');
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  const bodies = new Set<string>();
  for (let i = 0; i < 4; i++) bodies.add((await get()).body);
  t.ok(bodies.has('sick') && bodies.has('good'), 'it is back');
});

t.test('beyond the limit requests wait, beyond the queue they are shed', async (t) => {
  const slow = app('slow');
  const waiting: ServerResponse[] = [];
  slow.handle = (_, response) => void waiting.push(response);
  const { get, policy, rig } = await mesh(t, slow);
  policy({ limits: { ...DEFAULT_LIMITS, requestsMax: 2, queueMax: 1, queueTimeoutMs: 10_000 } });
  const running = [get(), get()];
  while (waiting.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  const queued = get();
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.equal(slow.hits, 2, 'the third waits');
  t.equal((await get()).status, 503, 'the fourth is shed');
  t.match(rig.records, [{ flag: 'OVERFLOW', attempts: 0, errorCode: 'MESH_LIMIT_EXCEEDED' }]);
  waiting[0]?.end('first');
  while (waiting.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  for (const response of waiting) response.end('served');
  t.equal((await queued).status, 200);
  await Promise.all(running);
  policy({ limits: { ...DEFAULT_LIMITS, requestsMax: 1, queueMax: 1, queueTimeoutMs: 50 } });
  const holding = get();
  while (waiting.length < 4) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal((await get()).status, 503, 'nobody ended in time');
  waiting[3]?.end();
  await holding;
});

t.test('a rate limit answers 429 with its fields, per client identity', async (t) => {
  const { get, policy, rig } = await mesh(t, app('app'));
  policy({ rateLimits: [rateLimit({ name: 'mine', key: { kind: 'identity' }, burst: 2 })] });
  t.equal((await get()).status, 200);
  t.equal((await get()).status, 200);
  const answer = await get();
  t.equal(answer.status, 429);
  t.equal(answer.headers['retry-after'], '60');
  t.equal(answer.headers['ratelimit-policy'], '"mine";q=1;w=60');
  t.match(rig.records.at(-1), { flag: 'RATE_LIMIT', attempts: 0, error: /"mine"/ });
  const other = 'spiffe://cluster.local/ns/shop/sa/other' as SpiffeId;
  t.equal((await get({}, other)).status, 200, 'another has a budget of its own');
  t.equal((await grpcCall(rig))['grpc-status'], '8', 'RESOURCE_EXHAUSTED');
});

t.test('a cookie of ours sticks a client to its endpoint', async (t) => {
  const apps = ['a', 'b', 'c', 'd'].map(app);
  const { get, policy } = await mesh(t, ...apps);
  const affinity = {
    kind: 'cookie',
    name: 'sid',
    ttlMs: 60_000,
    path: '/',
    sameSite: 'Lax',
    secure: false,
  } as const;
  policy({ balancing: { ...DEFAULT_BALANCING, algorithm: 'consistent-hash', affinity } });
  const homes = new Set<string>();
  for (let client = 0; client < 12; client++) {
    const first = await get();
    const [line = ''] = first.headers['set-cookie'] ?? [];
    t.match(line, /^sid=[\w-]+; Path=\/; Max-Age=60; HttpOnly; SameSite=Lax$/);
    homes.add(first.body);
    const [cookie = ''] = line.split(';');
    for (let i = 0; i < 3; i++) {
      const again = await get({ headers: { cookie } });
      t.equal(again.body, first.body);
      t.equal(again.headers['set-cookie'], undefined);
    }
  }
  t.ok(homes.size > 1, 'clients spread');
});

t.test(
  "a client stays at one endpoint if the Service says so, by the client's address",
  async (t) => {
    const { get, rig } = await mesh(t, ...['a', 'b', 'c', 'd'].map(app));
    const homes = async (): Promise<Set<string>> => {
      const found = new Set<string>();
      for (let request = 0; request < 12; request++) found.add((await get()).body);
      return found;
    };
    t.ok((await homes()).size > 1, 'one that does not is balanced');
    const service = rig.state.services.get(key('app'));
    if (service === undefined) throw new Error('No service');
    rig.state.applyAddresses({ services: [{ ...service, clientAffinity: true }] });
    t.equal((await homes()).size, 1);
  },
);

t.test(
  "a rule's session sticks to its backend and its endpoint, whatever the weights",
  async (t) => {
    const apps = ['v1a', 'v1b', 'v2a', 'v2b'].map(app);
    const rig = await rigFor(
      t,
      apps.map(({ server }) => server),
      ([a = 0, b = 0, c = 0, d = 0]) => ({
        apps: [
          { name: 'app', ports: [] },
          { name: 'v1', ports: [a, b] },
          { name: 'v2', ports: [c, d] },
        ],
      }),
    );
    const sessionPersistence = {
      kind: 'header',
      name: 'X-Session',
      absoluteTimeoutMs: undefined,
      idleTimeoutMs: undefined,
    } as const;
    const backends = [buildBackend('v1', 50), buildBackend('v2', 50)];
    rig.setRoutes('app', buildSet([buildRule({ backends, sessionPersistence })]));
    const get = async (headers: Record<string, string> = {}): Promise<Answer> =>
      ask(await rig.open('app'), { headers });
    const homes = new Set<string>();
    for (let client = 0; client < 16; client++) {
      const first = await get();
      homes.add(first.body);
      const session = String(first.headers['x-session']);
      t.match(session, /^[\w-]{22}$/);
      for (let i = 0; i < 3; i++) t.equal((await get({ 'x-session': session })).body, first.body);
    }
    t.ok(homes.size >= 3, 'clients spread over backends and endpoints');
  },
);

t.test('the near ones first; when too few of them are well traffic spills over', async (t) => {
  const [near, far] = [app('near'), app('far')];
  const { get, policy, rig } = await mesh(t, near, far);
  const [first, second] = [...rig.state.services.endpoints(key('app'))];
  if (first === undefined || second === undefined) throw new Error('No endpoints');
  const place = { region: '', zone: '', subzone: '' };
  rig.state.applyAddresses({
    workloads: [
      { ...first, locality: place },
      { ...second, locality: { ...place, zone: 'elsewhere' } },
    ],
  });
  policy({
    balancing: { ...DEFAULT_BALANCING, zone: 'prefer' },
    outliers: { ...DEFAULT_OUTLIERS, consecutiveFailures: 1, ejectionBaseMs: 60_000 },
  });
  for (let i = 0; i < 10; i++) t.equal((await get()).body, 'near');
  near.handle = status(500);
  await get();
  for (let i = 0; i < 10; i++) t.equal((await get()).body, 'far');
});

t.test('another service takes over when this one has nobody left', async (t) => {
  const [main, spare] = [app('main'), app('spare')];
  const rig = await rigFor(t, [main.server, spare.server], ([a = 0, b = 0]) => ({
    apps: [
      { name: 'app', ports: [a] },
      { name: 'spare', ports: [b] },
    ],
  }));
  const failover = [{ service: key('spare'), port: 80 }];
  const balancing = { ...DEFAULT_BALANCING, failover };
  rig.traffic.apply([traffic('app', layer({ kind: 'service' }, { balancing }))], []);
  t.equal((await ask(await rig.open('app'))).body, 'main');
  const [pod] = [...rig.state.services.endpoints(key('app'))];
  if (pod === undefined) throw new Error('No endpoint');
  rig.state.applyAddresses({ workloads: [{ ...pod, healthy: false }] });
  t.equal((await ask(await rig.open('app'))).body, 'spare');
  rig.state.applyAddresses({ workloads: [pod] });
  t.equal((await ask(await rig.open('app'))).body, 'main');
});

t.test(
  'a gRPC status in the head is tried again, one that the policy does not name is not',
  async (t) => {
    const statuses = ['14', '5', '0'];
    const server = createH2Server();
    server.on('stream', (stream: ServerHttp2Stream) => {
      stream.on('error', () => {});
      stream.respond(
        { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': statuses.shift() },
        { endStream: true },
      );
    });
    const rig = await rigFor(t, [server], (ports) => ({
      apps: [{ name: 'app', ports, appProtocol: 'GRPC' }],
    }));
    const settings = retries({ conditions: [], grpcStatuses: [14] });
    rig.traffic.apply([traffic('app', layer({ kind: 'service' }, settings))], []);
    t.equal((await grpcCall(rig))['grpc-status'], '5');
    t.match(rig.records, [{ attempts: 2, grpcStatus: 5, flag: '-' }]);
  },
);

t.test('connections have a limit: one more is refused, idle ones are used again', async (t) => {
  const slow = app('slow');
  const waiting: ServerResponse[] = [];
  slow.handle = (_, response) => void waiting.push(response);
  const { get, policy, rig } = await mesh(t, slow);
  policy({ limits: { ...DEFAULT_LIMITS, connectionsMax: 1 } });
  const running = get();
  while (waiting.length < 1) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal((await get()).status, 503);
  t.match(rig.records, [{ flag: 'OVERFLOW', errorCode: 'MESH_LIMIT_EXCEEDED' }]);
  waiting[0]?.end('first');
  await running;
  slow.handle = (_, response) => void response.end('again');
  for (let i = 0; i < 3; i++) t.equal((await get()).body, 'again');
});

t.test('idle connections to some endpoints do not keep a request from others', async (t) => {
  const { get, policy, rig } = await mesh(t, ...['a', 'b', 'c', 'd'].map((name) => app(name)));
  policy({ limits: { ...DEFAULT_LIMITS, connectionsMax: 2 } });
  const bodies = new Set<string>();
  for (let i = 0; i < 40; i++) {
    const { status, body } = await get();
    t.equal(status, 200);
    bodies.add(body);
  }
  t.ok(bodies.size > 2, 'more endpoints than connections were asked');
  t.ok(rig.records.every(({ flag }) => flag === '-'));
});

const program = findServer();
const skip = program === undefined && 'needs redis-server or valkey-server';
t.test(
  'two waypoints count one shared limit; without the store each counts its own',
  { skip },
  async (t) => {
    const redis = await startServer(program ?? '', await freePort());
    t.teardown(() => redis.stop());
    const clock = createSystemClock();
    const connect = async (): Promise<RateStore> => {
      const ready = Promise.withResolvers<void>();
      const store = createRedisRateStore({
        url: redis.url,
        clock,
        random: createSystemRandom(),
        timeoutMs: 1_000,
        onState: (connected) => connected && ready.resolve(),
      });
      t.teardown(() => store[Symbol.asyncDispose]());
      store.start();
      await ready.promise;
      return store;
    };
    const target = app('app');
    const rateLimits = [rateLimit({ burst: 3, shared: true })];
    const policies = [traffic('app', layer({ kind: 'service' }, { rateLimits }))];
    const rigs: Rig[] = [];
    for (let i = 0; i < 2; i++) {
      const rateStore = await connect();
      const options = (ports: readonly number[]) => ({ apps: [{ name: 'app', ports }], rateStore });
      const rig = await rigFor(t, i === 0 ? [target.server] : [], (ports) =>
        options(i === 0 ? ports : [(target.server.address() as AddressInfo).port]),
      );
      rig.traffic.apply(policies, []);
      rigs.push(rig);
    }
    const get = async (at: number): Promise<number> => {
      const rig = rigs[at];
      if (rig === undefined) throw new Error('No such waypoint');
      return (await ask(await rig.open('app'))).status;
    };
    t.strictSame([await get(0), await get(1), await get(0)], [200, 200, 200]);
    t.strictSame([await get(0), await get(1)], [429, 429]);
    await redis.stop();
    t.strictSame([await get(0), await get(0), await get(0), await get(0)], [200, 200, 200, 429]);
    t.strictSame([await get(1), await get(1), await get(1), await get(1)], [200, 200, 200, 429]);
  },
);

t.test('faults delay and abort before anything is sent, by header', async (t) => {
  const target = app('app');
  const { get, policy, rig } = await mesh(t, target);
  policy({
    faults: [
      {
        headers: [{ name: 'x-fault', value: 'on' }],
        delay: { ms: 100, percent: 100 },
        abort: { httpStatus: 418, grpcStatus: undefined, percent: 100 },
      },
      {
        headers: [{ name: 'x-fault', value: 'grpc' }],
        delay: undefined,
        abort: { httpStatus: undefined, grpcStatus: 9, percent: 100 },
      },
    ],
  });
  t.equal((await get()).status, 200);
  const startMs = performance.now();
  t.equal((await get({ headers: { 'x-fault': 'on' } })).status, 418);
  t.ok(performance.now() - startMs >= 100);
  t.match(rig.records.at(-1), { flag: 'FAULT', attempts: 0 });
  t.equal((await grpcCall(rig, { 'x-fault': 'grpc' }))['grpc-status'], '9');
  t.equal(target.hits, 1);
});
