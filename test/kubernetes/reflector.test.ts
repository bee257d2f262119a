import fc from 'fast-check';
import t, { type Test } from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger, type Logger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { createLineReader } from '../../src/kubernetes/api-client.ts';
import { createReflectorMetrics } from '../../src/kubernetes/metrics.ts';
import {
  createReflector,
  WATCH_GRACE_MS,
  WATCH_JITTER_MS,
  WATCH_MIN_MS,
  type ReflectedChange,
  type Reflector,
} from '../../src/kubernetes/reflector.ts';
import { eventually, startFakeApi, type FakeApi, type FakeObject } from './fake-api.ts';

const PODS = '/api/v1/pods';

interface Run {
  readonly clock: FakeClock;
  readonly api: FakeApi;
  readonly reflector: Reflector;
  /** What a receiver of the changes knows. */
  readonly world: Map<string, string>;
  readonly told: ReflectedChange<string, string>[];
  readonly log: string[];
  readonly restarts: string[];
  missing: boolean;
}

function thing(name: string, value: string = name): FakeObject {
  return { metadata: { name, namespace: 'ns' }, value };
}

async function start(
  t: Test,
  prepare: (api: FakeApi) => void = () => {},
  onChanges?: (changes: readonly ReflectedChange<string, string>[]) => void,
): Promise<Run> {
  const clock = createFakeClock();
  const api = await startFakeApi(t, clock);
  prepare(api);
  const world = new Map<string, string>();
  const told: ReflectedChange<string, string>[] = [];
  const log: string[] = [];
  const restarts: string[] = [];
  const note = (message: string, fields?: object): void => {
    log.push(`${message} ${JSON.stringify(fields)}`);
  };
  const logger: Logger = { ...createNullLogger(), warn: note, error: note };
  const metrics = {
    ...createReflectorMetrics(createNullRegistry()),
    restarts: {
      add: (_: number, labels: readonly string[] = []) => restarts.push(labels[1] ?? ''),
    },
  };
  const run = { clock, api, world, told, log, restarts, missing: false };
  const reflector = createReflector<string, string>({
    clock,
    random: createSeededRandom(7),
    logger,
    metrics: { ...metrics, restarts: { add: (n, l) => void metrics.restarts.add(n, l) } },
    client: api.client,
    name: 'pods',
    path: PODS,
    read(value) {
      const { metadata, value: content } = value as { metadata: { name: string }; value: unknown };
      if (content === 'ignored') return { status: 'ignored' };
      if (typeof content !== 'string') {
        const key = metadata.name;
        const invalid = { status: 'invalid', key, message: 'value must be a string' } as const;
        const stead = { object: `stead of ${String(content)}`, effect: 'it denies' };
        if (content === null) return { ...invalid, stead: { ...stead, replaces: true } };
        return typeof content === 'boolean' ? { ...invalid, stead } : invalid;
      }
      return { status: 'object', key: metadata.name, object: content };
    },
    onChanges(changes) {
      told.push(...changes);
      for (const change of changes) {
        if (change.type === 'put') world.set(change.key, change.object);
        else world.delete(change.key);
      }
      onChanges?.(changes);
    },
    onMissing: () => void (run.missing = true),
  });
  t.teardown(() => reflector[Symbol.asyncDispose]());
  return Object.assign(run, { reflector });
}

async function watching({ api }: Pick<Run, 'api'>): Promise<void> {
  await eventually('a watch', () => api.watches.length === 1);
}

t.test('reflector tells everything once, in pages, then what happens', async (t) => {
  const run = await start(t, (api) => {
    api.pageLimit = 3;
    for (let i = 0; i < 10; i++) api.put(PODS, thing(`pod-${i}`));
  });
  await run.reflector.synced;
  t.equal(run.world.size, 10);
  await watching(run);
  const lists = run.api.requests.filter(({ query }) => !query.has('watch'));
  t.equal(lists.length, 4, 'four pages');
  t.same([...new Set(lists.map(({ query }) => query.get('limit')))], ['500']);
  const [watch] = run.api.requests.filter(({ query }) => query.has('watch'));
  t.equal(watch?.query.get('allowWatchBookmarks'), 'true');
  t.equal(watch?.query.get('resourceVersion'), '110', 'from where the list ended');
  run.api.put(PODS, thing('pod-3', 'changed'));
  run.api.remove(PODS, 'ns/pod-4');
  run.api.put(PODS, thing('new'));
  await eventually('the changes', () => run.world.has('new'));
  t.equal(run.world.get('pod-3'), 'changed');
  t.notOk(run.world.has('pod-4'));
  t.equal(run.reflector.status().objects, 10);
});

t.test('F05, G29: a watch that is silent for ever is noticed within 60 s', async (t) => {
  t.ok(WATCH_MIN_MS + WATCH_JITTER_MS + WATCH_GRACE_MS <= 60_000);
  const run = await start(t, (api) => api.put(PODS, thing('a')));
  await run.reflector.synced;
  await watching(run);
  run.api.putSilently(PODS, thing('b'));
  await run.clock.advance(60_000);
  await eventually('what was missed', () => run.world.has('b'));
  t.same(run.restarts, ['dead']);
  const watches = run.api.requests.filter(({ query }) => query.has('watch'));
  const seconds = watches.map(({ query }) => Number(query.get('timeoutSeconds')));
  t.ok(
    seconds.every((s) => s >= 35 && s <= 50),
    'the server is asked to end it before',
  );
});

t.test('a watch goes on where the last one ended, after a bookmark from there', async (t) => {
  const run = await start(t, (api) => api.put(PODS, thing('a')));
  await watching(run);
  run.api.bookmark(PODS);
  await eventually('the bookmark', () => run.reflector.status().ageMs === 0);
  await run.clock.advance(2_000);
  run.api.endWatches(PODS);
  await eventually('the next watch', () => run.api.requests.length === 3);
  t.equal(run.api.requests[2]?.query.get('resourceVersion'), '102');
  t.same(run.restarts, ['ended']);
});

t.test('F06: 410 makes a new list; deletions are told, what is the same is not', async (t) => {
  const run = await start(t, (api) => {
    for (const name of ['a', 'b', 'c']) api.put(PODS, thing(name));
  });
  await watching(run);
  run.told.length = 0;
  run.api.removeSilently(PODS, 'ns/b');
  run.api.putSilently(PODS, thing('c', 'changed'));
  run.api.compact();
  await run.clock.advance(2_000);
  run.api.endWatches(PODS);
  await eventually('the new list', () => !run.world.has('b'));
  t.same(run.told, [
    { type: 'put', key: 'c', object: 'changed' },
    { type: 'delete', key: 'b' },
  ]);
  await watching(run);
  t.match(run.restarts, ['ended', 'expired']);
});

t.test('a server for which every version is too old is not asked without a pause', async (t) => {
  const run = await start(t, (api) => {
    api.put(PODS, thing('a'));
    api.intercept = ({ query }) => {
      api.compact();
      return query.has('watch') ? { status: 410, body: { message: 'too old' } } : undefined;
    };
  });
  await run.reflector.synced;
  for (let second = 0; second < 60; second++) await run.clock.advance(1_000);
  const asked = run.api.requests.length;
  t.ok(asked > 4 && asked < 60, `${asked} requests in a minute`);
});

t.test('what was told of a list that broke off is found missing by the next', async (t) => {
  let failing = true;
  const run = await start(t, (api) => {
    api.pageLimit = 1;
    api.put(PODS, thing('a'));
    api.put(PODS, thing('b'));
    api.intercept = ({ query }) =>
      failing && query.has('continue')
        ? { status: 500, body: { message: 'etcd is gone' } }
        : undefined;
  });
  await run.reflector.tried;
  t.same([...run.world.keys()], ['a'], 'the first page');
  run.api.removeSilently(PODS, 'ns/a');
  failing = false;
  await run.clock.advance(1_000);
  await run.reflector.synced;
  t.same([...run.world.keys()], ['b']);
});

t.test('half a line, then a broken connection: nothing is lost, nothing ends', async (t) => {
  const run = await start(t, (api) => api.put(PODS, thing('a')));
  await watching(run);
  run.api.write(PODS, '{"type":"ADDED","object":{"metadata":{"na');
  run.api.breakConnections();
  run.api.putSilently(PODS, thing('b'));
  await eventually('the break', () => run.restarts.length === 1);
  await run.clock.advance(30_000);
  await eventually('what was missed', () => run.world.has('b'));
  t.same(run.restarts, ['broken']);
});

t.test('what cannot be understood makes a new list', async (t) => {
  for (const [index, text] of ['nonsense\n', '{"type":"NEWS","object":{}}\n', '[]\n'].entries()) {
    const run = await start(t, (api) => api.put(PODS, thing('a')));
    await watching(run);
    run.api.putSilently(PODS, thing('b'));
    run.api.write(PODS, text);
    await eventually('it is noticed', () => run.restarts.length === 1);
    await run.clock.advance(30_000);
    await eventually('the new list', () => run.world.has('b'));
    t.same(run.restarts[0], 'unreadable', `text ${index}`);
  }
});

t.test(
  'F04: refused for a while: tried again with growing pauses, complained of once',
  async (t) => {
    let refused = true;
    const run = await start(t, (api) => {
      api.put(PODS, thing('a'));
      api.intercept = () =>
        refused
          ? { status: 503, body: { message: 'overloaded', reason: 'ServiceUnavailable' } }
          : undefined;
    });
    await run.reflector.tried;
    for (let second = 0; second < 300; second++) {
      await run.clock.advance(1_000);
      await eventually('no request under way', () => run.clock.pendingCount() > 0);
    }
    const tries = run.api.requests.length;
    t.ok(tries >= 10 && tries < 60, `${tries} tries in five minutes`);
    t.equal(run.log.length, 1, run.log.join('\n'));
    t.match(run.reflector.status(), { synced: false, error: /503 overloaded/ });
    refused = false;
    await run.clock.advance(31_000);
    await run.reflector.synced;
    t.equal(run.world.size, 1);
  },
);

t.test('a forbidden kind names the verb that is missing', async (t) => {
  const run = await start(t, (api) => {
    api.intercept = () => ({ status: 403, body: { message: 'forbidden', reason: 'Forbidden' } });
  });
  await run.reflector.tried;
  t.match(run.log[0], 'a role that grants \\"list\\" on \\"pods\\"');
  t.equal(run.reflector.status().synced, false);
});

t.test('a kind that is not served any more counts as deleted', async (t) => {
  let gone = false;
  const run = await start(t, (api) => {
    api.put(PODS, thing('a'));
    api.intercept = () => (gone ? { status: 404, body: { message: 'no such kind' } } : undefined);
  });
  await watching(run);
  gone = true;
  await run.clock.advance(2_000);
  run.api.endWatches(PODS);
  await eventually('the end', () => run.missing);
  t.equal(run.world.size, 0);
});

t.test('an object that cannot be read keeps its last good version', async (t) => {
  const run = await start(t, (api) => api.put(PODS, thing('a', 'good')));
  await watching(run);
  run.api.put(PODS, { ...thing('a'), value: 7 });
  run.api.put(PODS, { ...thing('never-good'), value: 7 });
  await eventually('the report', () => run.reflector.status().invalid.length === 2);
  t.equal(run.world.get('a'), 'good');
  t.match(run.log[0], 'value must be a string');
  run.api.put(PODS, thing('a', 'better'));
  run.api.remove(PODS, 'ns/never-good');
  await eventually('it is good again', () => run.world.get('a') === 'better');
  await eventually('no report', () => run.reflector.status().invalid.length === 0);
  t.notOk(
    run.told.some(({ key }) => key === 'never-good'),
    'nobody was told of it',
  );
});

t.test('what was never good is told as what stands for it, until it can be read', async (t) => {
  const run = await start(t, (api) => {
    api.put(PODS, { ...thing('a'), value: true });
    api.put(PODS, thing('b', 'good'));
  });
  await watching(run);
  t.equal(run.world.get('a'), 'stead of true');
  t.match(run.log[0], 'until it can be read it denies');
  run.api.put(PODS, { ...thing('a'), value: false });
  await eventually('the next stead', () => run.world.get('a') === 'stead of false');
  run.api.put(PODS, { ...thing('a'), value: 7 });
  await eventually('none', () => !run.world.has('a'));
  run.api.put(PODS, { ...thing('a'), value: true });
  run.api.put(PODS, { ...thing('b'), value: true });
  await eventually('the report', () => run.reflector.status().invalid.length === 2);
  t.same([run.world.get('a'), run.world.get('b')], ['stead of true', 'good']);
  run.api.put(PODS, { ...thing('b'), value: null });
  await eventually('one that replaces', () => run.world.get('b') === 'stead of null');
  run.api.put(PODS, thing('a', 'better'));
  await eventually('it is good', () => run.world.get('a') === 'better');
  run.api.remove(PODS, 'ns/a');
  await eventually('it is gone', () => !run.world.has('a'));
});

t.test('what the receiver throws is contained', async (t) => {
  let throws = true;
  const run = await start(
    t,
    (api) => api.put(PODS, thing('a')),
    () => {
      if (throws) throw new Error('the receiver failed');
    },
  );
  await watching(run);
  throws = false;
  run.api.put(PODS, thing('b'));
  await eventually('the next change', () => run.world.has('b'));
  t.match(run.log[0], 'Changes could not be taken');
});

t.test('lines are the same however the bytes arrive', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ minLength: 1, unit: 'grapheme' }).filter((s) => !s.includes('\n'))),
      fc.array(fc.nat({ max: 20 })),
      (lines, cuts) => {
        const reader = createLineReader();
        let text = lines.map((line) => `${line}\n`).join('');
        const got: string[] = [];
        for (const cut of cuts) {
          got.push(...reader.take(text.slice(0, cut)));
          text = text.slice(cut);
        }
        got.push(...reader.take(text));
        return JSON.stringify(got) === JSON.stringify(lines);
      },
    ),
    { numRuns: 200 },
  );
  t.throws(() => {
    const reader = createLineReader();
    for (let i = 0; i < 40; i++) reader.take('x'.repeat(1_000_000));
  }, /longer than/);
  t.end();
});
