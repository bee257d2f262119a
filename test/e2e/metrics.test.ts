/**
 * What is counted and logged is what happened: totals equal to what the clients counted, summed over workers, once
 * each even when a worker and then the agent are killed; one access-log line per connection and reporter.
 */

import { randomBytes, randomInt } from 'node:crypto';

import t, { type Test } from 'tap';

import { childrenOf, logLines, podNamed, proxyOn, untilWire } from '../../src/demo/actions.ts';
import { httpGet, until, wait } from '../../src/demo/mesh.ts';
import { parseExposition } from '../telemetry/exposition-parser.ts';
import { createTestMesh, reasonToSkipMesh, untilCaptured, type TestMesh } from './harness.ts';
import { connectFrom, exchange, listenIn } from './pod-sockets.ts';

const PORT = 7010;
const CONNECTIONS = 40;
/** Workers report every second. */
const REPORTED_MS = 1500;

type Totals = Record<'opened' | 'closed' | 'received' | 'sent', number>;
const METRICS: Readonly<Record<keyof Totals, string>> = {
  opened: 'istio_tcp_connections_opened_total',
  closed: 'istio_tcp_connections_closed_total',
  received: 'istio_tcp_received_bytes_total',
  sent: 'istio_tcp_sent_bytes_total',
};
type Labels = ReadonlyMap<string, string>;

async function scrape(
  running: TestMesh,
  node: string,
): Promise<ReturnType<typeof parseExposition>> {
  const { hub } = running.mesh.topology;
  const { ip } = running.mesh.nodeNamed(node);
  const answer = await httpGet(running.native, hub.netns, ip, 15_020, '/metrics');
  if (answer?.status !== 200) throw new Error(`No metrics of ${node}: ${answer?.status}`);
  return parseExposition(answer.body, 'prometheus');
}

/** Sums over all series whose labels match. */
async function totals(
  running: TestMesh,
  node: string,
  match: (labels: Labels) => boolean,
): Promise<Totals> {
  const families = await scrape(running, node);
  const sum = (name: string): number => {
    let total = 0;
    for (const family of families.values()) {
      for (const sample of family.samples) {
        if (sample.name === name && match(sample.labels)) {
          total += sample.value;
        }
      }
    }
    return total;
  };
  return {
    opened: sum(METRICS.opened),
    closed: sum(METRICS.closed),
    received: sum(METRICS.received),
    sent: sum(METRICS.sent),
  };
}

const plus = (a: Totals, b: Totals): Totals => ({
  opened: a.opened + b.opened,
  closed: a.closed + b.closed,
  received: a.received + b.received,
  sent: a.sent + b.sent,
});

/** Connections from `web` with known bytes each way; counted by the client. */
async function talk(
  running: TestMesh,
  host: string,
): Promise<{ counted: Totals; ports: number[] }> {
  const web = podNamed(running, 'web').place;
  const counted: Totals = { opened: 0, closed: 0, received: 0, sent: 0 };
  const ports: number[] = [];
  const one = async (): Promise<void> => {
    const socket = connectFrom(running.native, web, { host, port: PORT });
    const bytes = randomBytes(randomInt(1, 50_000));
    socket.on('connect', () => ports.push(socket.localPort ?? 0));
    const { received, ended } = await exchange(socket, bytes);
    if (ended !== 'end') throw new Error(`A connection ended with ${ended}`);
    counted.opened++;
    counted.closed++;
    // Seen from the request, whoever reports: received is what the source sent.
    counted.received += bytes.length;
    counted.sent += received.length;
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, one));
  return { counted, ports };
}

/** Of the addresses of clients in the access log over a whole test: all, and those that a client says it has. */
interface Addresses {
  all: number;
  known: number;
}

interface Edge {
  readonly name: string;
  readonly host: string;
  readonly node: string;
  readonly labels: Readonly<Record<string, string>>;
}

function matches(edge: Edge): (labels: Labels) => boolean {
  return (labels) =>
    Object.entries(edge.labels).every(([name, value]) => labels.get(name) === value);
}

function edgesOf(running: TestMesh): Edge[] {
  const db = podNamed(running, 'db').place.ip;
  const cart = podNamed(running, 'cart-v2').place.ip;
  const common = {
    source_workload: 'web',
    source_workload_namespace: 'shop',
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
    source_canonical_service: 'web',
    source_canonical_revision: 'v1',
    source_zone: 'zone-a',
    connection_security_policy: 'mutual_tls',
    request_protocol: 'tcp',
  };
  const toDb = {
    ...common,
    destination_workload: 'db',
    destination_principal: 'spiffe://cluster.local/ns/shop/sa/db',
    destination_canonical_service: 'db',
    destination_zone: 'zone-b',
  };
  const toCart = {
    ...common,
    destination_workload: 'cart-v2',
    destination_principal: 'spiffe://cluster.local/ns/shop/sa/cart',
    destination_canonical_revision: 'v2',
    destination_zone: 'zone-a',
  };
  const edge = (name: string, host: string, node: string, labels: Edge['labels']): Edge => ({
    name,
    host,
    node,
    labels,
  });
  return [
    edge('tunnel, source', db, 'node-a', { ...toDb, reporter: 'source' }),
    edge('tunnel, destination', db, 'node-b', { ...toDb, reporter: 'destination' }),
    edge('same node, source', cart, 'node-a', { ...toCart, reporter: 'source' }),
    edge('same node, destination', cart, 'node-a', { ...toCart, reporter: 'destination' }),
  ];
}

function accessLines(running: TestMesh): Record<string, unknown>[] {
  return logLines(running, '"scope":"access"').map(
    (line) => JSON.parse(line) as Record<string, unknown>,
  );
}

/** One round: what each edge had before, plus what the client counted, is what it has afterwards. */
async function round(
  t: Test,
  running: TestMesh,
  expected: Map<string, Totals>,
  addresses: Addresses,
  name: string,
): Promise<void> {
  const edges = edgesOf(running);
  for (const host of new Set(edges.map((edge) => edge.host))) {
    const known = new Set(accessLines(running).map((line) => line['trace_id']));
    const { counted, ports } = await talk(running, host);
    for (const edge of edges) {
      if (edge.host !== host) continue;
      const before = expected.get(edge.name) ?? { opened: 0, closed: 0, received: 0, sent: 0 };
      expected.set(edge.name, plus(before, counted));
    }
    const source = podNamed(running, 'web').place.ip;
    // The far side of a tunnel knows the client's address, not its port; those are counted at the end.
    const isTunnelled = host === podNamed(running, 'db').place.ip;
    for (const direction of isTunnelled ? ['outbound'] : ['outbound', 'inbound']) {
      const wanted = ports.map((port) => `${source}:${port}`).toSorted();
      let seen: string[] = [];
      await until('every line is written', 3000, () => {
        seen = accessLines(running)
          .filter((line) => !known.has(line['trace_id']) && line['direction'] === direction)
          .map((line) => String(line['src.addr']));
        return seen.length >= wanted.length;
      }).catch(() => {});
      // Where two connections of one source port meet at the capture port, the kernel's redirection gives one of
      // them another port, and where the ports of two destinations run side by side that may be many (seen: 7 of
      // 40). So who is who goes by the number; what is not among the ports is at least the client's,
      // and over the whole test most are.
      t.equal(seen.length, wanted.length, `${name}: one ${direction} record each to ${host}`);
      t.equal(new Set(seen).size, seen.length, `${name}: no ${direction} record twice`);
      const strangers = seen.filter((address) => !wanted.includes(address));
      addresses.all += seen.length;
      addresses.known += seen.length - strangers.length;
      t.ok(
        strangers.every((address) => address.startsWith(`${source}:`)),
        `${name}: unknown ${strangers.join()}`,
      );
    }
  }
  for (const edge of edges) await settle(t, running, edge, expected, name);
}

async function settle(
  t: Test,
  running: TestMesh,
  edge: Edge,
  expected: ReadonlyMap<string, Totals>,
  name: string,
): Promise<void> {
  const wanted = expected.get(edge.name);
  let seen: Totals | undefined;
  await until('totals are as counted', 6000, async () => {
    seen = await totals(running, edge.node, matches(edge)).catch(() => undefined);
    return JSON.stringify(seen) === JSON.stringify(wanted);
  }).catch(() => {});
  t.same(seen, wanted, `${name}: ${edge.name}`);
}

t.setTimeout(180_000);

t.test('metrics and access log', { skip: reasonToSkipMesh() }, async (t) => {
  const running = await createTestMesh(t);
  for (const name of ['db', 'cart-v2']) {
    const server = await listenIn(running.native, podNamed(running, name).place, PORT, (socket) => {
      let bytes = 0;
      socket.on('data', (chunk: Buffer) => (bytes += chunk.length));
      socket.on('end', () => socket.end(Buffer.alloc(2 * bytes + 7, 'x')));
    });
    t.teardown(() => server.close());
  }
  await untilWire(running, 'encrypted');
  await wait(REPORTED_MS);
  // Traffic that made the mesh ready counts too: it went to other ports, but on the same edges.
  const expected = new Map<string, Totals>();
  const addresses: Addresses = { all: 0, known: 0 };
  for (const edge of edgesOf(running)) {
    expected.set(edge.name, await totals(running, edge.node, matches(edge)));
  }

  await t.test('totals are what the clients counted', (t) =>
    round(t, running, expected, addresses, 'steady'),
  );

  await t.test('a killed worker takes nothing with it and nothing counts twice', async (t) => {
    await wait(REPORTED_MS);
    for (const node of ['node-a', 'node-b']) {
      const proxy = proxyOn(running, node);
      const old = childrenOf(proxy, 'worker');
      process.kill(old[0] ?? 0, 'SIGKILL');
      await until('its heir is there', 10_000, () => {
        const now = childrenOf(proxy, 'worker');
        return now.length === old.length && !now.includes(old[0] ?? 0);
      });
    }
    await untilCaptured(running, 4);
    for (const edge of edgesOf(running)) await settle(t, running, edge, expected, 'after the kill');
    await round(t, running, expected, addresses, 'with the heirs');
  });

  await t.test('nor does a killed agent, soon after', async (t) => {
    await wait(REPORTED_MS);
    for (const node of ['node-a', 'node-b']) {
      process.kill(childrenOf(proxyOn(running, node), 'agent')[0] ?? 0, 'SIGKILL');
    }
    // Counted while nobody collects.
    const host = podNamed(running, 'db').place.ip;
    const { counted } = await talk(running, host);
    for (const edge of edgesOf(running)) {
      const before = expected.get(edge.name);
      if (edge.host === host && before !== undefined)
        expected.set(edge.name, plus(before, counted));
    }
    await untilCaptured(running, 4);
    for (const edge of edgesOf(running)) await settle(t, running, edge, expected, 'after the kill');
    await round(t, running, expected, addresses, 'with the new agent');
  });

  await t.test('at the far end too there is one record per connection', async (t) => {
    const wanted = [...expected]
      .filter(([name]) => name.startsWith('tunnel'))
      .map(([, { opened }]) => opened);
    const inbound = accessLines(running).filter(
      (line) =>
        line['direction'] === 'inbound' &&
        line['transport'] === 'hbone' &&
        line['src.workload'] === 'web' &&
        line['dst.workload'] === 'db' &&
        line['msg'] === 'connection complete',
    );
    t.equal(inbound.length, wanted[0], 'as many as both ends have counted');
    t.equal(wanted[0], wanted[1]);
    const sent = inbound.reduce((sum, line) => sum + Number(line['bytes_recv']), 0);
    t.equal(sent, expected.get('tunnel, source')?.received, 'with the same bytes');
  });

  const { all, known } = addresses;
  t.ok(known * 2 > all, `${known} of ${all} records name the port that the client has`);
});
