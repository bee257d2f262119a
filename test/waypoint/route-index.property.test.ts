import fc from 'fast-check';
import t from 'tap';

import type { HttpMatch, HttpRule, NamedMatch, PathMatch } from '../../src/core/route.ts';
import type { RoutableRequest } from '../../src/waypoint/route-candidate.ts';
import { createRouteIndex } from '../../src/waypoint/route-index.ts';
import { buildRef, buildRule, buildSet } from './build-routes.ts';

// Small alphabets, so that rules meet each other.
const segment = fc.constantFrom('a', 'b', 'v2', 'v2x');
const path = fc.array(segment, { maxLength: 3 }).map((segments) => `/${segments.join('/')}`);
const pathMatch: fc.Arbitrary<PathMatch> = fc.oneof(
  path.map((value) => ({ kind: 'exact' as const, value })),
  fc.tuple(path, fc.boolean()).map(([value, slash]) => ({
    kind: 'prefix' as const,
    value: slash && value !== '/' ? `${value}/` : value,
  })),
  fc.constantFrom('/a.*', '/(a|b)/.*', '/[ab]', '/v2x?', '/a?', '(').map((value) => ({
    kind: 'regex' as const,
    value,
  })),
);
const named = (names: readonly string[]): fc.Arbitrary<NamedMatch[]> =>
  fc.uniqueArray(
    fc.record({
      name: fc.constantFrom(...names),
      match: fc.oneof(
        fc.constantFrom('1', '2', '3').map((value) => ({ kind: 'exact' as const, value })),
        fc.constantFrom('[12]', '.*').map((value) => ({ kind: 'regex' as const, value })),
      ),
    }),
    { maxLength: 2, selector: ({ name }) => name },
  );
const match: fc.Arbitrary<HttpMatch> = fc.record({
  path: pathMatch,
  method: fc.constantFrom('', 'GET', 'POST'),
  headers: named(['x', 'y']),
  queryParams: named(['p', 'q']),
});
const hostnames = fc.uniqueArray(
  fc.constantFrom('a.test', 'b.a.test', '*.a.test', '*.test', '*.b.a.test'),
  { maxLength: 2 },
);
const rules: fc.Arbitrary<HttpRule[]> = fc
  .array(
    fc.record({
      hosts: hostnames,
      createdMs: fc.constantFrom(1, 2),
      name: fc.constantFrom('m', 'n'),
      matches: fc.array(match, { minLength: 1, maxLength: 3 }),
    }),
    { minLength: 8, maxLength: 40, size: 'max' },
  )
  .map((list) =>
    list.map(({ hosts, createdMs, name, matches }, index) =>
      buildRule({ hostnames: hosts, index, matches, route: buildRef({ name, createdMs }) }),
    ),
  );
const request: fc.Arbitrary<RoutableRequest> = fc.record({
  method: fc.constantFrom('GET', 'POST', 'PUT'),
  host: fc.constantFrom('a.test', 'b.a.test', 'c.b.a.test', 'x.a.test', 'test', 'other'),
  path: fc
    .tuple(path, fc.boolean())
    .map(([text, slash]) => (slash ? `${text}/` : text))
    .map((text) => text.replace('//', '/')),
  query: fc.constantFrom('', '?p=1', '?q=2&p=1', '?p=3&p=1', '?q=2', '?q=%32'),
  headers: fc.array(fc.tuple(fc.constantFrom('x', 'y', 'z'), fc.constantFrom('1', '2', '3')), {
    maxLength: 3,
  }),
});

/**
 * The specification, read literally and slowly: all combinations that match, sorted by the list in the comment of
 * `HTTPRouteRule.matches` and of `HTTPRoute.hostnames`.
 */
function naive(list: readonly HttpRule[], req: RoutableRequest): HttpRule | undefined {
  const hits: { rule: HttpRule; key: (number | string)[] }[] = [];
  for (const rule of list) {
    for (const hostname of rule.hostnames.length === 0 ? ['*'] : rule.hostnames) {
      const wildcard = hostname.startsWith('*');
      const hostHit =
        hostname === '*' ||
        (wildcard ? req.host.endsWith(hostname.slice(1)) : req.host === hostname);
      if (!hostHit) continue;
      for (const [place, m] of rule.matches.entries()) {
        if (!pathHit(m.path, req.path)) continue;
        if (m.method !== '' && m.method !== req.method) continue;
        const headerHit = m.headers.every((h) => {
          const values = req.headers.filter(([name]) => name === h.name).map(([, v]) => v);
          return values.length > 0 && valueHit(h, values.join(','));
        });
        const params = new URLSearchParams(req.query);
        const queryHit = m.queryParams.every((p) => {
          const value = params.get(p.name);
          return value !== null && valueHit(p, value);
        });
        if (!headerHit || !queryHit) continue;
        const { kind, value } = m.path;
        const chars = kind === 'prefix' ? value.replace(/\/$/, '').length : value.length;
        hits.push({
          rule,
          key: [
            hostname === '*' ? 2 : wildcard ? 1 : 0,
            -hostname.length,
            ['exact', 'regex', 'prefix'].indexOf(kind),
            -chars,
            m.method === '' ? 1 : 0,
            -m.headers.length,
            -m.queryParams.length,
            rule.route.createdMs,
            `${rule.route.namespace}/${rule.route.name}`,
            rule.index,
            place,
          ],
        });
      }
    }
  }
  hits.sort((a, b) => {
    const at = a.key.findIndex((part, index) => part !== b.key[index]);
    if (at < 0) return 0;
    return (a.key[at] ?? 0) < (b.key[at] ?? 0) ? -1 : 1;
  });
  return hits[0]?.rule;
}

function valueHit(named: NamedMatch, value: string): boolean {
  if (named.match.kind === 'exact') return named.match.value === value;
  return new RegExp(`^(?:${named.match.value})$`).test(value);
}

function pathHit(m: PathMatch, text: string): boolean {
  if (m.kind === 'exact') return m.value === text;
  if (m.kind === 'regex') return m.value !== '(' && new RegExp(`^(?:${m.value})$`).test(text);
  const wanted = m.value.split('/').filter((part) => part !== '');
  const given = text.split('/').slice(1);
  return wanted.every((part, index) => part === given[index]);
}

void t.test('property: the index answers as the specification read literally', (t) => {
  let found = 0;
  fc.assert(
    fc.property(rules, fc.array(request, { minLength: 10, maxLength: 10 }), (list, requests) => {
      const index = createRouteIndex(buildSet(list));
      for (const req of requests) {
        const got = index.find(req)?.rule;
        const wanted = naive(list, req);
        if (got !== wanted) {
          throw new Error(`${JSON.stringify(req)}: rule ${got?.index} and not ${wanted?.index}`);
        }
        if (got !== undefined) found++;
      }
    }),
    { numRuns: 3_000 },
  );
  t.ok(found > 10_000, `${found} requests met a rule`);
  t.end();
});

/** Routes as large meshes have them: a path, a host, a header or a regular prefix each. */
function manyRules(count: number): HttpRule[] {
  return Array.from({ length: count }, (_, i) => {
    const path = {
      kind: i % 4 === 0 ? ('exact' as const) : ('prefix' as const),
      value: `/svc${i}/api`,
    };
    const root = { kind: 'prefix' as const, value: '/' };
    const header = { name: 'x', match: { kind: 'exact' as const, value: String(i) } };
    return buildRule({
      index: i,
      hostnames: i % 4 === 1 ? [`h${i}.test`] : [],
      matches: [
        {
          path: i % 4 === 2 ? root : path,
          method: '',
          headers: i % 4 === 2 ? [header] : [],
          queryParams: [],
        },
      ],
    });
  });
}

/** How often an answer looks at the request, for the request that each kind of rule is for. */
function looks(count: number): number[] {
  const index = createRouteIndex(buildSet(manyRules(count)));
  return [0, 1, 2, 3].map((kind) => {
    const wanted = count - 4 + kind - (count % 4);
    let reads = 0;
    const request: RoutableRequest = {
      method: 'GET',
      host: `h${wanted}.test`,
      path: `/svc${wanted}/api`,
      query: '',
      headers: [['x', kind === 2 ? String(wanted) : 'none']],
    };
    const counted = new Proxy(request, {
      get(target, key, receiver) {
        reads++;
        return Reflect.get(target, key, receiver) as unknown;
      },
    });
    const found = index.find(counted)?.rule.index;
    if (found !== wanted) throw new Error(`rule ${found} and not ${wanted}`);
    return reads;
  });
}

void t.test('the work for one request is the same with 100 and with 10,000 routes', (t) => {
  t.strictSame(looks(10_000), looks(100));
  t.end();
});
