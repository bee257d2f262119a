/** The pool and a peer that hangs: a worker whose loop stands still, while its kernel takes every byte. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import type { IpAddress } from '../../src/core/address.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { H2Session, HeaderList } from '../../src/http/h2/contract.ts';
import { FLAG, FRAME } from '../../src/http/h2/frames.ts';
import { createTunnelPool, type TunnelTarget } from '../../src/tunnel/pool.ts';
import { connectRaw, record, type RawPeer } from '../http/h2/peers.ts';

const TARGET: TunnelTarget = {
  source: 'spiffe://cluster.local/ns/shop/sa/web' as SpiffeId,
  sourceWorkload: 'pod-1',
  generation: '1',
  destinations: ['spiffe://cluster.local/ns/shop/sa/db' as SpiffeId],
  address: { ip: '10.0.0.1' as IpAddress, port: 15008 },
};
const CONNECT: HeaderList = [
  [':method', 'CONNECT'],
  [':authority', '10.0.0.1:5432'],
];

const isConnect = (frame: { type: number }): boolean => frame.type === FRAME.HEADERS;
const heads = (peer: RawPeer | undefined): number => peer?.frames.filter(isConnect).length ?? 0;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test('F63 a session whose peer hangs gets no new stream until it is heard again', async (t) => {
  const clock = createFakeClock();
  const peers: RawPeer[] = [];
  const sessions: H2Session[] = [];
  const pool = createTunnelPool({
    clock,
    async dial() {
      if (sessions.length === 2) throw new Error('nobody answers');
      const { session, peer, close } = await connectRaw('client', { clock });
      t.teardown(close);
      // Once its own PING is answered, its SETTINGS and what follows them have been read.
      const asked = await peer.waitFor(({ type }) => type === FRAME.PING);
      peer.send(FRAME.PING, FLAG.ACK, 0, asked?.payload);
      peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
      await peer.waitFor(({ type, flags }) => type === FRAME.PING && flags === FLAG.ACK);
      peers.push(peer);
      sessions.push(session);
      return session;
    },
  });
  const open = async (): Promise<void> => {
    const errors: unknown[] = [];
    const handlers = record(() => undefined);
    await new Promise<void>((resolve) => {
      pool.request(
        TARGET,
        CONNECT,
        handlers,
        () => resolve(),
        (error) => {
          errors.push(error);
          resolve();
        },
      );
    });
    t.strictSame(errors, []);
  };
  await open();
  const [hanging] = peers;
  await hanging?.waitFor(isConnect);
  await clock.advance(1000);
  t.equal(sessions[0]?.suspect, true, 'it was asked with the stream and said nothing');
  await open();
  await peers[1]?.waitFor(isConnect);
  t.equal(heads(hanging), 1);
  t.equal(pool.sessionCount, 2);

  hanging?.send(FRAME.PING, FLAG.ACK, 0, Buffer.alloc(8));
  while (sessions[0]?.suspect === true) await turn();
  t.equal(sessions[0]?.state, 'open', 'what runs on it goes on');
  await clock.advance(1000);
  t.equal(sessions[1]?.suspect, true);
  await open();
  await hanging?.waitFor(() => heads(hanging) === 2);
  t.equal(pool.sessionCount, 2, 'it serves again, nothing was dialled');

  await clock.advance(1000);
  t.strictSame(
    sessions.map(({ suspect }) => suspect),
    [true, true],
  );
  await open();
  t.equal(pool.waiterCount, 0, 'when no other can be opened, one that hangs has to do');
});

t.test('a session that was cut leaves no timer, which would keep it', async (t) => {
  const clock = createFakeClock();
  const { session, peer, close } = await connectRaw('client', { clock });
  t.teardown(close);
  const pool = createTunnelPool({ clock, dial: () => Promise.resolve(session) });
  const handlers = record(() => undefined);
  const opened = new Promise<void>((resolve) => {
    pool.request(
      TARGET,
      CONNECT,
      handlers,
      () => resolve(),
      (error) => t.fail(error.message),
    );
  });
  await opened;
  await peer.waitFor(isConnect);
  peer.socket.destroy();
  await handlers.settled;
  while (clock.pendingCount() > 0 && session.state !== 'closed') await turn();
  for (let i = 0; i < 10; i++) await turn();
  t.equal(pool.sessionCount, 0);
  t.equal(clock.pendingCount(), 0);
});
