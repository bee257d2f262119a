/** Readiness over real HTTP: ready exactly if nothing blocks, and what blocks by name. */

import t from 'tap';

import { serveReadiness, type Readiness } from '../../src/admin/readiness.ts';
import { createNullLogger } from '../../src/base/logger.ts';

async function ask(readiness: Readiness | (() => Readiness)) {
  const read = typeof readiness === 'function' ? readiness : () => readiness;
  const logger = createNullLogger();
  await using server = await serveReadiness({ host: '127.0.0.1', port: 0, logger, read });
  const response = await fetch(`http://127.0.0.1:${server.port}/healthz/ready`);
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.startsWith('application/json') === true;
  return {
    status: response.status,
    body: isJson ? (JSON.parse(text) as Record<string, unknown>) : text,
  };
}

const none: Readiness = { blockers: [], pods: new Map(), workers: new Map() };

t.test('readiness is 200 when nothing blocks', async (t) => {
  const workers = new Map([
    ['0', []],
    ['1', ['starting']],
  ]);
  const { status, body } = await ask({ ...none, workers });
  t.equal(status, 200);
  t.match(body, { ready: true, blockers: [], workers: { 0: [], 1: ['starting'] } });
});

t.test('readiness is 503 and names what blocks', async (t) => {
  const { status, body } = await ask({ ...none, blockers: ['no policies yet'] });
  t.equal(status, 503);
  t.match(body, { ready: false, blockers: ['no policies yet'] });
});

t.test('readiness needs one worker that is ready', async (t) => {
  const workers = new Map([['0', ['starting']]]);
  const { status, body } = await ask({ ...none, workers });
  t.equal(status, 503);
  t.match(body, { blockers: ['no worker is ready'] });
});

t.test('a pod that is blocked is told, first, and does not make the node unready', async (t) => {
  const pods = new Map(Array.from({ length: 2000 }, (_, n) => [`shop/p${n}`, [] as string[]]));
  pods.set('shop/web', ['no certificate']);
  const { status, body } = await ask({ ...none, pods });
  t.equal(status, 200);
  t.match(body, { podCount: 2001, podsReady: 2000, pods: { 'shop/web': ['no certificate'] } });
  t.equal(Object.keys((body as { pods: object }).pods).length, 500);
});

t.test('readiness that cannot be read is not ready', async (t) => {
  const { status, body } = await ask(() => {
    throw new Error('broken');
  });
  t.equal(status, 500);
  t.equal(body, 'Internal error\n', 'and tells strangers nothing');
});
