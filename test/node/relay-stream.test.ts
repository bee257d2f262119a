import t, { type Test } from 'tap';

import { H2_ERROR } from '../../src/http/h2/contract.ts';
import { createTunnelRig, pattern, type Bare, type TunnelRig } from './relay-rig.ts';
import { relaySuite } from './relay-suite.ts';

relaySuite(t, 'relayStream', createTunnelRig);

async function withBare(
  t: Test,
  run: (bare: Bare, rig: TunnelRig) => Promise<void>,
): Promise<void> {
  const rig = await createTunnelRig();
  try {
    await run(await rig.openBare(), rig);
    t.equal(rig.sweep.count, 0, 'no relay is left');
  } finally {
    await rig.close();
  }
}

const { CANCEL, NO_ERROR, CONNECT_ERROR, REFUSED_STREAM } = H2_ERROR;

for (const code of [CANCEL, NO_ERROR, CONNECT_ERROR, REFUSED_STREAM]) {
  void t.test(`relayStream: RST_STREAM ${code} before END_STREAM is a reset (F31)`, async (t) => {
    await withBare(t, async ({ stream, b, results }) => {
      stream.write(Buffer.from('half of it'));
      await b.until((app) => app.received === 10);
      stream.reset(code);
      await b.until((app) => app.closed);
      t.same([b.ended, b.error], [false, 'ECONNRESET']);
      const [result] = await results;
      t.equal(result?.flag, 'RESET');
      t.equal(result?.error?.code, 'MESH_HTTP2_STREAM_RESET');
    });
  });
}

for (const code of [CANCEL, NO_ERROR]) {
  void t.test(`relayStream: RST_STREAM ${code} after END_STREAM is a proper end`, async (t) => {
    await withBare(t, async ({ stream, b, results }) => {
      // More than the application takes at once, so that it is still on its way when the reset comes.
      const bytes = pattern(240_000, 9);
      b.socket.pause();
      stream.write(bytes);
      stream.end();
      await new Promise((resolve) => setTimeout(resolve, 20));
      stream.reset(code);
      b.socket.resume();
      await b.until((app) => app.ended);
      t.ok(b.bytes.equals(bytes), 'everything arrived');
      b.socket.write('nobody reads this');
      const [result] = await results;
      t.match(result, { flag: '-', error: undefined, bytesToA: 240_000 });
    });
  });
}

void t.test('relayStream: RST_STREAM 10 after END_STREAM is reported as a reset', async (t) => {
  await withBare(t, async ({ stream, b, results }) => {
    stream.write(Buffer.from('all of it'));
    stream.end();
    await b.until((app) => app.ended);
    stream.reset(CONNECT_ERROR);
    const [result] = await results;
    t.match(result, { flag: 'RESET', bytesToA: 9 });
    t.equal(String(b.bytes), 'all of it');
    b.socket.destroy();
  });
});

void t.test('relayStream: an application that resets is CONNECT_ERROR on the stream', async (t) => {
  await withBare(t, async ({ b, events, results }) => {
    b.socket.resetAndDestroy();
    const [result] = await results;
    t.match(result, { flag: 'RESET', error: { code: 'MESH_CONNECTION_RESET' } });
    for (let turn = 0; turn < 100 && events.length === 0; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    t.same(events, [`reset ${CONNECT_ERROR}`]);
  });
});

void t.test('relayStream: the end of the session resets the application (F31)', async (t) => {
  await withBare(t, async ({ stream, b, results }, rig) => {
    stream.write(Buffer.from('so far'));
    await b.until((app) => app.received === 6);
    rig.client.destroy();
    await b.until((app) => app.closed);
    t.same([b.ended, b.error], [false, 'ECONNRESET']);
    t.equal((await results)[0]?.flag, 'RESET');
  });
});
