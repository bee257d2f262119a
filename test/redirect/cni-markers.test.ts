/** What the CNI script finds on disk: kept over a restart, repaired, and never a name that leads elsewhere. */

import { mkdtempSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import {
  MARKERS_MAX,
  MARKERS_RECONCILE_MS,
  openCniMarkers,
} from '../../src/redirect/cni-markers.ts';
import { announceAgent, PRESENCE_MS } from '../../src/redirect/presence.ts';

function setUp(t: Test) {
  const dir = join(mkdtempSync(join(tmpdir(), 'nodemesh-markers-')), 'enrolled');
  t.teardown(() => rmSync(join(dir, '..'), { recursive: true, force: true }));
  const clock = createFakeClock(0);
  return { dir, clock, open: () => openCniMarkers(dir, clock, createNullLogger()) };
}

t.test('what was there before counts until everything has been told (G07)', async (t) => {
  const { dir, clock, open } = setUp(t);
  const first = open();
  for (const name of ['shop', 'bank', '../x', 'a/b', '.x', '']) first.add(name);
  first.remove('nobody');
  t.same(readdirSync(dir), ['bank', 'shop']);
  first.stop();
  const second = open();
  t.ok(second.has('shop') && second.has('bank'), 'held before the controller has said a word');
  second.add('shop');
  t.same(readdirSync(dir), ['bank', 'shop']);
  second.keepOnlyWanted();
  t.same(readdirSync(dir), ['shop']);
  t.notOk(second.has('bank'));
  rmSync(join(dir, 'shop'));
  writeFileSync(join(dir, 'stranger'), '');
  mkdirSync(join(dir, '.keep'));
  await clock.advance(MARKERS_RECONCILE_MS);
  t.same(readdirSync(dir), ['.keep', 'shop'], 'put back and cleared');
  rmSync(dir, { recursive: true });
  await clock.advance(MARKERS_RECONCILE_MS);
  t.same(readdirSync(dir), ['shop']);
  second.remove('shop');
  t.same(readdirSync(dir), []);
  second.stop();
  second.add('late');
  t.same(readdirSync(dir), [], 'a successor has the folder');
  t.equal(clock.pendingCount(), 0);
});

t.test('a name that cannot be written is tried again, and there is a bound', async (t) => {
  const { dir, clock, open } = setUp(t);
  const markers = open();
  rmSync(dir, { recursive: true });
  writeFileSync(dir, 'in the way');
  markers.add('shop');
  t.ok(markers.has('shop'));
  rmSync(dir);
  await clock.advance(MARKERS_RECONCILE_MS);
  t.same(readdirSync(dir), ['shop']);
  rmSync(dir, { recursive: true });
  for (let index = 0; index < MARKERS_MAX; index++) markers.add(`ns-${index}`);
  t.notOk(markers.has(`ns-${MARKERS_MAX - 1}`));
  markers.stop();
});

t.test('the agent announces itself, and takes over from one that has ended', async (t) => {
  const { dir, clock, open } = setUp(t);
  open().stop();
  const read = (): string => readFileSync(join(dir, 'agent'), 'utf8');
  writeFileSync(join(dir, 'agent'), '999999999 1\n');
  const presence = announceAgent(dir, clock, createNullLogger());
  t.match(read(), new RegExp(`^${process.pid} [0-9]+\n$`));
  const own = read();
  for (const other of ['999999999 1\n', `${process.pid} 1\n`, 'nonsense']) {
    writeFileSync(join(dir, 'agent'), other);
    await clock.advance(PRESENCE_MS);
    t.equal(read(), own);
  }
  const parent = announceAgent(dir, clock, createNullLogger(), process.ppid);
  t.match(read(), new RegExp(`^${process.ppid} `), 'the later one');
  await clock.advance(PRESENCE_MS);
  t.match(read(), new RegExp(`^${process.ppid} `), 'which lives, so it stays');
  rmSync(dir, { recursive: true });
  t.doesNotThrow(() => announceAgent(dir, clock, createNullLogger()).stop());
  presence.stop();
  parent.stop();
  t.equal(clock.pendingCount(), 0);
});
