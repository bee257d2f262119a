import t, { type Test } from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import type { Authenticator, CallerIdentity } from '../../src/controlplane/caller.ts';
import { createTokenReviewer, expiryMs } from '../../src/kubernetes/token-review.ts';
import { eventually, startFakeApi, type FakeApi } from './fake-api.ts';

const REVIEWS = '/apis/authentication.k8s.io/v1/tokenreviews';
const EXTRA = 'authentication.kubernetes.io/';

function tokenFor(clock: FakeClock, lifeMs: number, salt: string = ''): string {
  const claims = { exp: Math.floor((clock.wallMs() + lifeMs) / 1000), salt };
  return `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;
}

interface User {
  readonly username?: string;
  readonly extra?: Readonly<Record<string, readonly string[]>>;
  readonly audiences?: readonly string[];
  readonly authenticated?: boolean;
}

const NODE_USER: User = {
  username: 'system:serviceaccount:nodemesh-system:nodemesh-node',
  extra: {
    [`${EXTRA}node-name`]: ['node-a'],
    [`${EXTRA}pod-name`]: ['nodemesh-node-x'],
    [`${EXTRA}pod-uid`]: ['uid-x'],
  },
};

interface Run {
  readonly clock: FakeClock;
  readonly api: FakeApi;
  readonly reviewer: Authenticator;
  /** Pods that the watch has seen end. */
  readonly gone: Set<string>;
  user: User;
  down: boolean;
}

async function start(t: Test, user: User = NODE_USER): Promise<Run> {
  const clock = createFakeClock();
  const api = await startFakeApi(t, clock);
  const gone = new Set<string>();
  const isPodKnown = (uid: string): boolean => !gone.has(uid);
  const reviewer = createTokenReviewer({ clock, client: api.client, isPodKnown });
  const run = { clock, api, reviewer, gone, user, down: false };
  api.intercept = ({ path, body }) => {
    if (run.down) return { status: 503, body: { message: 'down' } };
    if (path !== REVIEWS) return undefined;
    t.match(body, { spec: { audiences: ['nodemesh'] } });
    const { username, extra, audiences = ['nodemesh'], authenticated = true } = run.user;
    return {
      status: 201,
      body: { status: { authenticated, audiences, user: { username, extra } } },
    };
  };
  return run;
}

async function ask(run: Run, token: string): Promise<CallerIdentity | string> {
  const answer = await run.reviewer.authenticate(token);
  return answer.ok
    ? answer.value
    : `${answer.error.retryable ? 'later: ' : ''}${answer.error.message}`;
}

t.test('T05: a node proxy’s token proves the node of its pod', async (t) => {
  const run = await start(t);
  const token = tokenFor(run.clock, 3_600_000);
  t.same(await ask(run, token), { kind: 'node', node: 'node-a' });
  t.same(await ask(run, token), { kind: 'node', node: 'node-a' });
  t.equal(run.api.requests.length, 1, 'asked once');
  await run.clock.advance(30_000);
  run.user = { ...NODE_USER, authenticated: false };
  t.match(await ask(run, token), 'does not know the token', 'half a minute after its pod is gone');
});

t.test('T05: what is remembered of a token ends with its pod', async (t) => {
  const run = await start(t);
  const token = tokenFor(run.clock, 3_600_000);
  t.match(await ask(run, token), { kind: 'node' });
  run.user = { ...NODE_USER, authenticated: false };
  t.match(await ask(run, token), { kind: 'node' }, 'remembered');
  run.gone.add('uid-x');
  t.match(await ask(run, token), 'does not know the token', 'at once');
  run.user = NODE_USER;
  run.gone.clear();
  await run.clock.advance(6_000);
  t.match(await ask(run, token), { kind: 'node' });
  run.gone.add('uid-x');
  run.down = true;
  t.match(await ask(run, token), /^later: /, 'nor while the API server is down');
});

t.test('T06: any other account proves a workload, and only bound to a pod', async (t) => {
  const username = 'system:serviceaccount:shop:waypoint';
  const run = await start(t, { ...NODE_USER, username });
  t.same(await ask(run, tokenFor(run.clock, 60_000)), {
    kind: 'workload',
    namespace: 'shop',
    serviceAccount: 'waypoint',
    pod: 'nodemesh-node-x',
  });
  const cases: readonly [User, string][] = [
    [{ username: 'system:serviceaccount:nodemesh-system:nodemesh-node' }, 'is not bound to a pod'],
    [{ ...NODE_USER, username: 'admin' }, 'is not that of a service account'],
    [{ ...NODE_USER, username: 'system:node:node-a' }, 'is not that of a service account'],
    [{ ...NODE_USER, audiences: ['https://kubernetes.default.svc'] }, 'not for the audience'],
    [{ ...NODE_USER, authenticated: false }, 'does not know the token'],
  ];
  for (const [index, [user, reason]] of cases.entries()) {
    run.user = user;
    t.match(await ask(run, tokenFor(run.clock, 60_000, String(index))), reason);
  }
  run.user = { ...NODE_USER, username: 'system:serviceaccount:shop:nodemesh-node' };
  t.match(
    await ask(run, tokenFor(run.clock, 60_000, 'x')),
    { kind: 'workload' },
    'same name elsewhere',
  );
});

t.test('a node that the token does not name is that of its live pod, by UID (T10)', async (t) => {
  const extra = { [`${EXTRA}pod-name`]: ['proxy'], [`${EXTRA}pod-uid`]: ['uid-x'] };
  const run = await start(t, { ...NODE_USER, extra });
  const reviews = run.api.intercept;
  let pod: unknown = { metadata: { uid: 'uid-x' }, spec: { nodeName: 'node-b' } };
  run.api.intercept = (request, response) =>
    request.path === '/api/v1/namespaces/nodemesh-system/pods/proxy'
      ? { status: pod === undefined ? 404 : 200, body: pod ?? { message: 'not found' } }
      : reviews(request, response);
  t.same(await ask(run, tokenFor(run.clock, 60_000, '1')), { kind: 'node', node: 'node-b' });
  pod = { metadata: { uid: 'uid-y' }, spec: { nodeName: 'node-b' } };
  t.match(await ask(run, tokenFor(run.clock, 60_000, '2')), 'is gone or on no node');
  pod = undefined;
  t.match(await ask(run, tokenFor(run.clock, 60_000, '3')), 'not found');
});

t.test(
  'the API server down: known callers for a while, never beyond the token; others later',
  async (t) => {
    const run = await start(t);
    const long = tokenFor(run.clock, 3_600_000, 'long');
    const short = tokenFor(run.clock, 120_000, 'short');
    await ask(run, long);
    await ask(run, short);
    run.down = true;
    t.match(await ask(run, tokenFor(run.clock, 60_000, 'new')), /^later: /);
    await run.clock.advance(100_000);
    t.match(await ask(run, long), { kind: 'node' });
    t.match(await ask(run, short), { kind: 'node' });
    await run.clock.advance(30_000);
    t.match(await ask(run, short), /^later: /, 'it has expired');
    t.match(await ask(run, long), { kind: 'node' });
    await run.clock.advance(500_000);
    t.match(await ask(run, long), /^later: /, 'too long ago');
    run.down = false;
    t.match(await ask(run, long), { kind: 'node' });
  },
);

t.test('a refusal counts at once, also for who was known', async (t) => {
  const run = await start(t);
  const token = tokenFor(run.clock, 3_600_000);
  await ask(run, token);
  await run.clock.advance(31_000);
  run.user = { ...NODE_USER, authenticated: false };
  t.match(await ask(run, token), 'does not know');
  run.down = true;
  await run.clock.advance(6_000);
  t.match(await ask(run, token), /^later: |does not know/, 'and the good answer is forgotten');
});

t.test('one question at a time per token, and not too many in all', async (t) => {
  const run = await start(t);
  const held: (() => void)[] = [];
  const answerNow = run.api.intercept;
  run.api.intercept = (request, response) => {
    held.push(() => {
      const answer = answerNow(request, response);
      if (answer === undefined || answer === 'taken') return;
      response.writeHead(answer.status);
      response.end(JSON.stringify(answer.body));
    });
    return 'taken';
  };
  const token = tokenFor(run.clock, 60_000);
  const same = [1, 2, 3].map(() => ask(run, token));
  await eventually('one question', () => held.length === 1);
  const many = Array.from({ length: 63 }, (_, i) => ask(run, tokenFor(run.clock, 60_000, `${i}`)));
  await eventually('all questions', () => held.length === 64);
  t.match(
    await ask(run, tokenFor(run.clock, 60_000, 'one more')),
    'later: Cannot authenticate caller now: too many at once',
  );
  for (const release of held) release();
  for (const answer of await Promise.all(same)) t.same(answer, { kind: 'node', node: 'node-a' });
  t.equal((await Promise.all(many)).length, 63);
});

t.test('the life of a token is read from it, whatever it is', (t) => {
  t.equal(expiryMs(`h.${Buffer.from('{"exp":5}').toString('base64url')}.s`), 5_000);
  for (const bad of ['', 'x', 'a.b.c', `h.${Buffer.from('null').toString('base64url')}.s`]) {
    t.equal(expiryMs(bad), undefined);
  }
  t.end();
});
