import t from 'tap';

import type { Balancing, BalancingScope, Service, Workload } from '../../src/core/workload.ts';
import type { NodeState } from '../../src/state/contract.ts';
import { at, service, stateWith, workload, type WorkloadFields } from './build.ts';

const client = workload('client', { addresses: ['10.1.0.1'] });
const VIP = at('10.96.0.1');

let nextAddress = 2;
const endpoint = (name: string, fields: WorkloadFields = {}): Workload =>
  workload(name, { addresses: [`10.1.1.${nextAddress++ % 250}`], services: ['cart'], ...fields });

const cart = (
  mode: Balancing['mode'] = 'UNSPECIFIED',
  preference: BalancingScope[] = [],
): Service =>
  service('cart', {
    vips: ['10.96.0.1'],
    balancing: { mode, preference, includeUnhealthy: false },
  });

function pick(state: NodeState, exclude: string[] = []): Workload | undefined {
  const found = state.resolveDestination(VIP, client, new Set(exclude));
  return found.kind === 'endpoint' ? found.workload : undefined;
}

/** How often each name is picked, connections ending at once or staying open. */
function picks(state: NodeState, rounds: number, hold: boolean): Map<string, number> {
  const counts = new Map<string, number>();
  for (let round = 0; round < rounds; round++) {
    const name = pick(state);
    if (name === undefined) continue;
    counts.set(name.name, (counts.get(name.name) ?? 0) + 1);
    const handle = state.beginConnection(name.uid);
    if (!hold) handle.end();
  }
  return counts;
}

void t.test('balancing spreads idle picks evenly', async (t) => {
  const names = ['a', 'b', 'c', 'd', 'e'];
  const state = stateWith([client, ...names.map((name) => endpoint(name))], [cart()]);
  const counts = picks(state, 5000, false);
  for (const name of names) {
    const count = counts.get(name) ?? 0;
    t.ok(count > 880 && count < 1120, `${name}: ${count} of about 1000`);
  }
});

void t.test('balancing keeps held connections level: least loaded of two', async (t) => {
  const names = Array.from({ length: 20 }, (_, index) => `e${index}`);
  const state = stateWith([client, ...names.map((name) => endpoint(name))], [cart()]);
  const counts = [...picks(state, 2000, true).values()];
  t.ok(
    Math.max(...counts) - Math.min(...counts) <= 12,
    `${Math.min(...counts)} to ${Math.max(...counts)}`,
  );
});

void t.test('balancing of two endpoints always takes the emptier one', async (t) => {
  const [a, b] = [endpoint('a'), endpoint('b')];
  const state = stateWith([client, a, b], [cart()]);
  const held = [1, 2, 3].map(() => state.beginConnection(a.uid));
  for (let round = 0; round < 50; round++) t.equal(pick(state)?.name, 'b');
  for (const handle of held) handle.end();
  t.equal(picks(state, 200, false).size, 2);
});

void t.test('balancing follows capacity, idle and under load', async (t) => {
  const pods = [
    endpoint('small'),
    endpoint('big', { capacity: 3 }),
    endpoint('off', { capacity: 0 }),
  ];
  const state = stateWith([client, ...pods], [cart()]);
  for (const hold of [false, true]) {
    const counts = picks(state, 4000, hold);
    const share = (counts.get('big') ?? 0) / 4000;
    t.ok(share > 0.71 && share < 0.79, `big got ${share}`);
    t.equal(counts.get('off'), undefined);
  }
});

void t.test('balancing keeps each capacity with its endpoint when others go', async (t) => {
  const pods = [endpoint('a'), endpoint('b'), endpoint('big', { capacity: 8 })];
  const state = stateWith([client, ...pods], [cart()]);
  t.equal(picks(state, 500, false).size, 3);
  state.applyAddresses({ removed: [pods[0]!.uid] });
  const share = (picks(state, 4000, false).get('big') ?? 0) / 4000;
  t.ok(share > 0.85 && share < 0.93, `big got ${share} of about 0.89`);
});

/** Where each of many clients goes. */
function stays(state: NodeState, clients: number, exclude: string[] = []): (string | undefined)[] {
  return Array.from({ length: clients }, (_, index) => {
    const source = at(`10.2.${index >> 8}.${index & 255}`).ip;
    const found = state.resolveDestination(VIP, client, new Set(exclude), source);
    return found.kind === 'endpoint' ? found.workload.name : undefined;
  });
}

void t.test(
  'client affinity: one address, one endpoint, whatever the process and load',
  async (t) => {
    const CLIENTS = 2000;
    const sticky = { ...cart(), clientAffinity: true };
    const pods = ['a', 'b', 'c', 'd', 'e'].map((name) => endpoint(name));
    const state = stateWith([client, ...pods], [sticky]);
    const first = stays(state, CLIENTS);
    for (const pod of pods) {
      const share = first.filter((name) => name === pod.name).length / CLIENTS;
      t.ok(share > 0.16 && share < 0.24, `${pod.name}: ${share} of about 0.2`);
    }
    for (let held = 0; held < 50; held++) state.beginConnection(pods[0]!.uid);
    t.same(stays(state, CLIENTS), first, 'load moves nobody');
    const other = stateWith([client, ...pods.toReversed()], [sticky], 7);
    t.same(stays(other, CLIENTS), first, 'another process, told in another order, agrees');
    t.equal(
      picks(stateWith([client, ...pods], [cart()]), 200, false).size,
      5,
      'only when asked for',
    );

    const without = stays(state, CLIENTS, [pods[1]!.uid]);
    t.ok(without.every((name) => name !== 'b'));
    t.ok(
      without.every((name, index) => first[index] === 'b' || name === first[index]),
      'an endpoint that cannot be reached moves its own clients alone',
    );
    state.applyAddresses({ workloads: [{ ...pods[1]!, healthy: false }] });
    t.same(stays(state, CLIENTS), without, 'one that is not ready, too');
    state.applyAddresses({ workloads: [pods[1]!, endpoint('f')] });
    const more = stays(state, CLIENTS);
    t.ok(
      more.every((name, index) => name === 'f' || name === first[index]),
      'a new one takes clients from all, and nobody else moves',
    );
    const moved = more.filter((name) => name === 'f').length / CLIENTS;
    t.ok(moved > 0.13 && moved < 0.21, `${moved} of about one sixth moved`);
  },
);

void t.test('client affinity honours capacity and nearness', async (t) => {
  const near = [endpoint('small'), endpoint('big', { capacity: 3 })];
  const far = endpoint('far', { locality: { region: 'r2', zone: '', subzone: '' } });
  const sticky = { ...cart('FAILOVER', ['REGION']), clientAffinity: true };
  const found = stays(stateWith([client, ...near, far], [sticky]), 2000);
  const share = found.filter((name) => name === 'big').length / 2000;
  t.ok(share > 0.71 && share < 0.79, `big got ${share} of about 0.75`);
  t.notOk(found.includes('far'));
  t.equal(stays(stateWith([client, far], [sticky]), 1)[0], 'far');
});

void t.test('balancing by scope follows the table of hbone.md 3.4', async (t) => {
  const here = endpoint('same-node');
  const zone = endpoint('same-zone', { node: 'node2' });
  const region = endpoint('same-region', {
    node: 'node3',
    locality: { region: 'r1', zone: 'z2', subzone: '' },
  });
  // The zone has the same name in another region: leading scopes only.
  const away = endpoint('away', {
    node: 'node4',
    clusterId: 'cluster2',
    locality: { region: 'r2', zone: 'z1', subzone: '' },
  });
  const close: BalancingScope[] = ['NETWORK', 'REGION', 'ZONE'];
  const node: BalancingScope[] = [...close, 'SUBZONE', 'NODE'];
  const cases: [string, Balancing['mode'], BalancingScope[], Workload[], string[]][] = [
    [
      'no mode',
      'UNSPECIFIED',
      close,
      [here, zone, region, away],
      ['away', 'same-node', 'same-region', 'same-zone'],
    ],
    ['PreferClose', 'FAILOVER', close, [here, zone, region, away], ['same-node', 'same-zone']],
    ['PreferClose without zone', 'FAILOVER', close, [region, away], ['same-region']],
    ['PreferClose, only away', 'FAILOVER', close, [away], ['away']],
    ['PreferSameNode', 'FAILOVER', node, [here, zone, region, away], ['same-node']],
    ['PreferSameNode without node', 'FAILOVER', node, [zone, region, away], ['same-zone']],
    ['Local', 'STRICT', ['NODE'], [here, zone, region, away], ['same-node']],
    ['Local without node', 'STRICT', ['NODE'], [zone, region, away], []],
    ['STRICT cluster', 'STRICT', ['CLUSTER'], [away], []],
    ['unknown scope', 'STRICT', ['UNSPECIFIED'], [here], []],
    [
      'unknown scope first',
      'FAILOVER',
      ['UNSPECIFIED', 'NODE'],
      [here, away],
      ['away', 'same-node'],
    ],
  ];
  for (const [what, mode, preference, pods, expected] of cases) {
    const state = stateWith([client, ...pods], [cart(mode, preference)]);
    t.same([...picks(state, 200, false).keys()].toSorted(), expected, what);
  }
});

void t.test('balancing fails over to the next rank when the near ones failed', async (t) => {
  const near = endpoint('near');
  const far = endpoint('far', { locality: { region: 'r2', zone: '', subzone: '' } });
  const state = stateWith([client, near, far], [cart('FAILOVER', ['REGION'])]);
  t.equal(pick(state)?.name, 'near');
  t.equal(pick(state, [near.uid])?.name, 'far');
  t.equal(pick(state, [near.uid, far.uid]), undefined);
});

void t.test('balancing finds the one endpoint that is not excluded among many', async (t) => {
  const pods = Array.from({ length: 200 }, (_, index) => endpoint(`e${index}`));
  const state = stateWith([client, ...pods], [cart()]);
  const tried = pods.slice(0, -1).map((pod) => pod.uid);
  t.equal(pick(state, tried)?.name, 'e199');
});

void t.test('balancing follows changes of endpoints and of the service at once', async (t) => {
  const [a, b] = [endpoint('a'), endpoint('b')];
  const state = stateWith([client, a, b], [cart()]);
  t.equal(picks(state, 100, false).size, 2);
  state.applyAddresses({ workloads: [{ ...a, healthy: false }] });
  t.same([...picks(state, 50, false).keys()], ['b']);
  state.applyAddresses({ removed: [b.uid] });
  t.equal(pick(state), undefined);
  state.applyAddresses({ workloads: [a] });
  t.same([...picks(state, 50, false).keys()], ['a']);
  const open = { ...cart(), balancing: { ...cart().balancing, includeUnhealthy: true } };
  state.applyAddresses({ workloads: [{ ...a, healthy: false }], services: [open] });
  t.same([...picks(state, 50, false).keys()], ['a']);
  state.applyAddresses({ workloads: [{ ...a, services: new Map() }] });
  t.equal(pick(state), undefined);
  state.applyAddresses({ removed: [open.key] });
  t.equal(state.resolveDestination(VIP, client).kind, 'passthrough');
});

void t.test(
  'beginConnection counts each connection once, also across a return of the workload',
  async (t) => {
    const a = endpoint('a');
    const state = stateWith([client, a], [cart()]);
    const one = state.beginConnection(a.uid);
    const two = state.beginConnection(a.uid);
    t.equal(state.openConnections(a.uid), 2);
    one.end();
    one.end();
    t.equal(state.openConnections(a.uid), 1);
    state.applyAddresses({ removed: [a.uid] });
    t.equal(state.openConnections(a.uid), 1);
    state.applyAddresses({ workloads: [a] });
    t.equal(state.openConnections(a.uid), 1);
    two.end();
    t.equal(state.openConnections(a.uid), 0);
    const three = state.beginConnection(a.uid);
    state.applyAddresses({ removed: [a.uid] });
    three.end();
    t.equal(state.openConnections(a.uid), 0);
    state.beginConnection('nobody').end();
  },
);
