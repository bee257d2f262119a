/** The configuration on disk: what is saved is what is loaded, and half a file is none. */

import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { createWireResource } from '../../src/discovery/wire-resource.ts';
import { loadSnapshot, saveSnapshot } from '../../src/node/snapshot-file.ts';

const clock = createSystemClock();
const dir = mkdtempSync(join(tmpdir(), 'nodemesh-snapshot-'));
t.teardown(() => rmSync(dir, { recursive: true, force: true }));

function filled(count: number): ResourceCache {
  const cache = new ResourceCache(TYPE_URL.address);
  const set = Array.from({ length: count }, (_, index) =>
    createWireResource(`uid-${index}`, Buffer.from(`body ${index}`), [`/10.0.0.${index}`], ['g']),
  );
  cache.update({ set });
  return cache;
}

t.test('many resources, few, and none come back as they were', async (t) => {
  const path = join(dir, 'state', 'config.snapshot');
  const address = filled(12_345);
  const empty = new ResourceCache(TYPE_URL.authorization);
  await saveSnapshot(path, [address, empty], clock);
  t.equal(statSync(path).mode & 0o777, 0o600);
  const loaded = await loadSnapshot(path, clock);
  t.same([...(loaded?.keys() ?? [])], [TYPE_URL.address, TYPE_URL.authorization]);
  t.same(loaded?.get(TYPE_URL.authorization), [], 'that a type is empty is known');
  const resources = loaded?.get(TYPE_URL.address) ?? [];
  t.equal(resources.length, 12_345);
  t.ok(
    resources.every((resource) => {
      const before = address.get(resource.name);
      return (
        before !== undefined &&
        Buffer.from(resource.body).equals(before.body) &&
        resource.version === before.version &&
        resource.aliases.join() === before.aliases.join() &&
        resource.groups.join() === before.groups.join()
      );
    }),
  );
});

t.test('saving lets the loop turn, and what is removed meanwhile does no harm', async (t) => {
  const path = join(dir, 'config.snapshot');
  const address = filled(50_000);
  let turns = 0;
  const ticking = setInterval(() => turns++, 0);
  const saving = saveSnapshot(path, [address], clock);
  setTimeout(() => address.update({ removed: [...address.names()].slice(10_000) }), 1);
  await saving;
  clearInterval(ticking);
  t.ok(turns > 3, `${turns} timers ran`);
  const count = (await loadSnapshot(path, clock))?.get(TYPE_URL.address)?.length ?? 0;
  t.ok(count >= 10_000 && count <= 50_000, `${count} resources`);
});

t.test('a file that is cut, changed at its head or absent is none', async (t) => {
  const path = join(dir, 'cut.snapshot');
  await saveSnapshot(path, [filled(2000)], clock);
  const whole = readFileSync(path);
  for (const length of [whole.length - 1, Math.floor(whole.length / 2), 30, 5]) {
    truncateSync(path, length);
    t.equal(await loadSnapshot(path, clock), undefined, `${length} bytes`);
  }
  writeFileSync(path, Buffer.concat([Buffer.from('x'), whole.subarray(1)]));
  t.equal(await loadSnapshot(path, clock), undefined);
  t.equal(await loadSnapshot(join(dir, 'absent'), clock), undefined);
});

t.test('two agents save at once, and what a killed one left goes', async (t) => {
  const folder = join(dir, 'shared');
  const path = join(folder, 'config.snapshot');
  await saveSnapshot(path, [filled(1)], clock);
  const abandoned = `${path}.0123456789ab.new`;
  writeFileSync(abandoned, 'half');
  utimesSync(abandoned, 1, 1);
  writeFileSync(`${path}.ba9876543210.new`, 'being written');
  await Promise.all([5_000, 6_000].map((count) => saveSnapshot(path, [filled(count)], clock)));
  const loaded = await loadSnapshot(path, clock);
  t.match(loaded?.get(TYPE_URL.address)?.length, /^[56]000$/, 'one of them, whole');
  t.same(readdirSync(folder).toSorted(), ['config.snapshot', 'config.snapshot.ba9876543210.new']);
});
