import fc from 'fast-check';
import t from 'tap';

import { comparablePath, normalisePath } from '../../src/http/request-path.ts';

void t.test('T86 one form for one path', (t) => {
  const cases: readonly (readonly [raw: string, path: string])[] = [
    ['/', '/'],
    ['/a/b', '/a/b'],
    ['/a/', '/a/'],
    ['//a', '/a'],
    ['///', '/'],
    ['/a//b///c', '/a/b/c'],
    ['/./a', '/a'],
    ['/a/.', '/a/'],
    ['/a/./b', '/a/b'],
    ['/a/../b', '/b'],
    ['/a/..', '/'],
    ['/a/b/..', '/a/'],
    ['/a//../b', '/b'],
    ['/%61dmin', '/admin'],
    ['/%41', '/A'],
    ['/a/%2e%2E/b', '/b'],
    ['/%2e/a', '/a'],
    ['/a%7eb', '/a~b'],
    ['/a%3bb', '/a%3Bb'],
    ['/a%20b', '/a%20b'],
    ['/caf%c3%a9', '/caf%C3%A9'],
    ['/a"b', '/a%22b'],
    ['/a|b[0]', '/a%7Cb%5B0%5D'],
    ['/a;x=1/b', '/a;x=1/b'],
    ['/100%25', '/100%25'],
    ['/a...', '/a...'],
    ['/...', '/...'],
  ];
  for (const [raw, path] of cases) {
    const result = normalisePath(raw);
    t.equal(result.ok ? result.value.path : result.error.message, path, raw);
  }
  t.end();
});

void t.test('T86 refuses what can be read in two ways', (t) => {
  const cases: readonly (readonly [raw: string, why: RegExp])[] = [
    ['', /begin/],
    ['a', /begin/],
    ['/a b', /printable/],
    ['/\u00e9', /printable/],
    ['/a\u0000', /printable/],
    ['/a#b', /fragment/],
    [String.raw`/a\..\b`, /backslash/],
    ['/a%2fb', /encoded slash/],
    ['/a%5Cb', /encoded slash/],
    ['/%', /malformed/],
    ['/%4', /malformed/],
    ['/%zz', /malformed/],
    ['/a%00', /control/],
    ['/a%0d%0a', /control/],
    ['/%7f', /control/],
    ['/%252e%252e/a', /encoded twice/],
    ['/%25%32%66', /encoded twice/],
    ['/%2561dmin', /encoded twice/],
    ['/..', /above/],
    ['/a/../../b', /above/],
    ['/%2e%2e/a', /above/],
    ['/%c0%ae%c0%ae/a', /UTF-8/],
    ['/%c0%af', /UTF-8/],
    ['/%ff', /UTF-8/],
    ['/%ed%a0%80', /UTF-8/],
    ['/a/..;/b', /parameters/],
    ['/a/..%3b/b', /parameters/],
    ['/.;x/b', /parameters/],
  ];
  for (const [raw, why] of cases) {
    const result = normalisePath(raw);
    t.match(result.ok ? `taken as ${result.value.path}` : result.error.message, why, raw);
    if (!result.ok) t.equal(result.error.code, 'MESH_HTTP_TARGET_INVALID');
  }
  t.end();
});

void t.test('T86 what is compared has every escape decoded that a path can hold', (t) => {
  const keep = { escapedSlash: 'keep', doubleEncoding: 'keep' } as const;
  const forms = (raw: string): unknown => {
    const result = normalisePath(raw, keep);
    return result.ok ? result.value : result.error.message;
  };
  t.strictSame(forms('/a%28b%29'), { path: '/a%28b%29', compared: '/a(b)', plain: '/a(b)' });
  t.strictSame(forms('/a%3Bx/b'), { path: '/a%3Bx/b', compared: '/a;x/b', plain: '/a/b' });
  t.strictSame(forms('/;a/b;c'), { path: '/;a/b;c', compared: '/;a/b;c', plain: '/b' });
  t.strictSame(forms('/a%2fb'), { path: '/a%2Fb', compared: '/a%2Fb', plain: '/a%2Fb' });
  t.match(forms('/a/..%2fb'), /dot segment beside/);
  t.match(forms('/a/.%5Cb'), /dot segment beside/);
  t.strictSame(forms('/a%252e'), { path: '/a%252e', compared: '/a%252e', plain: '/a%252e' });
  t.equal(comparablePath('/a b(é)'), '/a%20b(%C3%A9)');
  t.equal(comparablePath('/a%28'), '/a(');
  t.equal(comparablePath('/%'), '/%', 'what cannot be read stays');
  t.end();
});

const piece = fc.constantFrom(
  '/',
  '.',
  '..',
  '%2e',
  '%2E',
  '%2f',
  '%5c',
  '%25',
  '%',
  '2e',
  ';',
  'x',
  '%3b',
  '\\',
  '//',
  '%c3%a9',
  '%c0',
  '[',
  '#',
  '%00',
  'a',
  '=',
);
const raw = fc.oneof(
  fc.array(piece, { maxLength: 14 }).map((parts) => `/${parts.join('')}`),
  fc.string({ maxLength: 40 }),
  fc.webPath(),
);

void t.test('T86 property: a second pass changes nothing, and nothing ambiguous is left', (t) => {
  fc.assert(
    fc.property(raw, fc.boolean(), (text, strict) => {
      const rules = strict
        ? undefined
        : ({ escapedSlash: 'keep', doubleEncoding: 'keep' } as const);
      const first = normalisePath(text, rules);
      if (!first.ok) return;
      const { path, compared, plain } = first.value;
      const second = normalisePath(path, rules);
      if (!second.ok || second.value.path !== path) throw new Error(`not stable: ${path}`);
      if (second.value.compared !== compared || second.value.plain !== plain)
        throw new Error(`compared as ${compared}, then as ${second.value.compared}`);
      const segments = path.split('/');
      if (!path.startsWith('/') || /\/\/|[^\x21-\x7e]|[#\\?]/.test(path)) throw new Error(path);
      if (segments.includes('.') || segments.includes('..')) throw new Error(`dots: ${path}`);
      if (strict && /%2f|%5c|%25[0-9a-f]{2}/i.test(path)) throw new Error(`twice: ${path}`);
      // Whoever decodes once and resolves dots afterwards arrives where we did.
      const decoded = decodeURIComponent(path);
      if (decoded.split(/[/\\]/).some((segment) => segment === '..')) throw new Error(decoded);
    }),
    { numRuns: 20_000 },
  );
  t.pass('held for 20,000 paths');
  t.end();
});
