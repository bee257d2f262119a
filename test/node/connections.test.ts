import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import type { MeshError } from '../../src/base/errors.ts';
import type { IpAddress } from '../../src/core/address.ts';
import type { ConnectionRecord, Edge } from '../../src/core/connection-record.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { createConnections, type GovernedConnection } from '../../src/node/connections.ts';
import { UNKNOWN_PEER } from '../../src/core/connection-record.ts';
import { createEdges } from '../../src/node/edges.ts';
import { createJournal, type EntryFacts } from '../../src/node/journal.ts';
import type { Decision } from '../../src/policy/decide.ts';

const IP = '10.0.0.1' as IpAddress;

const decision = (allowed: boolean): Decision => ({
  allowed,
  policy: allowed ? '' : 'shop/no',
  reason: allowed ? '' : 'denied by AuthorizationPolicy shop/no (rule 0)',
  flag: allowed ? '-' : 'DENY',
  code: allowed ? undefined : 'MESH_POLICY_DENIED',
  audited: [],
  dryRun: [],
});

function governed(port: number, closed: MeshError[]): GovernedConnection {
  return {
    facts: { source: undefined, sourceIp: IP, destination: { ip: IP, port } },
    target: () => ({ namespace: 'shop', authorizationPolicies: [] }),
    close: (error) => void closed.push(error),
  };
}

t.test('G11 a policy change closes exactly what no longer passes', async (t) => {
  const clock = createFakeClock();
  const connections = createConnections(clock);
  const closed: MeshError[] = [];
  for (let port = 1; port <= 1200; port++) connections.govern(governed(port, closed));
  const gone = governed(1, closed);
  connections.govern(gone)();
  connections.recheck(({ facts }) => decision(facts.destination.port % 2 === 0));
  await clock.advance(100);
  t.equal(closed.length, 600);
  t.equal(closed[0]?.code, 'MESH_POLICY_DENIED');
  t.equal(closed[0]?.details['policy'], 'shop/no');
});

t.test('a change during a round starts over with the newer policy', async (t) => {
  const clock = createFakeClock();
  const connections = createConnections(clock);
  const closed: MeshError[] = [];
  for (let port = 1; port <= 2000; port++) connections.govern(governed(port, closed));
  connections.recheck(() => decision(true));
  connections.recheck(() => decision(false));
  await clock.advance(100);
  t.equal(closed.length, 2000);
});

t.test('changes that never stop still reach the last connection', async (t) => {
  const clock = createFakeClock();
  const connections = createConnections(clock);
  const closed: MeshError[] = [];
  for (let port = 1; port <= 2000; port++) connections.govern(governed(port, closed));
  for (let change = 0; change < 8; change++) {
    connections.recheck(({ facts }) => decision(facts.destination.port !== 2000));
    await clock.advance(0);
  }
  t.ok(closed.length > 0);
});

t.test('open connections are counted per pod, and the last one is announced', (t) => {
  const connections = createConnections(createFakeClock());
  let idle = 0;
  connections.onIdle(() => idle++);
  const closed: MeshError[] = [];
  const add = (pod: string): (() => void) =>
    connections.add({ pod: pod as PodUid, close: (error) => void closed.push(error) });
  const [first, second] = [add('a'), add('b')];
  t.equal(connections.count, 2);
  t.equal(connections.countOf('a' as PodUid), 1);
  first();
  first();
  t.equal(connections.count, 1);
  t.equal(connections.countOf('a' as PodUid), 0);
  connections.closeAll(new Error('drained') as MeshError, 'a' as PodUid);
  t.equal(closed.length, 0, 'another pod');
  connections.closeAll(new Error('drained') as MeshError);
  t.equal(closed.length, 1);
  second();
  t.equal(idle, 1);
  t.end();
});

t.test('I9 every connection leaves one record, with bytes told on the way', async (t) => {
  const clock = createFakeClock();
  const records: ConnectionRecord[] = [];
  const told: number[] = [];
  const opened: Edge[] = [];
  const journal = createJournal(clock, {
    opened: (edge) => void opened.push(edge),
    handshakeFailed: () => {},
    progress: (_, sent, received) => void told.push(sent, received),
    ended: (record, sent, received) => void (records.push(record), told.push(sent, received)),
  });
  const edges = createEdges();
  const parts = {
    reporter: 'source',
    source: UNKNOWN_PEER,
    destination: UNKNOWN_PEER,
    service: undefined,
    secured: true,
  } as const;
  t.equal(edges.get(parts), edges.get({ ...parts }), 'edges are shared');
  const facts: EntryFacts = {
    edge: edges.get(parts),
    direction: 'outbound',
    transport: 'hbone',
    sourceAddress: { ip: IP, port: 1 },
    destinationAddress: { ip: IP, port: 2 },
    hboneAuthority: '10.0.0.1:2',
    audited: [],
    traceId: '',
  };
  const entry = journal.begin(facts, clock.nowMs());
  let bytesSent = 0;
  entry.opened(() => ({ bytesSent, bytesReceived: 7 }));
  bytesSent = 5;
  await clock.advance(5000);
  await clock.advance(5000);
  t.same(told, [5, 7], 'told once, nothing changed after');
  const end = { bytesSent: 9, bytesReceived: 7, flag: '-', error: undefined } as const;
  entry.end(end);
  entry.end({ ...end, bytesSent: 99 });
  bytesSent = 50;
  await clock.advance(5000);
  t.equal(records.length, 1);
  t.equal(records[0]?.bytesSent, 9);
  t.equal(records[0]?.durationMs, 10_000);
  t.same(told, [5, 7, 5, 7], 'the end says what was told before');
  t.equal(opened.length, 1);
  t.equal(clock.pendingCount(), 1, 'only the ticker');
  journal.stop();
  t.equal(clock.pendingCount(), 0);
});
