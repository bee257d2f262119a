/** The verdict on a peer that was asked, in a process that itself may not have run. */

import t from 'tap';

import { createFakeClock, type Clock } from '../../../src/base/clock.ts';
import { Keepalive, PROBE_MS } from '../../../src/http/h2/keepalive.ts';

function start() {
  const fake = createFakeClock();
  let lateMs = 0;
  const clock: Clock = { ...fake, nowMs: () => fake.nowMs() + lateMs };
  const keepalive = new Keepalive(clock, 10_000, {
    ping() {},
    roundTrip() {},
    notStarted() {},
    dead() {},
    suspicion() {},
    tick() {},
  });
  keepalive.started();
  /** The timers due within `ms` run this much later than they should. */
  const advance = async (ms: number, byMs = 0): Promise<void> => {
    lateMs += byMs;
    await fake.advance(ms);
  };
  return { keepalive, advance };
}

t.test('F62 a process that did not run gives the peers it asked one more second', async (t) => {
  const { keepalive, advance } = start();
  keepalive.probe();
  await advance(PROBE_MS, 201);
  t.equal(keepalive.suspect, false, 'we were late, not the peer');
  keepalive.probe();
  await advance(PROBE_MS - 1);
  t.equal(keepalive.suspect, false);
  await advance(1, 5000);
  t.equal(keepalive.suspect, true, 'once only, or a starved process would wait for ever');

  keepalive.heard();
  t.equal(keepalive.suspect, false);
  keepalive.probe();
  await advance(PROBE_MS, 201);
  keepalive.heard();
  await advance(PROBE_MS);
  t.equal(keepalive.suspect, false, 'an answer within the second more counts');
  keepalive.stop();
});

t.test('F63 a busy loop is no excuse for a peer that is silent', async (t) => {
  const { keepalive, advance } = start();
  keepalive.probe();
  await advance(PROBE_MS, 200);
  t.equal(keepalive.suspect, true);
  keepalive.stop();
});
