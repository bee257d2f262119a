import fc from 'fast-check';
import t from 'tap';

import { createFakeClock, type FakeClock, sleep } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { fail, ok } from '../../src/base/result.ts';
import type { ApiClient } from '../../src/kubernetes/api-client.ts';
import {
  createLeaderElection,
  LEASE_MS,
  RENEW_LIMIT_MS,
  RETRY_MS,
  type LeaderElection,
} from '../../src/kubernetes/leader-election.ts';

interface Lease {
  readonly metadata: { readonly resourceVersion: string };
  readonly spec: { readonly holderIdentity: string; readonly leaseTransitions: number };
}

/** One Lease with optimistic concurrency; how each caller reaches it is the test's. */
interface Store {
  lease: Lease | undefined;
  version: number;
}

interface Line {
  /** Requests fail while it is cut; those under way are answered too late to count. */
  cut: boolean;
  delayMs: number;
}

function connect(clock: FakeClock, store: Store, line: Line): ApiClient {
  const refuse = (status: number): ReturnType<ApiClient['request']> =>
    Promise.resolve(fail(new MeshError('MESH_API_REFUSED', `${status}`, { details: { status } })));
  const unreachable = fail(new MeshError('MESH_API_UNREACHABLE', 'the line is cut'));
  return {
    async request({ method = 'GET', body }) {
      const { delayMs } = line;
      if (line.cut) return unreachable;
      await sleep(clock, delayMs / 2);
      if (line.cut) return unreachable;
      const { lease } = store;
      const asked = body as Lease | undefined;
      if (method === 'GET' && lease === undefined) return refuse(404);
      if (method === 'POST' && lease !== undefined) return refuse(409);
      const version = lease?.metadata.resourceVersion;
      if (method === 'PUT' && version !== asked?.metadata.resourceVersion) return refuse(409);
      if (asked !== undefined) {
        store.lease = { ...asked, metadata: { resourceVersion: String(++store.version) } };
      }
      const answer = store.lease;
      // Taken or not, the answer may be lost or late.
      await sleep(clock, delayMs / 2);
      return line.cut ? unreachable : ok(answer);
    },
    stream: () => Promise.resolve(unreachable),
    [Symbol.dispose]() {},
  };
}

interface Replica {
  readonly election: LeaderElection;
  readonly line: Line;
  readonly changes: boolean[];
}

function start(clock: FakeClock, store: Store, identity: string, seed: number): Replica {
  const line = { cut: false, delayMs: 20 };
  const changes: boolean[] = [];
  const election = createLeaderElection({
    clock,
    random: createSeededRandom(seed),
    logger: createNullLogger(),
    client: connect(clock, store, line),
    namespace: 'nodemesh-system',
    name: 'nodemesh-controller',
    identity,
    onChange: (leads) => void changes.push(leads),
  });
  return { election, line, changes };
}

t.test('the times are client-go’s, and leave a gap', (t) => {
  t.same([LEASE_MS, RENEW_LIMIT_MS, RETRY_MS], [15_000, 10_000, 2_000]);
  t.end();
});

t.test(
  'one of three leads; when it is cut off another does after the lease, not before',
  async (t) => {
    const clock = createFakeClock();
    const store: Store = { lease: undefined, version: 0 };
    const replicas = [1, 2, 3].map((seed) => start(clock, store, `r${seed}`, seed));
    await clock.advance(5_000);
    const [first] = replicas.filter(({ election }) => election.leads());
    t.equal(replicas.filter(({ election }) => election.leads()).length, 1);
    t.ok(replicas.every(({ election }) => election.holder === store.lease?.spec.holderIdentity));
    if (first === undefined) throw new Error('nobody leads');
    first.line.cut = true;
    await clock.advance(RENEW_LIMIT_MS + RETRY_MS);
    t.notOk(first.election.leads(), 'it knows before anybody else may');
    t.same(first.changes, [true, false]);
    await clock.advance(LEASE_MS);
    t.equal(replicas.filter(({ election }) => election.leads()).length, 1);
    t.equal(store.lease?.spec.leaseTransitions, 1);
  },
);

t.test('who ends in peace gives the lease up at once', async (t) => {
  const clock = createFakeClock();
  const store: Store = { lease: undefined, version: 0 };
  const one = start(clock, store, 'one', 1);
  await clock.advance(3_000);
  const two = start(clock, store, 'two', 2);
  await clock.advance(3_000);
  t.ok(one.election.leads());
  const leaving = one.election[Symbol.asyncDispose]();
  await clock.advance(100);
  await leaving;
  t.equal(store.lease?.spec.holderIdentity, '');
  await clock.advance(RETRY_MS * 1.5);
  t.ok(two.election.leads(), 'within two seconds, not fifteen');
  const last = two.election[Symbol.asyncDispose]();
  await clock.advance(100);
  await last;
});

t.test('F12: one that was stopped for a minute has stopped leading when it goes on', async (t) => {
  const clock = createFakeClock();
  const store: Store = { lease: undefined, version: 0 };
  // All of the minute passes between two of its turns: no timer has fired yet when it goes on.
  let sleptMs = 0;
  const sleepy: FakeClock = { ...clock, nowMs: () => clock.nowMs() + sleptMs };
  const sleeper = start(sleepy, store, 'sleeper', 1);
  await clock.advance(3_000);
  t.ok(sleeper.election.leads());
  sleptMs = 60_000;
  t.notOk(sleeper.election.leads(), 'before anything else ran');
});

t.test('never two at once, whatever the lines do', async (t) => {
  const event = fc.record({
    who: fc.nat({ max: 2 }),
    cut: fc.boolean(),
    delayMs: fc.integer({ min: 0, max: 6_000 }),
    lastsMs: fc.integer({ min: 100, max: 20_000 }),
  });
  let led = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(event, { minLength: 1, maxLength: 25 }), async (events) => {
      const clock = createFakeClock();
      const store: Store = { lease: undefined, version: 0 };
      const replicas = [1, 2, 3].map((seed) => start(clock, store, `r${seed}`, seed));
      for (const { who, cut, delayMs, lastsMs } of events) {
        const line = replicas[who]?.line;
        if (line !== undefined) Object.assign(line, { cut, delayMs });
        for (let passedMs = 0; passedMs < lastsMs; passedMs += 500) {
          await clock.advance(500);
          const leaders = replicas.filter(({ election }) => election.leads()).length;
          if (leaders > 1) return false;
          led += leaders;
        }
      }
      return true;
    }),
    { numRuns: 40 },
  );
  t.ok(led > 100, `somebody led in ${led} looks`);
});
