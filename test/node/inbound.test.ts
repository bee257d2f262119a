/** An inbound tunnel whose application is still being dialled: whoever ends it then leaves a record. */

import { EventEmitter } from 'node:events';

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import { createConnections } from '../../src/node/connections.ts';
import type { WorkerContext } from '../../src/node/context.ts';
import { acceptTunnel } from '../../src/node/inbound.ts';

t.test('a dial that the drain deadline or a policy ends is answered and recorded', (t) => {
  const connections = createConnections(createFakeClock());
  const records: string[] = [];
  const answers: HeaderList[] = [];
  const stream = {
    setHandlers() {},
    sendHeaders: (headers: HeaderList) => void answers.push(headers),
    reset() {},
    consume() {},
  };
  const workload = { services: new Map(), namespace: 'n', authorizationPolicies: [] };
  let cancelled = 0;
  const pod = {
    uid: 'p',
    identity: 'spiffe://a/ns/n/sa/s',
    workload: () => workload,
    captured: { pod: { namespace: 'n', name: 'x' } },
    sockets: { dial: () => () => void cancelled++ },
  };
  const connect: HeaderList = [
    [':method', 'CONNECT'],
    [':authority', '10.0.0.2:80'],
  ];
  const context = {
    clock: createFakeClock(),
    connections,
    credentials: () => ({}),
    handshakes: {
      accept: (_: unknown, __: unknown, handlers: { onSecure(a: unknown, peer: string): void }) =>
        handlers.onSecure({}, 'spiffe://a/ns/n/sa/peer'),
    },
    sessions: {
      accept: (_: unknown, __: unknown, on: (a: unknown, headers: HeaderList) => void) =>
        on(stream, connect),
    },
    authorizer: { decide: () => ({ allowed: true, audited: [] }) },
    edges: { peer: () => ({}), claimedPeer: () => ({}), get: () => ({}), baggage: () => '' },
    state: {
      settings: undefined,
      workloads: { atAddress: () => undefined },
      services: { get: () => undefined },
    },
    journal: {
      refuse: (_: unknown, __: unknown, error: MeshError) => void records.push(error.message),
    },
  } as unknown as WorkerContext;
  const socket = Object.assign(new EventEmitter(), {
    remoteAddress: '10.0.0.9',
    remotePort: 4000,
    localAddress: '10.0.0.2',
    localPort: 15_008,
    setNoDelay() {},
    destroy() {},
  });
  acceptTunnel(context, pod as never, socket as never);
  t.equal(connections.count, 1, 'it is being dialled');
  connections.closeAll(new MeshError('MESH_DRAINED', 'the deadline passed', { flag: 'DRAIN' }));
  t.same(records, ['the deadline passed']);
  t.match(answers, [[[':status', '503']]]);
  t.equal(cancelled, 1);
  t.equal(connections.count, 0, 'and nobody waits for it');
  t.end();
});
