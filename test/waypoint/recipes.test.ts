/** The YAML of the waypoint's page: read by the controller, over the wire, into a real waypoint, driven with requests. */

import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { join } from 'node:path';

import t from 'tap';
import { parse } from 'yaml';

import type { SpiffeId } from '../../src/core/identity.ts';
import { read, type Json } from '../controlplane/build.ts';
import { shop } from './shop.ts';

const PAGE = readFileSync(join(import.meta.dirname, '../../src/waypoint/README.md'), 'utf8');
const BLOCKS = [...PAGE.matchAll(/```yaml\n([^`]*)```/g)].map(([, block = '']) => block);

const recipe = (name: string): Json => {
  const block = BLOCKS.find((text) => text.startsWith(`# recipe: ${name}\n`));
  if (block === undefined) throw new Error(`no recipe ${name}`);
  return parse(block) as Json;
};

const replaceHandler = (server: Server | undefined, status: () => number): void => {
  server?.removeAllListeners('request');
  server?.on('request', (_, response) => void response.writeHead(status()).end('failing'));
};

t.test('every block of the page is an object that the controller takes', async (t) => {
  t.ok(BLOCKS.length >= 8);
  for (const block of BLOCKS) t.doesNotThrow(() => read(parse(block) as Json), block.slice(0, 40));
});

t.test('canary: weights rise step by step under load, and no request is lost', async (t) => {
  const { rig, apply, get } = await shop(t);
  const route = recipe('canary');
  const weigh = (v2: number): Json => {
    const changed = structuredClone(route) as unknown as {
      spec: { rules: { backendRefs: { name: string; weight: number }[] }[] };
    };
    for (const ref of changed.spec.rules[0]?.backendRefs ?? []) {
      ref.weight = ref.name === 'cart-v2' ? v2 : 100 - v2;
    }
    return changed;
  };
  apply(route);
  const seen: { readonly share: number; readonly body: string; readonly status: number }[] = [];
  let share = 10;
  const done = new AbortController();
  const client = async (): Promise<void> => {
    while (!done.signal.aborted) {
      const asked = share;
      const { body, status } = await get();
      if (asked === share) seen.push({ share, body, status });
      else if (status !== 200) seen.push({ share: -1, body, status });
    }
  };
  const clients = [client(), client(), client(), client()];
  for (const next of [10, 25, 50, 100]) {
    share = next;
    apply(weigh(next));
    const until = rig.records.length + 200;
    await rig.recorded(until);
  }
  done.abort();
  await Promise.all(clients);
  t.strictSame(
    seen.filter(({ status }) => status !== 200),
    [],
    'no request failed',
  );
  for (const [step, low, high] of [
    [10, 0.01, 0.25],
    [25, 0.1, 0.42],
    [50, 0.33, 0.67],
    [100, 1, 1],
  ] as const) {
    const answers = seen.filter((answer) => answer.share === step);
    const v2 = answers.filter(({ body }) => body === 'cart-v2').length / answers.length;
    t.ok(v2 >= low && v2 <= high, `${step} %: ${v2} of ${answers.length}`);
  }
  t.notOk(rig.records.some(({ flag }) => flag !== '-'));
});

t.test('A/B: a header chooses the version', async (t) => {
  const { apply, count } = await shop(t);
  apply(recipe('a-b'));
  t.strictSame([...(await count(5, { 'x-group': 'beta' })).keys()], ['cart-v2']);
  t.strictSame([...(await count(5)).keys()], ['cart-v1']);
});

t.test('blue/green: all on one version, and back', async (t) => {
  const { apply, count } = await shop(t);
  const green = recipe('blue-green');
  apply(green);
  t.strictSame([...(await count(10)).keys()], ['cart-v2']);
  const text = JSON.stringify(green)
    .replace('"weight":0', '"weight":7')
    .replace('"weight":1', '"weight":0')
    .replace('"weight":7', '"weight":1');
  apply(JSON.parse(text) as Json);
  t.strictSame([...(await count(10)).keys()], ['cart-v1']);
});

t.test('retry: what fails half of the time is not seen', async (t) => {
  const { rig, apply, get, servers } = await shop(t);
  let turn = 0;
  replaceHandler(servers.get('cart'), () => (turn++ % 2 === 0 ? 500 : 200));
  t.equal((await get()).status, 500, 'seen without the policy');
  apply(recipe('retry'));
  turn = 0;
  for (let i = 0; i < 10; i++) t.equal((await get()).status, 200);
  t.equal(turn, 20);
  t.ok(rig.records.slice(1).every(({ attempts }) => attempts === 2));
});

t.test('sticky: the cookie of the page is issued', async (t) => {
  const { apply, get } = await shop(t);
  apply(recipe('sticky'));
  const [cookie = ''] = (await get()).headers['set-cookie'] ?? [];
  t.match(cookie, /^cart-session=.*Max-Age=3600; HttpOnly; SameSite=Lax$/);
});

t.test('rate limit: three an hour for each client', async (t) => {
  const { apply, get } = await shop(t);
  apply(recipe('rate-limit'));
  const statuses: number[] = [];
  for (let i = 0; i < 4; i++) statuses.push((await get()).status);
  t.strictSame(statuses, [200, 200, 200, 429]);
  t.equal((await get({}, 'spiffe://cluster.local/ns/shop/sa/other' as SpiffeId)).status, 200);
});

t.test('failover: the other service answers while nobody is ready', async (t) => {
  const { rig, apply, get } = await shop(t);
  apply(recipe('failover'));
  t.equal((await get()).body, 'cart');
  const [service] = [...rig.state.services.all()].filter(({ name }) => name === 'cart');
  const [pod] = service === undefined ? [] : [...rig.state.services.endpoints(service.key)];
  if (pod === undefined) throw new Error('No endpoint');
  rig.state.applyAddresses({ workloads: [{ ...pod, healthy: false }] });
  t.equal((await get()).body, 'cart-v2');
});
