import fc from 'fast-check';
import t from 'tap';

import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import { createWireResource, type WireResource } from '../../src/discovery/wire-resource.ts';

const resource = (
  name: string,
  text: string = name,
  aliases: readonly string[] = [],
  groups: readonly string[] = [],
): WireResource => createWireResource(name, Buffer.from(text), aliases, groups);

void t.test('ResourceCache tells only what really changed', async (t) => {
  const cache = new ResourceCache('type');
  const told: string[][] = [];
  const stop = cache.onChange((names) => told.push([...names]));
  t.equal(cache.update({ set: [resource('a'), resource('b')] }), 2);
  t.equal(cache.update({ set: [resource('a')], removed: ['c'] }), 0);
  t.equal(cache.update({ set: [resource('a', 'new')], removed: ['b'] }), 2);
  t.equal(cache.update({ set: [resource('a', 'new', ['alias'])] }), 1, 'aliases count');
  stop();
  cache.update({ removed: ['a'] });
  t.same(told, [['a', 'b'], ['b', 'a'], ['a']]);
  t.equal(cache.generation, 4);
  t.equal(cache.size, 0);
});

void t.test('ResourceCache finds by name, alias and group', async (t) => {
  const cache = new ResourceCache('type');
  cache.update({
    set: [
      resource('ns/svc', '', ['net/10.0.0.1']),
      resource('pod-1', '', ['net/10.1.0.1'], ['ns/svc']),
      resource('pod-2', '', ['net/10.1.0.1'], ['ns/svc']),
    ],
  });
  const found = (key: string): string[] => [...new Set(cache.lookup(key))].toSorted();
  t.same(found('ns/svc'), ['ns/svc', 'pod-1', 'pod-2']);
  t.same(found('net/10.0.0.1'), ['ns/svc', 'pod-1', 'pod-2']);
  t.same(found('net/10.1.0.1'), ['pod-1', 'pod-2']);
  t.same(found('nobody'), []);
  cache.update({ removed: ['pod-1', 'ns/svc'] });
  t.same(found('net/10.1.0.1'), ['pod-2']);
  t.same(found('ns/svc'), ['pod-2'], 'members are found without their service');
});

void t.test('ResourceCache keeps one list of groups for those that are in the same', async (t) => {
  const cache = new ResourceCache('type');
  const groupsOf = (name: string): readonly string[] | undefined => cache.get(name)?.groups;
  const pod = (name: string, ...groups: string[]): WireResource => resource(name, '', [], groups);
  cache.update({
    set: [pod('a', 'x', 'y'), pod('b', 'x', 'y'), pod('c', 'x'), pod('d', 'y', 'x')],
  });
  t.equal(groupsOf('b'), groupsOf('a'));
  t.strictSame(groupsOf('c'), ['x']);
  t.strictSame(groupsOf('d'), ['y', 'x']);
  cache.update({ set: [pod('b', 'y')] });
  t.strictSame(groupsOf('a'), ['x', 'y']);
  t.strictSame(groupsOf('b'), ['y']);
});

void t.test('ResourceCache indexes agree with a plain search after any updates', async () => {
  const names = fc.constantFrom('a', 'b', 'c', 'd');
  const few = fc.uniqueArray(fc.constantFrom('x', 'y', 'z'), { maxLength: 2 });
  const change = fc.oneof(
    fc.tuple(names, few, few).map(([name, aliases, groups]) => ({
      set: [resource(name, name, aliases, groups)],
    })),
    names.map((name) => ({ removed: [name] })),
  );
  fc.assert(
    fc.property(fc.array(change, { maxLength: 20 }), (changes) => {
      const cache = new ResourceCache('type');
      for (const one of changes) cache.update(one);
      const all = [...cache.names()].map((name) => cache.get(name)!);
      for (const key of ['x', 'y', 'z']) {
        const members = new Set(cache.members(key));
        const expected = all.filter(({ groups }) => groups.includes(key));
        if (members.size !== expected.length) return false;
        const found = new Set(cache.lookup(key));
        const wanted = all.filter((r) => r.aliases.includes(key) || r.groups.includes(key));
        if (found.size !== wanted.length) return false;
      }
      return true;
    }),
  );
});
