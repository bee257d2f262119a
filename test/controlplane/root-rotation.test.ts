/** Root rotation under a fake clock: what it waits for, for how long, and what a failed step costs. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createLeafLedger, type Holder } from '../../src/controlplane/leaf-ledger.ts';
import { createRootRotation } from '../../src/controlplane/root-rotation.ts';
import { createMemoryCaStorage, createTestCa, DAY_MS, spiffeId } from '../identity/fixtures.ts';

async function setUp() {
  const clock = createFakeClock();
  const storage = createMemoryCaStorage();
  const ca = await createTestCa({ clock, storage });
  const state = { taken: true, absent: [] as string[], outdated: [] as Holder[], published: 0 };
  const rotation = createRootRotation({
    clock,
    logger: createNullLogger(),
    ca,
    publishBundle: () => void state.published++,
    bundleTaken: () => state.taken,
    absentNodes: () => state.absent,
    outdated: () => state.outdated,
  });
  /** Fake time passes in real turns: storing is asynchronous. */
  const pass = async (ms: number): Promise<void> => {
    for (let left = ms; left > 0; left -= 200) await clock.advance(Math.min(200, left));
  };
  return { clock, storage, ca, state, rotation, pass };
}

const holder: Holder = { node: 'node-a', identity: spiffeId('web'), surely: true };

t.test('each step waits for its condition, then for a margin', async (t) => {
  const { ca, state, rotation, pass } = await setUp();
  await pass(5_000);
  t.equal(ca.phase, 'steady', 'nobody asked');
  rotation.setWanted(1);
  state.taken = false;
  await pass(60_000);
  t.same([ca.phase, state.published, ca.bundle.generation], ['trust', 1, 2]);
  state.taken = true;
  state.outdated = [holder];
  await pass(600);
  t.equal(ca.phase, 'trust', 'the margin');
  await pass(1_000);
  t.equal(ca.phase, 'issue');
  await pass(600_000);
  t.equal(ca.phase, 'issue', 'somebody holds an old certificate');
  state.outdated = [];
  await pass(2_600);
  t.equal(ca.phase, 'issue', 'what was signed may have to be asked for again');
  await pass(1_000);
  t.equal(ca.phase, 'steady');
  t.equal(rotation.count, 1);
  await pass(60_000);
  t.equal(state.published, 3, 'once');
  rotation.rotate();
  await pass(10_000);
  t.equal(rotation.count, 2);
  rotation[Symbol.dispose]();
});

t.test('nodes that are away are waited for, an hour long', async (t) => {
  const { ca, state, rotation, pass } = await setUp();
  state.absent = ['node-z'];
  rotation.rotate();
  await pass(3_500_000);
  t.equal(ca.phase, 'trust');
  await pass(200_000);
  t.equal(ca.phase, 'steady', 'and then not');
  await ca.beginRotation();
  await pass(60_000);
  t.equal(ca.phase, 'trust', 'also when it was not begun here');
  rotation[Symbol.dispose]();
});

t.test('a step that cannot be stored is tried again', async (t) => {
  const { ca, storage, rotation, pass } = await setUp();
  const write = storage.write.bind(storage);
  storage.write = () => Promise.reject(new Error('disk full'));
  rotation.rotate();
  await pass(3_000);
  t.equal(ca.phase, 'steady');
  storage.write = write;
  rotation.setWanted(1);
  await pass(10_000);
  t.equal(rotation.count, 1);
  rotation[Symbol.dispose]();
});

t.test('a restart goes on where the rotation was', async (t) => {
  const { storage, clock, rotation, state, pass } = await setUp();
  state.taken = false;
  rotation.rotate();
  await pass(1_000);
  rotation[Symbol.dispose]();
  const ca = await createTestCa({ clock, storage });
  t.equal(ca.phase, 'trust');
  const next = createRootRotation({
    clock,
    logger: createNullLogger(),
    ca,
    publishBundle: () => {},
    bundleTaken: () => true,
    absentNodes: () => [],
    outdated: () => [],
  });
  await pass(5_000);
  t.equal(ca.phase, 'steady');
  t.equal(next.count, 1);
  next[Symbol.dispose]();
});

t.test('the ledger: who may still use a certificate of another issuer', async (t) => {
  const clock = createFakeClock();
  const ledger = createLeafLedger(clock, DAY_MS);
  const unsure = { ...holder, surely: false };
  const names = (issuer: string, ...holders: Holder[]): number =>
    ledger.outdated(holders, issuer).length;
  t.equal(names('new', holder), 1, 'unknown: issued before the restart, perhaps');
  t.equal(names('new', unsure), 0, 'never captured: it has none');
  ledger.record('node-a', holder.identity, {
    issuerId: 'old',
    notAfterMs: clock.wallMs() + 2 * DAY_MS,
  });
  t.equal(names('new', holder, unsure), 2);
  t.equal(names('old', holder), 0);
  await clock.advance(DAY_MS);
  t.equal(names('new', holder), 1);
  t.equal(
    names('new', { ...holder, node: 'node-b' }),
    0,
    'a day after the start all unknown ones ended',
  );
  await clock.advance(DAY_MS);
  t.equal(names('new', holder), 0, 'expired');
  ledger.record('node-a', holder.identity, {
    issuerId: 'new',
    notAfterMs: clock.wallMs() + DAY_MS,
  });
  t.equal(names('new', holder), 0);
});

t.test(
  'the ledger of one of several: what others issue may be as young as the new issuer',
  async (t) => {
    const clock = createFakeClock();
    const ledger = createLeafLedger(clock, DAY_MS, true);
    t.equal(ledger.outdated([holder], 'old').length, 1);
    await clock.advance(10 * DAY_MS);
    t.equal(ledger.outdated([holder], 'old').length, 0);
    t.equal(ledger.outdated([holder], 'new').length, 1, 'another signed it a moment ago, perhaps');
    await clock.advance(DAY_MS - 1);
    t.equal(ledger.outdated([holder], 'new').length, 1);
    await clock.advance(1);
    t.equal(ledger.outdated([holder], 'new').length, 0);
  },
);
