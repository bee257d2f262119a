import fc from 'fast-check';
import t from 'tap';

import type { IpAddress } from '../../src/core/address.ts';
import type { Service, ServiceKey, Workload } from '../../src/core/workload.ts';
import type { NodeState } from '../../src/state/contract.ts';
import { at, ip, key, NETWORK, service, stateWith, workload } from './build.ts';

const ADDRESSES = ['10.1.0.1', '10.1.0.2', '10.1.0.3', 'fd00::1', '10.96.0.1'];
const SERVICES = ['cart', 'web'];
const client = workload('client');

const anyWorkload: fc.Arbitrary<Workload> = fc
  .record({
    name: fc.constantFrom('a', 'b', 'c', 'd'),
    addresses: fc.array(fc.constantFrom(...ADDRESSES), { maxLength: 2 }),
    services: fc.uniqueArray(fc.constantFrom(...SERVICES), { maxLength: 2 }),
    healthy: fc.boolean(),
    hostNetwork: fc.oneof({ weight: 5, arbitrary: fc.constant(false) }, fc.constant(true)),
    tunnelProtocol: fc.constantFrom('none' as const, 'hbone' as const),
    capacity: fc.constantFrom(0, 1, 1, 1, 5),
    hostname: fc.constantFrom('', '', 'x.example'),
  })
  .map(({ name, ...fields }) => workload(name, fields));
const anyService: fc.Arbitrary<Service> = fc
  .record({
    name: fc.constantFrom(...SERVICES),
    vips: fc.array(
      fc.constantFrom('10.96.0.1', '10.1.0.3', '10.96.0.0/16', '0.0.0.0/0', 'fd00::/8'),
      {
        maxLength: 2,
      },
    ),
    canonical: fc.boolean(),
  })
  .map(({ name, ...fields }) => service(name, fields));

type Step =
  | { readonly put: Workload }
  | { readonly putService: Service }
  | { readonly remove: string };
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: anyWorkload.map((put) => ({ put })) },
  { weight: 2, arbitrary: anyService.map((putService) => ({ putService })) },
  {
    weight: 2,
    arbitrary: fc
      .constantFrom(
        ...['a', 'b', 'c', 'd'].map((name) => workload(name).uid),
        ...SERVICES.map((n) => key(n)),
      )
      .map((remove) => ({ remove })),
  },
);

/** The naive model: two maps, everything else searched for. */
interface Model {
  readonly workloads: Map<string, Workload>;
  readonly services: Map<ServiceKey, Service>;
}

function applyToModel(model: Model, change: Step): void {
  if ('put' in change) model.workloads.set(change.put.uid, change.put);
  else if ('putService' in change) model.services.set(change.putService.key, change.putService);
  else {
    model.workloads.delete(change.remove);
    model.services.delete(change.remove as ServiceKey);
  }
}

function applyToState(state: NodeState, change: Step): void {
  if ('put' in change) state.applyAddresses({ workloads: [change.put] });
  else if ('putService' in change) state.applyAddresses({ services: [change.putService] });
  else state.applyAddresses({ removed: [change.remove] });
}

function ownerInModel(model: Model, address: IpAddress): string | undefined {
  const claims = [...model.workloads.values()].filter(
    (entry) => !entry.hostNetwork && entry.addresses.includes(address),
  );
  const score = (entry: Workload): string =>
    `${entry.tunnelProtocol === 'hbone' ? 0 : 1}${entry.healthy ? 0 : 1}${entry.uid}`;
  return claims.toSorted((a, b) => (score(a) < score(b) ? -1 : 1))[0]?.uid;
}

function endpointsInModel(model: Model, name: ServiceKey): string[] {
  const named = [...model.workloads.values()].filter((entry) => entry.services.has(name));
  return named.map((entry) => entry.uid).toSorted();
}

/** Throws what differs. */
function compare(state: NodeState, model: Model): void {
  const fail = (what: string): never => {
    throw new Error(`State and model differ: ${what}`);
  };
  if (state.workloads.size !== model.workloads.size) fail('number of workloads');
  if (state.services.size !== model.services.size) fail('number of services');
  for (const entry of model.workloads.values()) {
    const held = state.workloads.get(entry.uid);
    if (JSON.stringify(held) !== JSON.stringify(entry)) fail(`workload ${entry.uid}`);
  }
  for (const address of ADDRESSES) {
    const owner = state.workloads.atAddress(NETWORK, ip(address))?.uid;
    if (owner !== ownerInModel(model, ip(address))) fail(`owner of ${address}`);
  }
  for (const name of SERVICES.map((text) => key(text))) {
    const members = [...state.services.endpoints(name)].map((entry) => entry.uid).toSorted();
    if (members.join() !== endpointsInModel(model, name).join()) fail(`endpoints of ${name}`);
    const listed = model.services.get(name);
    const vip = listed?.vips.find((entry) => entry.cidr.prefixLength === 32);
    if (vip === undefined) continue;
    const owner = state.services.atAddress(NETWORK, vip.cidr.ip, 'elsewhere');
    const rivals = [...model.services.values()].filter((other) =>
      other.vips.some((v) => v.cidr.prefixLength === 32 && v.cidr.ip === vip.cidr.ip),
    );
    const first = rivals.toSorted((a, b) =>
      a.canonical === b.canonical ? (a.key < b.key ? -1 : 1) : a.canonical ? -1 : 1,
    )[0];
    if (owner !== first) fail(`service at ${vip.cidr.ip}`);
    comparePicks(state, model, owner, vip.cidr.ip, fail);
  }
}

/** Pickers live on between the steps: what they give must be usable by the newest state. */
function comparePicks(
  state: NodeState,
  model: Model,
  owner: Service | undefined,
  vip: IpAddress,
  fail: (what: string) => never,
): void {
  const usable = [...model.workloads.values()].filter(
    (entry) =>
      owner !== undefined &&
      entry.services.has(owner.key) &&
      entry.healthy &&
      entry.capacity > 0 &&
      entry.addresses.length > 0,
  );
  const found = state.resolveDestination(at(vip), client);
  if (found.kind === 'refused') {
    if (usable.length > 0) fail(`refused although ${usable.length} endpoints are usable`);
    return;
  }
  if (found.kind !== 'endpoint') return fail(`kind ${found.kind}`);
  if (!usable.some((entry) => entry.uid === found.workload.uid))
    fail('picked an unusable endpoint');
  const all = new Set(usable.map((entry) => entry.uid));
  for (const uid of all) {
    const others = new Set(all);
    others.delete(uid);
    const only = state.resolveDestination(at(vip), client, others);
    if (only.kind !== 'endpoint' || only.workload.uid !== uid) fail(`${uid} is never picked`);
  }
}

void t.test('the indexes of the state agree with a naive model after every change', async () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const state = stateWith([]);
      const model: Model = { workloads: new Map(), services: new Map() };
      for (const change of steps) {
        applyToState(state, change);
        applyToModel(model, change);
        compare(state, model);
      }
    }),
    { numRuns: 150 },
  );
});

/** Everything that can be asked of the state about the small world above. */
function view(state: NodeState): string {
  const lines: unknown[] = [];
  for (const address of ADDRESSES) {
    lines.push(state.workloads.atAddress(NETWORK, ip(address))?.uid);
    for (const namespace of ['shop', 'bank']) {
      lines.push(state.services.atAddress(NETWORK, ip(address), namespace)?.key);
    }
  }
  for (const name of SERVICES) {
    lines.push([...state.services.endpoints(key(name))].map((entry) => entry.uid).toSorted());
  }
  const held = [...state.workloads.all()].toSorted((a, b) => (a.uid < b.uid ? -1 : 1));
  const services = [...state.services.all()].toSorted((a, b) => (a.key < b.key ? -1 : 1));
  return JSON.stringify([lines, held, services]);
}

void t.test(
  'deltas in any order between names end where the full snapshot is (T103, F07)',
  async () => {
    const world = fc.record({
      workloads: fc.uniqueArray(anyWorkload, { maxLength: 4, selector: (entry) => entry.uid }),
      services: fc.uniqueArray(anyService, { maxLength: 2, selector: (entry) => entry.key }),
    });
    fc.assert(
      fc.property(world, fc.array(step, { maxLength: 10 }), fc.nat(), (final, history, seed) => {
        const state = stateWith([]);
        for (const change of history) applyToState(state, change);
        const changes: Step[] = [
          ...final.workloads.map((put) => ({ put })),
          ...final.services.map((putService) => ({ putService })),
        ];
        const wanted = new Set<string>([
          ...final.workloads.map((entry) => entry.uid),
          ...final.services.map((entry) => entry.key),
        ]);
        for (const entry of state.workloads.all())
          if (!wanted.has(entry.uid)) changes.push({ remove: entry.uid });
        for (const entry of state.services.all())
          if (!wanted.has(entry.key)) changes.push({ remove: entry.key });
        const order = changes.map((change, index) => ({
          change,
          rank: (index * 7919 + seed) % 101,
        }));
        for (const { change } of order.toSorted((a, b) => a.rank - b.rank))
          applyToState(state, change);
        return view(state) === view(stateWith(final.workloads, final.services));
      }),
      { numRuns: 300 },
    );
  },
);
