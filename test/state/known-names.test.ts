import t from 'tap';

import type { Demand } from '../../src/state/contract.ts';
import { at, emptyState, gatewayService, key, service, workload, type TestState } from './build.ts';

const client = workload('client', { addresses: ['10.1.0.1'] });

interface Recorder extends Demand {
  readonly subscribed: string[];
  readonly unsubscribed: string[];
}

function recorder(): Recorder {
  const subscribed: string[] = [];
  const unsubscribed: string[] = [];
  return {
    subscribed,
    unsubscribed,
    subscribe: (names) => void subscribed.push(...names),
    unsubscribe: (names) => void unsubscribed.push(...names),
  };
}

function onDemand(): TestState & { demand: Recorder } {
  const demand = recorder();
  return { ...emptyState(demand), demand };
}

/** Whether a promise is settled by now. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  const open = Symbol('open');
  await new Promise((resolve) => setImmediate(resolve));
  const winner = await Promise.race([promise.catch(() => 'failed'), Promise.resolve(open)]);
  return winner !== open;
}

void t.test('on demand, an unknown address is asked for once and then found', async (t) => {
  const { state, demand } = onDemand();
  const found = state.resolveDestination(at('10.1.0.2'), client);
  t.same(found, { kind: 'pending', names: ['net1/10.1.0.2'] });
  const one = state.whenKnown(['net1/10.1.0.2']);
  const two = state.whenKnown(['net1/10.1.0.2']);
  t.same(demand.subscribed, ['net1/10.1.0.2']);
  t.notOk(await settled(one));
  state.applyAddresses({ workloads: [workload('a', { addresses: ['10.1.0.2'] })] });
  await Promise.all([one, two]);
  t.match(state.resolveDestination(at('10.1.0.2'), client), { kind: 'endpoint' });
  await state.whenKnown(['net1/10.1.0.2']);
  t.equal(demand.subscribed.length, 1);
});

void t.test('on demand, "there is none" is remembered until it appears', async (t) => {
  const { state, demand } = onDemand();
  const waiting = state.whenKnown(['net1/10.1.0.2']);
  state.applyAddresses({ removed: ['net1/10.1.0.2'] });
  await waiting;
  t.match(state.resolveDestination(at('10.1.0.2'), client), { kind: 'passthrough' });
  const pod = workload('a', { addresses: ['10.1.0.2'] });
  state.applyAddresses({ workloads: [pod] });
  t.match(state.resolveDestination(at('10.1.0.2'), client), { kind: 'endpoint' });
  state.applyAddresses({ removed: [pod.uid] });
  t.match(
    state.resolveDestination(at('10.1.0.2'), client),
    { kind: 'passthrough' },
    'still subscribed',
  );
  t.equal(demand.subscribed.length, 1);
});

void t.test(
  'on demand, the end of something never asked for is not "there is none" (T47)',
  async (t) => {
    const { state } = onDemand();
    const pod = workload('a', { addresses: ['10.1.0.2'], services: ['cart'] });
    state.applyAddresses({ workloads: [pod], removed: ['net1/10.1.0.9'] });
    state.applyAddresses({ removed: [pod.uid] });
    t.match(state.resolveDestination(at('10.1.0.2'), client), { kind: 'pending' });
    t.match(state.resolveDestination(at('10.1.0.9'), client), { kind: 'pending' });
  },
);

void t.test(
  'on demand, a pod that leaves an address we asked for leaves "there is none"',
  async (t) => {
    const { state } = onDemand();
    const waiting = state.whenKnown(['net1/10.1.0.2']);
    state.applyAddresses({ workloads: [workload('a', { addresses: ['10.1.0.2'] })] });
    await waiting;
    state.applyAddresses({ workloads: [workload('a', { addresses: ['10.1.0.3'] })] });
    t.match(state.resolveDestination(at('10.1.0.2'), client), { kind: 'passthrough' });
  },
);

void t.test(
  'on demand, a block answers for an address inside it only after it was asked for',
  async (t) => {
    const { state } = onDemand();
    const balancing = { preference: [], mode: 'PASSTHROUGH', includeUnhealthy: true } as const;
    const block = service('ext', { vips: ['10.0.0.0/8'], balancing });
    state.applyAddresses({ services: [block] });
    t.match(
      state.resolveDestination(at('10.1.0.2'), client),
      { kind: 'pending' },
      'a pod may be there',
    );
    const waiting = state.whenKnown(['net1/10.1.0.2']);
    state.applyAddresses({ services: [block] });
    await waiting;
    t.match(state.resolveDestination(at('10.1.0.2'), client), {
      kind: 'passthrough',
      service: { name: 'ext' },
    });
  },
);

void t.test('on demand, the waypoint of a service is asked for by name', async (t) => {
  const { state } = onDemand();
  const cart = service('cart', { vips: ['10.96.0.1'], waypoint: gatewayService('wp') });
  state.applyAddresses({ services: [cart] });
  const found = state.resolveDestination(at('10.96.0.1'), client);
  t.same(found, { kind: 'pending', names: [key('wp')] });
  const waiting = state.whenKnown([key('wp')]);
  state.applyAddresses({ removed: [key('wp')] });
  await waiting;
  t.match(state.resolveDestination(at('10.96.0.1'), client), {
    kind: 'refused',
    error: { code: 'MESH_WAYPOINT_UNAVAILABLE' },
  });
});

void t.test(
  'on demand, a removed service frees its address for asking by what was asked',
  async (t) => {
    const { state } = onDemand();
    const cart = service('cart', { vips: ['10.96.0.1'] });
    const waiting = state.whenKnown(['net1/10.96.0.1', cart.key]);
    state.applyAddresses({ services: [cart] });
    await waiting;
    state.applyAddresses({ services: [{ ...cart, vips: [] }] });
    t.match(state.resolveDestination(at('10.96.0.1'), client), { kind: 'passthrough' });
    state.applyAddresses({ services: [cart] });
    t.match(state.resolveDestination(at('10.96.0.1'), client), { kind: 'refused' });
    state.applyAddresses({ removed: [cart.key] });
    t.match(state.resolveDestination(at('10.96.0.1'), client), { kind: 'passthrough' });
  },
);

void t.test('whenKnown gives up after its time and lets the name be asked for again', async (t) => {
  const { state, clock, demand } = onDemand();
  const waiting = state.whenKnown(['net1/10.1.0.2'], { timeoutMs: 100 });
  const longer = state.whenKnown(['net1/10.1.0.2']);
  longer.catch(() => {});
  const failure = t.rejects(waiting, {
    code: 'MESH_CONFIG_UNAVAILABLE',
    flag: 'CONFIG',
    message: 'No answer about "net1/10.1.0.2" within 100 ms; is the controller reachable?',
  });
  await clock.advance(100);
  await failure;
  t.same(demand.unsubscribed, [], 'somebody else waits still');
  await clock.advance(5_000);
  await t.rejects(longer, { code: 'MESH_CONFIG_UNAVAILABLE' });
  t.same(demand.unsubscribed, ['net1/10.1.0.2']);
  const again = state.whenKnown(['net1/10.1.0.2']);
  t.equal(demand.subscribed.length, 2);
  state.applyAddresses({ removed: ['net1/10.1.0.2'] });
  await again;
  t.equal(clock.pendingCount(), 0);
});

void t.test('whenKnown ends with the reason of its signal', async (t) => {
  const { state, clock } = onDemand();
  const controller = new AbortController();
  const waiting = state.whenKnown(['net1/10.1.0.2'], { signal: controller.signal });
  controller.abort(new Error('client went away'));
  await t.rejects(waiting, { message: 'client went away' });
  await t.rejects(state.whenKnown(['net1/10.1.0.2'], { signal: controller.signal }));
  t.equal(clock.pendingCount(), 0);
});

void t.test('whenKnown refuses when too many wait', async (t) => {
  const { state } = onDemand();
  const waits = Array.from({ length: 4096 }, () => state.whenKnown(['net1/10.1.0.2']));
  await t.rejects(state.whenKnown(['net1/10.1.0.2']), {
    code: 'MESH_LIMIT_EXCEEDED',
    flag: 'LIMIT',
  });
  state.applyAddresses({ removed: ['net1/10.1.0.2'] });
  await Promise.all(waits);
});

void t.test(
  'a pod that scans addresses cannot fill the memory: the oldest answers go',
  async (t) => {
    const { state, demand } = onDemand();
    const name = (index: number): string => `net1/11.0.${index >> 8}.${index & 255}`;
    for (let index = 0; index < 16_400; index++) {
      const waiting = state.whenKnown([name(index)]);
      state.applyAddresses({ removed: [name(index)] });
      await waiting;
    }
    t.equal(demand.unsubscribed.length, 16);
    t.same(demand.unsubscribed[0], name(0));
    t.match(state.resolveDestination(at('11.0.0.0'), client), { kind: 'pending' });
    t.match(state.resolveDestination(at('11.0.0.255'), client), { kind: 'passthrough' });
  },
);

void t.test('without demand, waiting means waiting for the first snapshot', async (t) => {
  const { state } = emptyState();
  const waiting = state.whenKnown([]);
  t.notOk(await settled(waiting));
  state.applyAddresses({ workloads: [client] });
  t.notOk(await settled(waiting));
  state.markAddressesSynced();
  await waiting;
  t.equal(state.addressesSynced, true);
  await state.whenKnown([]);
});
