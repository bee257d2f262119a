import fc from 'fast-check';
import t from 'tap';

import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import { Subscription, type Batch } from '../../src/discovery/subscription.ts';
import { createWireResource, type WireResource } from '../../src/discovery/wire-resource.ts';

const LIMITS = { resources: 3, bytes: 1_000_000 };
const NONE = new Map<string, string>();
const ALL = { subscribe: [], unsubscribe: [] };

const resource = (
  name: string,
  text: string = name,
  aliases: readonly string[] = [],
  groups: readonly string[] = [],
): WireResource => createWireResource(name, Buffer.from(text), aliases, groups);

function cacheOf(...resources: WireResource[]): ResourceCache {
  const cache = new ResourceCache('type');
  cache.update({ set: resources });
  return cache;
}

/** Takes until nothing is pending. */
function takeAll(subscription: Subscription): {
  sent: string[];
  removed: string[];
  batches: Batch[];
} {
  const batches: Batch[] = [];
  for (let batch = subscription.take(LIMITS); batch !== undefined;) {
    batches.push(batch);
    batch = subscription.take(LIMITS);
  }
  const sent = batches.flatMap(({ resources }) => resources.map(({ name }) => name)).toSorted();
  return { sent, removed: batches.flatMap(({ removed }) => removed).toSorted(), batches };
}

const onDemand = (...names: string[]): { subscribe: string[]; unsubscribe: string[] } => ({
  subscribe: names.length === 0 ? ['*'] : names,
  unsubscribe: names.length === 0 ? ['*'] : [],
});

void t.test('Subscription without names means everything, in bounded batches', async (t) => {
  const cache = cacheOf(...'abcdefg'.split('').map((name) => resource(name)));
  const all = takeAll(new Subscription(cache, ALL, NONE));
  t.same(all.sent, 'abcdefg'.split(''));
  t.ok(all.batches.every(({ resources }) => resources.length <= 3));
  t.same(
    all.batches.map(({ partial }) => partial),
    [...all.batches.slice(1).map(() => true), false],
    'only the last is complete',
  );
});

void t.test('Subscription is answered once even when there is nothing', async (t) => {
  for (const first of [ALL, onDemand()]) {
    const { batches } = takeAll(new Subscription(cacheOf(), first, NONE));
    t.same(batches, [{ resources: [], removed: [], partial: false }]);
  }
});

void t.test('Subscription resends nothing that the client holds', async (t) => {
  const [a, b] = [resource('a'), resource('b')];
  const held = new Map([
    ['a', a.version],
    ['b', 'old'],
    ['gone', 'x'],
  ]);
  const cache = cacheOf(a, b, resource('c'));
  const wildcard = takeAll(new Subscription(cache, ALL, held));
  t.match(wildcard, { sent: ['b', 'c'], removed: ['gone'] });
  const named = takeAll(new Subscription(cache, onDemand('a', 'b'), held));
  t.match(named, { sent: ['b'], removed: ['gone'] });
  const gaveUp = takeAll(new Subscription(cache, onDemand('b'), held));
  t.match(gaveUp, { sent: ['b'], removed: ['a', 'gone'] });
});

void t.test('Subscription to nothing, then to names, as ztunnel on demand', async (t) => {
  const cache = cacheOf(
    resource('ns/svc', '', ['net/10.0.0.1']),
    resource('pod-1', '', ['net/10.1.0.1'], ['ns/svc']),
    resource('pod-2', '', ['net/10.1.0.2'], ['ns/svc']),
    resource('other', '', ['net/10.1.0.3']),
  );
  const subscription = new Subscription(cache, onDemand(), NONE);
  t.match(takeAll(subscription), { sent: [], removed: [] });
  subscription.change({ subscribe: ['net/10.1.0.3', 'net/10.9.9.9'], unsubscribe: [] });
  t.match(takeAll(subscription), { sent: ['other'], removed: ['net/10.9.9.9'] });
  subscription.change({ subscribe: ['net/10.0.0.1'], unsubscribe: [] });
  t.match(takeAll(subscription), { sent: ['ns/svc', 'pod-1', 'pod-2'], removed: [] });
  t.equal(subscription.pending, false);
});

void t.test('Subscription follows what its names select', async (t) => {
  const cache = cacheOf(resource('ns/svc', '', ['net/10.0.0.1']));
  cache.onChange((names) => void subscription.markChanged(names));
  const subscription = new Subscription(cache, onDemand('net/10.0.0.1', 'net/10.1.0.7'), NONE);
  t.match(takeAll(subscription), { sent: ['ns/svc'], removed: ['net/10.1.0.7'] });
  cache.update({ set: [resource('pod-1', '', ['net/10.1.0.1'], ['ns/svc'])] });
  t.match(takeAll(subscription), { sent: ['pod-1'], removed: [] }, 'a new endpoint');
  cache.update({ set: [resource('stranger', '', ['net/10.1.0.9'])] });
  t.equal(subscription.pending, false, 'not concerned');
  cache.update({ set: [resource('late', '', ['net/10.1.0.7'])] });
  t.match(takeAll(subscription), { sent: ['late'], removed: [] }, 'appeared later');
  cache.update({ set: [resource('pod-1', 'moved', ['net/10.1.0.1'], [])] });
  t.match(takeAll(subscription), { sent: [], removed: ['pod-1'] }, 'left the service');
  cache.update({ removed: ['late'] });
  t.match(takeAll(subscription), { sent: [], removed: ['late'] });
  subscription.change({ subscribe: [], unsubscribe: ['net/10.0.0.1'] });
  cache.update({ removed: ['ns/svc'] });
  t.equal(subscription.pending, false, 'given up');
});

void t.test(
  'Subscription brings the members of a service that gets its address later',
  async (t) => {
    const cache = cacheOf(resource('ns/svc'), resource('pod-1', '', [], ['ns/svc']));
    const subscription = new Subscription(cache, onDemand('net/10.0.0.1'), NONE);
    cache.onChange((names) => void subscription.markChanged(names));
    t.match(takeAll(subscription), { sent: [], removed: ['net/10.0.0.1'] });
    cache.update({ set: [resource('ns/svc', 'new', ['net/10.0.0.1'])] });
    t.match(takeAll(subscription), { sent: ['ns/svc', 'pod-1'], removed: [] });
    cache.update({ set: [resource('ns/svc', 'newer', [])] });
    t.match(takeAll(subscription), { sent: [], removed: ['ns/svc', 'pod-1'] });
  },
);

void t.test('Subscription changes between wildcard and names', async (t) => {
  const cache = cacheOf(resource('a'), resource('b'));
  const subscription = new Subscription(cache, ALL, NONE);
  takeAll(subscription);
  subscription.change({ subscribe: ['a'], unsubscribe: ['*'] });
  t.equal(subscription.wildcard, false);
  t.same(takeAll(subscription).sent, ['a']);
  subscription.markChanged(['b']);
  t.equal(subscription.pending, false);
  subscription.change({ subscribe: ['*'], unsubscribe: [] });
  t.same(takeAll(subscription).sent, ['a', 'b']);
});

void t.test('Subscription merges changes and bounds what waits (C109)', async (t) => {
  const cache = cacheOf(resource('a'));
  const subscription = new Subscription(cache, ALL, NONE);
  cache.onChange((names) => void subscription.markChanged(names));
  takeAll(subscription);
  for (let round = 0; round < 1_000; round++) cache.update({ set: [resource('a', `v${round}`)] });
  const { batches } = takeAll(subscription);
  t.equal(batches.length, 1);
  t.same(batches[0]?.resources, [cache.get('a')], 'only the last state');
  for (let round = 0; round < 11_000; round++) {
    cache.update({ set: [resource(`pod-${round}`)], removed: [`pod-${round - 1}`] });
  }
  t.equal(subscription.overflowed, true);
});

/** What a client has after applying everything it was sent. */
class Model {
  readonly held = new Map<string, string>();

  apply(subscription: Subscription, count: number): void {
    for (let round = 0; round < count; round++) {
      const batch = subscription.take(LIMITS);
      for (const { name, version } of batch?.resources ?? []) this.held.set(name, version);
      for (const name of batch?.removed ?? []) this.held.delete(name);
    }
  }
}

void t.test('Subscription converges after any updates, batches and reconnects', async () => {
  const keys = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('set' as const),
      name: fc.constantFrom(...keys),
      text: fc.string({ maxLength: 1 }),
      aliases: fc.uniqueArray(fc.constantFrom('x', 'y'), { maxLength: 2 }),
      groups: fc.uniqueArray(fc.constantFrom('a', 'b', 'y'), { maxLength: 2 }),
    }),
    fc.record({ kind: fc.constant('remove' as const), name: fc.constantFrom(...keys) }),
    fc.record({ kind: fc.constant('take' as const), count: fc.nat({ max: 3 }) }),
    fc.record({ kind: fc.constant('reconnect' as const) }),
  );
  const wanted = fc.constantFrom(ALL, onDemand('x'), onDemand('a', 'y'), onDemand('nobody'));
  fc.assert(
    fc.property(wanted, fc.array(step, { maxLength: 40 }), (first, steps) => {
      const cache = new ResourceCache('type');
      const model = new Model();
      let subscription = new Subscription(cache, first, NONE);
      cache.onChange((names) => void subscription.markChanged(names));
      for (const one of steps) {
        if (one.kind === 'set') {
          const text = `${one.text}${one.aliases.join()}${one.groups.join()}`;
          cache.update({ set: [resource(one.name, text, one.aliases, one.groups)] });
        } else if (one.kind === 'remove') cache.update({ removed: [one.name] });
        else if (one.kind === 'take') model.apply(subscription, one.count);
        else subscription = new Subscription(cache, first, new Map(model.held));
      }
      model.apply(subscription, 100);
      const names = new Set(
        first === ALL ? cache.names() : first.subscribe.flatMap((key) => [...cache.lookup(key)]),
      );
      if (subscription.pending || model.held.size !== names.size) return false;
      return [...names].every((name) => model.held.get(name) === cache.get(name)?.version);
    }),
    { numRuns: 2_000 },
  );
});
