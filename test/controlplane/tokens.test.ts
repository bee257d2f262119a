/** T05: tokens from a file. */

import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createHash } from 'node:crypto';

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { unwrap } from '../../src/base/result.ts';
import { findCaller, openTokenFile, parseTokens } from '../../src/controlplane/tokens.ts';

const A = 'a'.repeat(32);
const B = 'b'.repeat(32);
const hashed = `sha256:${createHash('sha256').update(B).digest('hex')}`;

t.test('lines of node and token, or its hash; several per node', (t) => {
  const table = unwrap(
    parseTokens(
      `# nodes\n\nnode-a ${A}\n  node-b\t${hashed}\r\nnode-a ${A}x\nshop/waypoint ${A}w\n`,
    ),
  );
  t.same(findCaller(table, A), { kind: 'node', node: 'node-a' });
  t.same(findCaller(table, `${A}x`), { kind: 'node', node: 'node-a' });
  t.same(findCaller(table, B), { kind: 'node', node: 'node-b' });
  const waypoint = { kind: 'workload', namespace: 'shop', serviceAccount: 'waypoint' };
  t.same(findCaller(table, `${A}w`), waypoint, 'a workload proves its own account');
  for (const wrong of ['', 'x', hashed, `${A} `, A.toUpperCase(), 'y'.repeat(10_000)]) {
    t.equal(findCaller(table, wrong), undefined);
  }
  t.end();
});

t.test('what is wrong is refused with its line, and without the token', (t) => {
  const rows: [string, RegExp][] = [
    ['node-a', /line 1: must be/],
    [`\nnode-a ${A} more`, /line 2: must be/],
    [`Node_A ${A}`, /node or account/],
    [`shop/ ${A}`, /node or account/],
    [`a/b/c ${A}`, /node or account/],
    ['node-a short', /shorter than 16/],
    [`node-a ${A}\nnode-b ${A}`, /line 2: the token is that of "node-a" too/],
  ];
  for (const [text, message] of rows) {
    const result = parseTokens(text);
    t.match(result, { ok: false, error: { code: 'MESH_CONFIG_INVALID', message } });
    if (!result.ok) t.notOk(result.error.message.includes(A));
  }
  t.end();
});

t.test('any text is read or refused, never thrown at', (t) => {
  fc.assert(
    fc.property(fc.string({ maxLength: 200 }), fc.string(), (text, token) => {
      const table = parseTokens(text);
      return !table.ok || findCaller(table.value, token) === undefined || token.length >= 16;
    }),
  );
  t.end();
});

async function settle(clock: FakeClock, done: () => Promise<boolean>): Promise<void> {
  for (let round = 0; round < 200; round++) {
    await clock.advance(1_000);
    if (await done()) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  throw new Error('never happened');
}

t.test(
  'the file is checked, read again when replaced, and its last good version stays',
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'nodemesh-tokens-'));
    t.teardown(() => rm(folder, { recursive: true }));
    const path = join(folder, 'tokens');
    const clock = createFakeClock();
    const options = { path, clock, logger: createNullLogger(), ownUid: process.getuid?.() ?? 0 };
    await t.rejects(openTokenFile(options), { code: 'ENOENT' });
    await writeFile(path, `node-a ${A}\n`, { mode: 0o644 });
    await chmod(path, 0o644);
    await t.rejects(openTokenFile(options), { message: /mode to 0600/ });
    await chmod(path, 0o600);
    await t.rejects(openTokenFile({ ...options, path: folder }), { message: /not a file|EISDIR/ });
    using tokens = await openTokenFile(options);
    const isKnown = async (token: string): Promise<boolean> =>
      (await tokens.authenticate(token)).ok;
    t.equal(tokens.callerCount, 1);
    t.equal(await isKnown(A), true);
    t.match(await tokens.authenticate(B), { error: { code: 'MESH_DISCOVERY_UNAUTHENTICATED' } });

    await writeFile(`${path}.new`, `node-b ${B}\n`, { mode: 0o600 });
    await rename(`${path}.new`, path);
    await settle(clock, () => isKnown(B));
    t.equal(await isKnown(A), false, 'a token that is gone proves nothing');

    await writeFile(`${path}.new`, '', { mode: 0o600 });
    await rename(`${path}.new`, path);
    await settle(clock, () => Promise.resolve(true));
    t.equal(await isKnown(B), true, 'an empty file locks nobody out');
    await writeFile(path, 'nonsense\n');
    await settle(clock, () => Promise.resolve(true));
    t.equal(await isKnown(B), true);
    await rm(path);
    await settle(clock, () => Promise.resolve(true));
    t.equal(await isKnown(B), true);
  },
);
