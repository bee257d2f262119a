/** A connection whose waypoint does not know what is taken to it, or not yet. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import type { MeshError } from '../../src/base/errors.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { H2_ERROR, type H2Stream, type H2StreamHandlers } from '../../src/http/h2/contract.ts';
import type { ServedPod, WorkerContext } from '../../src/node/context.ts';
import { createEdges } from '../../src/node/edges.ts';
import { acceptOutbound } from '../../src/node/outbound.ts';
import { at, capturedPod, workload } from '../state/build.ts';
import { socketPair } from './relay-rig.ts';

const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/web' as SpiffeId;

t.test('a waypoint that answers 503 or 400 is asked again 5 times, within 1.55 s', async (t) => {
  const clock = createFakeClock();
  const [application, socket] = await socketPair();
  t.teardown(() => application.destroy());
  const asked: number[] = [];
  const refused: MeshError[] = [];
  const answers: (() => void)[] = [];
  const stream = { resetCode: H2_ERROR.NO_ERROR, end() {}, reset() {} } as unknown as H2Stream;
  const way = workload('way');
  const client = workload('web');
  const context = {
    clock,
    random: createSeededRandom(1),
    edges: createEdges(),
    native: {
      calls: {
        getsockopt(_fd: number, _level: number, _name: number, address: Buffer) {
          address.writeUInt16LE(2, 0);
          address.set([0, 80, 10, 0, 0, 7], 2);
          return 0;
        },
      },
    },
    connections: { add: () => () => {} },
    journal: { refuse: (_facts: unknown, _ms: number, error: MeshError) => refused.push(error) },
    credentials: () => ({ generation: '1' }),
    state: {
      beginConnection: () => ({ end() {} }),
      resolveDestination: () => ({
        kind: 'waypoint',
        waypoint: way,
        hop: at('10.0.0.9', 15008),
        address: at('10.0.0.7'),
        identities: [IDENTITY],
      }),
    },
    pool: {
      request(
        _to: unknown,
        _head: unknown,
        handlers: H2StreamHandlers,
        onStream: (s: H2Stream) => void,
      ) {
        const status = asked.push(clock.nowMs()) % 2 === 0 ? '400' : '503';
        onStream(stream);
        answers.push(() => handlers.onHeaders([[':status', status]], true));
        return () => {};
      },
    },
  } as unknown as WorkerContext;
  const pod = {
    captured: capturedPod('web', '127.0.0.1'),
    uid: 'web' as PodUid,
    identity: IDENTITY,
    workload: () => client,
  } as unknown as ServedPod;
  const ended = new Promise<unknown>((resolve) => application.on('error', resolve));
  acceptOutbound(context, pod, socket);
  while (refused.length === 0) {
    answers.pop()?.();
    await clock.advance(50);
  }
  t.match(await ended, { code: 'ECONNRESET' });
  t.strictSame(asked, [0, 50, 150, 350, 750, 1550]);
  t.match(refused, [{ code: 'MESH_TUNNEL_REFUSED' }]);
});
