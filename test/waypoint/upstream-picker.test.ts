/** Balancing: each algorithm's shares, nearness and its spill-over, sticking, slow start, retries elsewhere. */

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import {
  DEFAULT_BALANCING,
  DEFAULT_OUTLIERS,
  type BalancingSettings,
} from '../../src/core/traffic-policy.ts';
import type { Service, Workload } from '../../src/core/workload.ts';
import { hashText } from '../../src/base/hash.ts';
import { OutlierDetector } from '../../src/waypoint/outlier-detector.ts';
import { UpstreamPicker } from '../../src/waypoint/upstream-picker.ts';
import { UpstreamSet } from '../../src/waypoint/upstream-set.ts';
import { port, service, workload, type WorkloadFields } from '../state/build.ts';

interface Rig {
  readonly clock: FakeClock;
  readonly picker: UpstreamPicker;
  readonly outliers: OutlierDetector;
  readonly set: UpstreamSet;
  readonly replace: (workloads: readonly Workload[], service?: Service) => void;
  /** Names picked in `count` draws, each with how often. */
  readonly shares: (count: number, hash?: (index: number) => number) => Record<string, number>;
}

const cart = service('cart', { ports: [port(80, 8080)] });
const near = { region: 'r1', zone: 'z1', subzone: '' };
const far = { region: 'r1', zone: 'z2', subzone: '' };
const remote = { region: 'r2', zone: 'z9', subzone: '' };

function pods(names: readonly string[], fields: WorkloadFields = {}): Workload[] {
  return names.map((name, index) =>
    workload(name, { addresses: [`10.0.0.${index + 1}`], services: ['cart'], ...fields }),
  );
}

function rig(settings: Partial<BalancingSettings>, start: readonly Workload[], of = cart): Rig {
  const clock = createFakeClock();
  let members = start;
  let version = 1;
  let current = of;
  const all: BalancingSettings = { ...DEFAULT_BALANCING, ...settings };
  const source = {
    get: () => current,
    endpoints: () => members,
    endpointsVersion: () => version,
  };
  const random = createSeededRandom(5);
  const outliers = new OutlierDetector(DEFAULT_OUTLIERS, random, {
    ejected: () => {},
    returned: () => {},
  });
  const set = new UpstreamSet(cart.key, 80, source, workload('waypoint'), all.zone);
  const picker = new UpstreamPicker(set, outliers, all, random, clock);
  return {
    clock,
    picker,
    outliers,
    set,
    replace(workloads, changed = current) {
      members = workloads;
      current = changed;
      version += 1;
    },
    shares(count, hash) {
      const found: Record<string, number> = {};
      for (let index = 0; index < count; index++) {
        const name = picker.pick(hash?.(index), new Set())?.endpoint.workload.name ?? 'nobody';
        found[name] = (found[name] ?? 0) + 1;
      }
      return found;
    },
  };
}

const fail = ({ outliers }: Rig, ...names: string[]): void => {
  for (const name of names) {
    const uid = workload(name).uid;
    for (let i = 0; i < 7; i++) outliers.report(uid, 'in', false, 0);
  }
};
const about = (found: number | undefined, wanted: number): boolean =>
  Math.abs((found ?? 0) - wanted) < wanted * 0.1;

t.test('round robin gives each its turn, and shares by capacity', async (t) => {
  const even = rig({ algorithm: 'round-robin' }, pods(['a', 'b', 'c']));
  t.strictSame(even.shares(300), { a: 100, b: 100, c: 100 });
  const [a = workload('a')] = pods(['a']);
  const uneven = rig({ algorithm: 'round-robin' }, [...pods(['b']), { ...a, capacity: 3 }]);
  const shares = uneven.shares(400);
  t.ok(Math.abs((shares['a'] ?? 0) - 300) <= 2, 'evenly spread, not only on average');
});

t.test('random draws by capacity', async (t) => {
  const [a = workload('a')] = pods(['a']);
  const { shares } = rig({ algorithm: 'random' }, [...pods(['b']), { ...a, capacity: 3 }]);
  t.ok(about(shares(10_000)['a'], 7_500));
});

t.test('least request: the idle one of two', async (t) => {
  const { picker, set, shares } = rig({ algorithm: 'least-request' }, pods(['a', 'b', 'c']));
  picker.pick(undefined, new Set());
  for (const endpoint of set.tiers[0]?.endpoints ?? []) {
    endpoint.active = endpoint.workload.name === 'b' ? 0 : 5;
  }
  t.ok((shares(900)['b'] ?? 0) > 450, 'whenever it is among the two');
});

t.test('peak EWMA avoids the slow one at once, and comes back to it as time passes', async (t) => {
  const { picker, set, clock, shares } = rig({ algorithm: 'peak-ewma' }, pods(['a', 'b']));
  picker.pick(undefined, new Set());
  for (const endpoint of set.tiers[0]?.endpoints ?? []) {
    endpoint.observe(endpoint.workload.name === 'a' ? 500 : 10, clock.nowMs());
  }
  t.strictSame(shares(100), { b: 100 });
  await clock.advance(100_000);
  t.ok((shares(1_000)['a'] ?? 0) > 300, 'the estimates have faded to the floor');
});

t.test(
  'peak EWMA: a peak counts at once, better news slowly, an idle estimate fades',
  async (t) => {
    const { picker, set } = rig({}, pods(['a']));
    picker.pick(undefined, new Set());
    const endpoint = set.tiers[0]?.endpoints[0];
    if (endpoint === undefined) throw new Error('No endpoint');
    t.equal(endpoint.ewmaLoad(0), 30, 'initial');
    endpoint.observe(200, 0);
    t.equal(endpoint.ewmaLoad(0), 200);
    endpoint.observe(100, 1_000);
    const after = endpoint.ewmaLoad(1_000);
    t.ok(after > 180 && after < 200, `${after}`);
    t.ok(Math.abs(endpoint.ewmaLoad(11_000) - after / Math.E) < 0.001);
    t.equal(endpoint.ewmaLoad(1e9), 1, 'never below the floor');
    endpoint.active = 3;
    t.equal(endpoint.ewmaLoad(1e9), 4);
  },
);

t.test('hashing sticks, moves little when one comes, and avoids who is out', async (t) => {
  const mesh = rig({ algorithm: 'consistent-hash' }, pods(['a', 'b', 'c', 'd']));
  const owner = (user: number) =>
    mesh.picker.pick(hashText(`user-${user}`, 1), new Set())?.endpoint.workload.name;
  const before = Array.from({ length: 1_000 }, (_, user) => owner(user));
  t.strictSame(
    Array.from({ length: 1_000 }, (_, user) => owner(user)),
    before,
  );
  mesh.replace(pods(['a', 'b', 'c', 'd', 'e']));
  t.strictSame(
    Array.from({ length: 1_000 }, (_, user) => owner(user)),
    before,
    'still',
  );
  await mesh.clock.advance(0);
  const grown = Array.from({ length: 1_000 }, (_, user) => owner(user));
  const moved = grown.filter((name, user) => name !== before[user]);
  t.ok(moved.length < 300 && moved.length > 100, `${moved.length} of 1,000 moved`);
  t.ok(moved.filter((name) => name === 'e').length > moved.length * 0.6);
  fail(mesh, 'a');
  const without = Array.from({ length: 1_000 }, (_, user) => owner(user));
  t.notOk(without.includes('a'));
  t.strictSame(
    without.filter((_, user) => grown[user] !== 'a'),
    grown.filter((name) => name !== 'a'),
    'nobody else moves',
  );
  await mesh.clock.advance(2_000);
  const user = grown.indexOf('a');
  t.equal(owner(user), 'a', 'its own client probes it');
  t.not(owner(user), 'a', 'once');
});

t.test('a retry goes elsewhere while there is another', async (t) => {
  for (const algorithm of ['round-robin', 'random', 'least-request', 'peak-ewma'] as const) {
    const { picker } = rig({ algorithm }, pods(['a', 'b']));
    const exclude = new Set([workload('a').uid]);
    const names = Array.from({ length: 50 }, () => picker.pick(undefined, exclude));
    t.ok(
      names.every((picked) => picked?.endpoint.workload.name === 'b'),
      algorithm,
    );
    const both = new Set([workload('a').uid, workload('b').uid]);
    t.ok(picker.pick(undefined, both), 'one that failed is better than none');
  }
});

t.test(
  'without trafficDistribution all zones are one; with it, or by policy, the near ones come first',
  async (t) => {
    const members = [
      ...pods(['a', 'b'], { locality: near }),
      ...pods(['c', 'd'], { locality: far }),
      ...pods(['e'], { locality: remote }),
    ];
    t.equal(Object.keys(rig({ algorithm: 'round-robin' }, members).shares(500)).length, 5);
    const preferring = rig({ algorithm: 'round-robin', zone: 'prefer' }, members);
    t.strictSame(preferring.shares(100), { a: 50, b: 50 });
    const distributed = service('cart', {
      ports: [port(80, 8080)],
      balancing: { mode: 'FAILOVER', preference: ['REGION', 'ZONE'], includeUnhealthy: false },
    });
    t.strictSame(rig({ algorithm: 'round-robin' }, members, distributed).shares(100), {
      a: 50,
      b: 50,
    });
    const ignoring = rig({ algorithm: 'round-robin', zone: 'ignore' }, members, distributed);
    t.equal(Object.keys(ignoring.shares(500)).length, 5);
    const strict = service('cart', {
      ports: [port(80, 8080)],
      balancing: { mode: 'STRICT', preference: ['ZONE'], includeUnhealthy: false },
    });
    t.strictSame(rig({ zone: 'ignore' }, pods(['c'], { locality: far }), strict).shares(1), {
      nobody: 1,
    });
  },
);

t.test(
  'fewer usable near ones spill over in proportion, unready and ejected ones alike',
  async (t) => {
    const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'];
    const others = pods(['x', 'y'], { locality: far });
    const unready = (count: number): Workload[] =>
      pods(names, { locality: near }).map((pod, index) => ({ ...pod, healthy: index >= count }));
    const shareNear = ({ shares }: Rig): number => {
      const { x = 0, y = 0 } = shares(10_000);
      return 10_000 - x - y;
    };
    t.equal(
      shareNear(rig({ zone: 'prefer' }, [...unready(3), ...others])),
      10_000,
      '70 % are enough',
    );
    t.ok(about(shareNear(rig({ zone: 'prefer' }, [...unready(5), ...others])), 7_143));
    t.equal(shareNear(rig({ zone: 'prefer' }, [...unready(10), ...others])), 0);
    const ejecting = rig({ zone: 'prefer' }, [...unready(0), ...others]);
    ejecting.picker.pick(undefined, new Set());
    fail(ejecting, 'a', 'b', 'c', 'd', 'e');
    t.ok(about(shareNear(ejecting), 7_143));
  },
);

t.test('a new endpoint gets its share over the time of its slow start', async (t) => {
  for (const algorithm of ['round-robin', 'least-request'] as const) {
    const mesh = rig({ algorithm, slowStartMs: 10_000 }, pods(['a', 'b']));
    t.ok(about(mesh.shares(1_000)['a'], 500), 'those of the beginning are warm');
    mesh.replace(pods(['a', 'b', 'c']));
    const early = mesh.shares(3_000)['c'] ?? 0;
    await mesh.clock.advance(10_000);
    const late = mesh.shares(3_000)['c'] ?? 0;
    t.ok(early < late * 0.45 && late > 800, `${algorithm}: ${early}, then ${late}`);
  }
});

t.test(
  'what is known of an endpoint stays with it through changes; one that left is forgotten',
  async (t) => {
    const mesh = rig({}, pods(['a', 'b', 'c']));
    mesh.picker.pick(undefined, new Set());
    const before = mesh.set.get(workload('a').uid);
    fail(mesh, 'b');
    mesh.replace(pods(['a', 'c', 'd']));
    mesh.picker.pick(undefined, new Set());
    t.equal(mesh.set.get(workload('a').uid), before);
    t.equal(mesh.outliers.awayCount, 0);
    mesh.replace([]);
    t.equal(mesh.picker.pick(undefined, new Set()), undefined);
  },
);

t.test('any pick is a ready endpoint with the port, whatever is out or excluded', async () => {
  const member = fc.record({
    healthy: fc.boolean(),
    capacity: fc.constantFrom(0, 1, 1, 2, 7),
    locality: fc.constantFrom(near, far, remote),
    failed: fc.boolean(),
    excluded: fc.boolean(),
  });
  const algorithm = fc.constantFrom(
    ...(['round-robin', 'random', 'least-request', 'peak-ewma', 'consistent-hash'] as const),
  );
  fc.assert(
    fc.property(
      fc.array(member, { maxLength: 8 }),
      algorithm,
      fc.nat(),
      (members, algorithm, hash) => {
        const all = members.map(({ healthy, capacity, locality }, index) =>
          workload(`p${index}`, {
            addresses: [`10.0.0.${index + 1}`],
            services: ['cart'],
            healthy,
            capacity,
            locality,
          }),
        );
        const mesh = rig({ algorithm, zone: 'prefer' }, all);
        mesh.picker.pick(hash, new Set());
        for (const [index, { failed }] of members.entries()) if (failed) fail(mesh, `p${index}`);
        const uids = new Set(
          all.filter((_, index) => members[index]?.excluded).map(({ uid }) => uid),
        );
        const usable = all.filter(({ healthy, capacity }) => healthy && capacity > 0);
        const picked = mesh.picker.pick(hash, uids)?.endpoint.workload;
        if (usable.length === 0) return picked === undefined;
        if (picked === undefined || !usable.includes(picked)) return false;
        const free = usable.filter(({ uid }) => !uids.has(uid) && !mesh.outliers.isAway(uid));
        return free.length === 0 || !uids.has(picked.uid);
      },
    ),
    { numRuns: 150 },
  );
});
