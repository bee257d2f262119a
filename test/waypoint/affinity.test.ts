/** What a client sticks by: header, cookie, address; issued cookies; hostile cookie lines (T63, T90). */

import fc from 'fast-check';
import t from 'tap';

import { createSeededRandom } from '../../src/base/random.ts';
import type { Affinity, AffinityCookie } from '../../src/core/traffic-policy.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import { chooseAffinity } from '../../src/waypoint/affinity.ts';

const cookie: AffinityCookie = {
  kind: 'cookie',
  name: 'sid',
  ttlMs: 0,
  path: '/',
  sameSite: '',
  secure: false,
};
const choose = (affinity: Affinity | undefined, headers: HeaderList = [], address = '10.0.0.1') =>
  chooseAffinity(affinity, headers, address, createSeededRandom(1));

t.test('header, address and nothing', async (t) => {
  const header: Affinity = { kind: 'header', name: 'x-user', issued: false };
  t.strictSame(choose(undefined), { hash: undefined, issue: undefined });
  t.strictSame(choose(header), { hash: undefined, issue: undefined });
  const alice = choose(header, [['x-user', 'alice']]);
  t.same(choose(header, [['x-user', 'alice']]), alice);
  t.not(choose(header, [['x-user', 'bob']]).hash, alice.hash);
  const address: Affinity = { kind: 'source-address' };
  t.not(choose(address, [], '10.0.0.1').hash, choose(address, [], '10.0.0.2').hash);
});

t.test('a cookie is issued once, and sticks to where its first request went', async (t) => {
  const first = choose({ ...cookie, ttlMs: 90_500, sameSite: 'Lax', secure: true });
  const [name, line = ''] = first.issue ?? [];
  t.equal(name, 'set-cookie');
  t.match(line, /^sid=[\w-]{22}; Path=\/; Max-Age=91; HttpOnly; SameSite=Lax; Secure$/);
  const value = line.slice(0, line.indexOf(';'));
  const again = choose(cookie, [['cookie', `a=b; ${value}; sid2=x`]]);
  t.strictSame(again, { hash: first.hash, issue: undefined });
  t.match(choose(cookie).issue?.[1], /^sid=[\w-]{22}; Path=\/; HttpOnly$/);
  const header: Affinity = { kind: 'header', name: 'x-session', issued: true };
  const issued = choose(header);
  t.equal(issued.issue?.[0], 'x-session');
  t.equal(choose(header, [['x-session', issued.issue?.[1] ?? '']]).hash, issued.hash);
});

t.test('the cookie is found by its whole name, on any line, the first counts', async (t) => {
  const of = (...lines: string[]) =>
    choose(
      cookie,
      lines.map((line) => ['cookie', line] as const),
    );
  const wanted = of('sid=x').hash;
  for (const lines of [
    ['a=1', 'sid=x'],
    ['xsid=1; sid=x'],
    ['sid=x; sid=y'],
    ['a=sid=y;sid=x'],
    ['  sid="x"  '],
    ['sid ; sid=x'],
  ]) {
    t.equal(of(...lines).hash, wanted, lines.join(' | '));
  }
  for (const line of ['sid', 'sid=', 'SID=x', 'a="; sid2=x', '']) t.ok(of(line).issue, line);
});

t.test(
  'any cookie lines are read in time in proportion to their length, never thrown',
  async () => {
    fc.assert(
      fc.property(fc.array(fc.string()), (lines) => {
        choose(
          cookie,
          lines.map((line) => ['cookie', line] as const),
        );
      }),
    );
    choose(cookie, [['cookie', ';'.repeat(100_000)]]);
    choose(cookie, [['cookie', `sid=${'x'.repeat(100_000)}`]]);
  },
);
