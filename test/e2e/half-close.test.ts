/** Half close in every order, and resets, through the mesh: over a tunnel and on the same-node path. */

import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';

import t from 'tap';

import { podNamed } from '../../src/demo/actions.ts';
import { wait } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, type TestMesh } from './harness.ts';
import { connectFrom, listenIn } from './pod-sockets.ts';

/** One application's end of a connection. */
interface End {
  readonly socket: Socket;
  sent: Buffer[];
  received: Buffer[];
  ended: boolean;
  error: string;
  closed: boolean;
}

function endOf(socket: Socket): End {
  const end: End = { socket, sent: [], received: [], ended: false, error: '', closed: false };
  socket.on('data', (chunk: Buffer) => end.received.push(chunk));
  socket.on('end', () => (end.ended = true));
  socket.on('error', (error: NodeJS.ErrnoException) => (end.error = error.code ?? error.message));
  socket.on('close', () => (end.closed = true));
  return end;
}

/** Pairs the connections of a test with what the server accepts: the first bytes say which is which. */
class Pairs {
  readonly #waiting = new Map<string, (socket: Socket) => void>();
  readonly #running: TestMesh;
  #next = 0;

  constructor(running: TestMesh) {
    this.#running = running;
  }

  readonly accept = (socket: Socket): void => {
    socket.once('readable', () => {
      const name = String(socket.read(8));
      this.#waiting.get(name)?.(socket);
      this.#waiting.delete(name);
    });
  };

  async open(host: string, port: number): Promise<{ client: End; server: End }> {
    const name = `pair${String(this.#next++).padStart(4, '0')}`;
    let accepted: Socket | undefined;
    this.#waiting.set(name, (socket) => (accepted = socket));
    const web = podNamed(this.#running, 'web').place;
    const client = connectFrom(this.#running.native, web, { host, port });
    client.write(name);
    const ends = endOf(client);
    await seen(`${name} at the server`, () => accepted !== undefined);
    if (accepted === undefined) throw new Error('unreachable');
    return { client: ends, server: endOf(accepted) };
  }
}

/** `C` and `S` send bytes, `c` and `s` end their side. */
type Step = 'C' | 'S' | 'c' | 's';

/** Every way to interleave two sequences without changing the order within one. */
function interleave(a: readonly Step[], b: readonly Step[]): Step[][] {
  const [firstA, ...restA] = a;
  const [firstB, ...restB] = b;
  if (firstA === undefined) return [[...b]];
  if (firstB === undefined) return [[...a]];
  return [
    ...interleave(restA, b).map((order): Step[] => [firstA, ...order]),
    ...interleave(a, restB).map((order): Step[] => [firstB, ...order]),
  ];
}

const ORDERS: readonly (readonly Step[])[] = [
  ...interleave(['C', 'c'], ['S', 's']),
  ...interleave(['c'], ['S', 'S', 's']),
  ...interleave(['C', 'C', 'c'], ['s']),
  ...interleave(['C', 'C', 'c'], ['S', 's']),
];
const SIZES = [1, 17, 4096, 70_000, 300_000];
const SEEN_TIMEOUT_MS = 8000;

async function seen(what: string, check: () => boolean): Promise<void> {
  const startMs = performance.now();
  while (!check()) {
    if (performance.now() - startMs > SEEN_TIMEOUT_MS) throw new Error(`Never seen: ${what}`);
    await wait(2);
  }
}

const sum = (chunks: readonly Buffer[]): number =>
  chunks.reduce((bytes, { length }) => bytes + length, 0);

/** Plays one order; with `paced` every step has arrived before the next one is done. */
async function play(
  pairs: Pairs,
  host: string,
  port: number,
  order: readonly Step[],
  paced: boolean,
): Promise<string> {
  const { client, server } = await pairs.open(host, port);
  const name = order.join('');
  for (const [index, step] of order.entries()) {
    const [from, to] = step === 'C' || step === 'c' ? [client, server] : [server, client];
    if (step === 'C' || step === 'S') {
      const bytes = randomBytes(SIZES[(index + name.length) % SIZES.length] ?? 1);
      from.sent.push(bytes);
      from.socket.write(bytes);
      if (paced)
        await seen(`bytes of ${name}[${index}]`, () => sum(to.received) === sum(from.sent));
    } else {
      from.socket.end();
      if (paced) {
        await seen(`end of ${name}[${index}]`, () => to.ended);
        if (from.ended !== to.ended && from.closed) return `${name}: closed by a half close`;
      }
    }
  }
  await seen(`both ends closed of ${name}`, () => client.closed && server.closed);
  for (const [label, from, to] of [
    ['client', client, server],
    ['server', server, client],
  ] as const) {
    if (from.error !== '') return `${name}: ${label} got ${from.error}`;
    if (!to.ended) return `${name}: no FIN of the ${label}`;
    if (!Buffer.concat(from.sent).equals(Buffer.concat(to.received))) {
      return `${name}: ${sum(to.received)} bytes of ${sum(from.sent)} of the ${label}, or others`;
    }
  }
  return '';
}

/** Resets: whoever resets, and whatever was ended before, the other side learns of a reset and not of an end. */
const RESETS: readonly { readonly order: readonly Step[]; readonly by: 'client' | 'server' }[] = [
  { order: ['C'], by: 'client' },
  { order: ['S'], by: 'client' },
  { order: ['C', 'S'], by: 'server' },
  { order: [], by: 'server' },
  { order: ['C', 'c'], by: 'server' },
  { order: ['S', 's'], by: 'client' },
  { order: ['s'], by: 'client' },
  { order: ['c', 'S'], by: 'server' },
];

async function reset(
  pairs: Pairs,
  host: string,
  port: number,
  { order, by }: (typeof RESETS)[number],
): Promise<string> {
  const { client, server } = await pairs.open(host, port);
  const name = `${order.join('')} reset by ${by}`;
  for (const step of order) {
    const [from, to] = step === 'C' || step === 'c' ? [client, server] : [server, client];
    if (step === 'C' || step === 'S') {
      from.sent.push(randomBytes(5000));
      from.socket.write(from.sent.at(-1) ?? '');
      await seen(`bytes of ${name}`, () => sum(to.received) === sum(from.sent));
    } else {
      from.socket.end();
      await seen(`end of ${name}`, () => to.ended);
    }
  }
  const [from, to] = by === 'client' ? [client, server] : [server, client];
  from.socket.resetAndDestroy();
  await seen(`close of ${name}`, () => to.closed || to.error !== '' || to.ended);
  if (to.ended) return `${name}: the other side saw an end`;
  return /^(ECONNRESET|EPIPE)$/.test(to.error) ? '' : `${name}: ${to.error || 'closed'}`;
}

t.setTimeout(120_000);

t.test('F30 G22 half close through the mesh', { skip: reasonToSkipMesh() }, async (t) => {
  const running = await createTestMesh(t);
  const pairs = new Pairs(running);
  const port = 7000;
  const paths = [
    ['over a tunnel between nodes', podNamed(running, 'db').place],
    ['on the same node', podNamed(running, 'cart-v2').place],
  ] as const;
  t.ok(ORDERS.length >= 20, `${ORDERS.length} orders`);
  for (const [path, place] of paths) {
    const server = await listenIn(running.native, place, port, pairs.accept);
    for (const paced of [true, false]) {
      await t.test(`${path}, ${paced ? 'step by step' : 'all at once'}`, async (t) => {
        const results = await Promise.all(
          ORDERS.map((order) => play(pairs, place.ip, port, order, paced).catch(String)),
        );
        t.same(
          results.filter((result) => result !== ''),
          [],
          `${results.length} orders byte-exact`,
        );
      });
    }
    await t.test(`F31 a reset stays a reset ${path}`, async (t) => {
      const results = await Promise.all(
        RESETS.map((each) => reset(pairs, place.ip, port, each).catch(String)),
      );
      t.same(
        results.filter((result) => result !== ''),
        [],
      );
    });
    server.close();
  }
  const { tunnel, readable } = running.wire.counts();
  t.ok(tunnel > 100, `${tunnel} segments went through the tunnel`);
  t.equal(readable, 0);
});
