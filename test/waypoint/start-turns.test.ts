import { setImmediate as nextTurn } from 'node:timers/promises';

import t from 'tap';

import { STARTS_PER_TURN, StartTurns } from '../../src/waypoint/start-turns.ts';

t.test('the surplus of a burst begins in later turns, in order, unless taken back', async (t) => {
  const turns = new StartTurns();
  const begun: number[] = [];
  const takeBack = new Map<number, () => void>();
  const count = 3 * STARTS_PER_TURN + 1;
  for (let i = 0; i < count; i++) {
    if (turns.take()) begun.push(i);
    else
      takeBack.set(
        i,
        turns.later(() => begun.push(i)),
      );
  }
  t.equal(begun.length, STARTS_PER_TURN);
  const dropped = STARTS_PER_TURN + 1;
  takeBack.get(dropped)?.();
  await nextTurn();
  t.equal(begun.length, 2 * STARTS_PER_TURN);
  t.notOk(turns.take(), 'nobody overtakes those who wait');
  await nextTurn();
  t.equal(begun.length, 3 * STARTS_PER_TURN);
  const expected = Array.from({ length: count }, (_, i) => i).filter((i) => i !== dropped);
  t.strictSame(begun, expected);
});

t.test('few at a time always begin at once', async (t) => {
  const turns = new StartTurns();
  for (let i = 0; i < 10 * STARTS_PER_TURN; i++) {
    t.ok(turns.take());
    await nextTurn();
  }
});
