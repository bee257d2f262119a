/** The index answers the same however the objects came, and its work is bounded by what changed. */

import fc from 'fast-check';
import t from 'tap';

import type { MeshObject, ObjectKind } from '../../src/controlplane/objects.ts';
import { Model, namespace, node, own, pod, service, slice, type Json } from './build.ts';

const NAMESPACES = ['shop', 'other'];
const labels = fc.record({ app: fc.constantFrom('web', 'db') }, { requiredKeys: [] });
const selector = labels.map((matchLabels): Json => ({ ...matchLabels }));
const space = fc.constantFrom(...NAMESPACES);
const name = fc.constantFrom('a', 'b', 'c');
const path = fc.tuple(space, name).map((parts) => parts.join('/'));
const mesh = fc.constantFrom('enabled', 'disabled', '');
const address = fc.integer({ min: 1, max: 4 }).map((last) => `10.0.0.${last}`);

const anyObject: fc.Arbitrary<MeshObject> = fc.oneof(
  fc.tuple(space, mesh).map(([ns, word]) => namespace(ns, { 'nodemesh.dev/mesh': word })),
  fc
    .record({
      at: path,
      uid: fc.constantFrom('1', '2'),
      labels,
      node: fc.constantFrom('node-a', 'node-b'),
      ips: fc.uniqueArray(address, { maxLength: 2 }),
      phase: fc.constantFrom('Pending', 'Running', 'Running', 'Succeeded'),
      hostNetwork: fc.boolean(),
      minute: fc.integer({ min: 10, max: 59 }),
    })
    .map(({ at, uid, minute, ...shape }) => {
      // Age decides who has an address, so two pods of one age would let the order decide.
      const created = `2026-01-01T00:${minute}:${10 + NAMESPACES.indexOf(at.split('/')[0] ?? '')}.${'abc'.indexOf(at.at(-1) ?? '')}00Z`;
      return pod(at, {
        ...shape,
        labels: { ...shape.labels },
        uid: `${at.replace('/', '-')}-${uid}`,
        created,
      });
    }),
  fc
    .tuple(path, selector, fc.boolean())
    .map(([at, matching, selects]) =>
      service(at, { ports: [{ port: 80 }], ...(selects ? { selector: matching } : {}) }),
    ),
  fc
    .tuple(path, name, fc.uniqueArray(address, { maxLength: 3 }))
    .map(([at, of, ips]) =>
      slice(at, of, { ports: [{ port: 8080 }], endpoints: ips.map((ip) => ({ addresses: [ip] })) }),
    ),
  fc
    .tuple(path, selector, fc.constantFrom('STRICT', 'PERMISSIVE', 'UNSET'))
    .map(([at, matchLabels, mode]) =>
      own('PeerAuthentication', at, { selector: { matchLabels }, mtls: { mode } }),
    ),
  fc.tuple(path, selector, fc.boolean()).map(([at, matchLabels, selects]) =>
    own('AuthorizationPolicy', at, {
      rules: [{}],
      ...(selects ? { selector: { matchLabels } } : {}),
    }),
  ),
  fc.constantFrom('eu', 'us').map((region) => node('node-a', region, 'z')),
  fc
    .constantFrom('STRICT', 'PERMISSIVE')
    .map((mode) => own('MeshConfig', 'nodemesh-system/default', { mtls: { mode } })),
);

type Act = { readonly put: MeshObject } | { readonly remove: number } | { readonly publish: true };
const act: fc.Arbitrary<Act> = fc.oneof(
  { weight: 6, arbitrary: anyObject.map((put) => ({ put })) },
  { weight: 2, arbitrary: fc.nat(50).map((remove) => ({ remove })) },
  { weight: 2, arbitrary: fc.constant({ publish: true as const }) },
);

function keyOf(object: MeshObject): [ObjectKind, string] {
  const { namespace: ns, name: own_ } = object.meta;
  return [object.kind, ns === '' ? own_ : `${ns}/${own_}`];
}

function shown(model: Model): string {
  const sorted = (map: ReadonlyMap<string, unknown>): unknown =>
    [...map].toSorted(([a], [b]) => (a < b ? -1 : 1));
  const text = (_: string, value: unknown): unknown =>
    value instanceof Map ? sorted(value) : value;
  const { policies, services, workloads, nodeSettings } = model;
  const local = [...model.localPods].filter(([, pods]) => pods.size > 0);
  return JSON.stringify(
    [policies, services, workloads, nodeSettings, new Map(local)].map(sorted),
    text,
  );
}

t.test('any order of changes ends in what the final objects alone give', (t) => {
  const property = fc.property(fc.array(act, { maxLength: 40, size: 'max' }), (acts) => {
    const model = new Model();
    const present = new Map<string, MeshObject>();
    for (const step of acts) {
      if ('put' in step) {
        model.put(step.put);
        present.set(keyOf(step.put).join('|'), step.put);
      } else if ('remove' in step) {
        const key = [...present.keys()][step.remove % Math.max(1, present.size)];
        const object = key === undefined ? undefined : present.get(key);
        if (object !== undefined) model.remove(...keyOf(object));
        if (key !== undefined) present.delete(key);
      } else model.publish();
    }
    const fresh = new Model().put(...present.values());
    // How a pod came to be enrolled shows until it is captured, so both end with everything captured.
    const [a, b] = [model, fresh].map((one) => {
      one.settleAll();
      for (const [node, pods] of one.localPods) one.captured(node, ...pods.keys());
      return shown(one.settleAll());
    });
    if (a !== b) throw new Error(`${a}\n${b}`);
  });
  fc.assert(property, { numRuns: 120 });
  t.end();
});

t.test(
  'one pod among many costs a few steps, and a whole namespace is cut into small ones',
  (t) => {
    const model = new Model().put(namespace('shop', { 'nodemesh.dev/mesh': 'enabled' }));
    model.put(service('shop/web', { selector: { app: 'web' }, ports: [{ port: 80 }] }));
    const count = 5_000;
    const one = (index: number, ready: boolean): MeshObject =>
      pod(`shop/p${index}`, {
        uid: `u${index}`,
        ip: `10.${1 + (index >> 16)}.${(index >> 8) & 255}.${index & 255 || 1}`,
        labels: { app: index % 100 === 0 ? 'web' : 'other' },
        phase: 'Running',
        ready,
      });
    for (let index = 0; index < count; index++) model.put(one(index, true));
    model.publish();
    const startMs = performance.now();
    for (let index = 0; index < 100; index++) {
      const steps = model.put(one(index * 7, false)).publish();
      if (steps > 10) t.fail(`${steps} steps for one pod`);
    }
    const eachMs = (performance.now() - startMs) / 100;
    t.ok(eachMs < 5, `one change takes ${eachMs.toFixed(3)} ms`);
    const steps = model
      .put(service('shop/web', { selector: { app: 'web' }, ports: [{ port: 81 }] }))
      .publish();
    t.ok(steps < 500, `${steps} steps for a service of 50 pods among ${count}`);
    t.ok(model.put(namespace('shop', {})).publish() >= count, 'a namespace is many small steps');
    t.end();
  },
);
