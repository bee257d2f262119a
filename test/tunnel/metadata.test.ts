import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { formatSocketAddress, parseSocketAddress } from '../../src/core/address.ts';
import { parseAuthority } from '../../src/tunnel/authority.ts';
import {
  formatBaggage,
  formatForwarded,
  formatTraceparent,
  parseBaggage,
  parseForwarded,
  parseTraceId,
  type WorkloadMetadata,
} from '../../src/tunnel/metadata.ts';

const word = fc.stringMatching(/^[a-z0-9.-]{0,30}$/);
const metadata: fc.Arbitrary<WorkloadMetadata> = fc.record({
  cluster: word,
  namespace: word,
  workloadType: fc.constantFrom('deployment', 'cronjob', 'pod', 'job'),
  workloadName: fc.stringMatching(/^[a-z0-9.-]{1,30}$/),
  canonicalName: word,
  canonicalRevision: word,
  region: word,
  zone: word,
});

t.test('baggage that we write is baggage that we read', (t) => {
  fc.assert(
    fc.property(metadata, (given) => {
      const read = parseBaggage([formatBaggage(given)]);
      return JSON.stringify(read) === JSON.stringify(given);
    }),
  );
  t.pass('for any metadata');
  t.end();
});

t.test('T44 baggage from a peer is bounded and never throws', (t) => {
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 6000 }), { maxLength: 5 }), (lines) =>
      Object.values(parseBaggage(lines)).every((value: string) => value.length <= 253),
    ),
  );
  const merged = parseBaggage(['service.name=web', 'service.version=v2,unknown=x,service.name=b']);
  t.equal(merged.canonicalName, 'web');
  t.equal(merged.canonicalRevision, 'v2');
  t.equal(parseBaggage(['service.name=']).canonicalName, '', 'an empty value is as absent');
  t.equal(
    parseBaggage(['service.name=a\u001b[31m']).canonicalName,
    '',
    'T109 no control characters',
  );
  t.end();
});

t.test('forwarded is read quoted and unquoted, and never throws', (t) => {
  const source = unwrap(parseSocketAddress('[fd00::1]:4711'));
  const text = formatForwarded(source, 'db.shop.svc.cluster.local');
  t.equal(text, 'for="[fd00::1]:4711";host=db.shop.svc.cluster.local');
  t.same(parseForwarded(text), { source, host: 'db.shop.svc.cluster.local' });
  t.equal(parseForwarded('for=10.0.0.1:80;host="db"').host, 'db');
  t.equal(parseForwarded('for="999.0.0.1:80"').source, undefined);
  fc.assert(fc.property(fc.string(), (given) => parseForwarded(given).host.length <= 253));
  t.end();
});

t.test('traceparent correlates only when it is well formed', (t) => {
  const text = formatTraceparent(Buffer.alloc(24, 7));
  t.equal(text.length, 55);
  t.equal(parseTraceId(text), '07'.repeat(16));
  for (const bad of ['', text.slice(1), `${text}0`, text.toUpperCase().replaceAll('0', 'A')]) {
    t.equal(parseTraceId(bad), '');
  }
  t.equal(parseTraceId(`00-${'0'.repeat(32)}-${'1'.repeat(16)}-00`), '', 'no all-zero id');
  t.end();
});

t.test('T40 an authority is an address in one form or a name, never resolved', (t) => {
  t.same(unwrap(parseAuthority('[fd00:0:0::1]:80')), {
    kind: 'address',
    ip: 'fd00::1',
    port: 80,
  });
  t.same(unwrap(parseAuthority('[::ffff:10.0.0.1]:80')), {
    kind: 'address',
    ip: '10.0.0.1',
    port: 80,
  });
  t.equal(unwrap(parseAuthority('db.shop.svc.cluster.local:5432')).kind, 'hostname');
  const bad = [
    '',
    ':80',
    'db',
    'db:',
    'db:65536',
    'db:+80',
    'db: 80',
    'db:0080',
    '10.0.0.1:080',
    '010.0.0.1:80',
    '0x0a000001:80',
    '167772161:80',
    '10.1:80',
    'fd00::1:80',
    '[fd00::1%eth0]:80',
    '[10.0.0.1]:80',
    'user@db:80',
    'db/path:80',
    'DB:80',
    '-db:80',
    'db.:80',
    'd b:80',
    'db\u0000:80',
    'db。shop:80',
    `${'a'.repeat(254)}:80`,
  ];
  for (const text of bad) t.equal(parseAuthority(text).ok, false, JSON.stringify(text));
  fc.assert(
    fc.property(fc.string(), (text) => {
      const parsed = parseAuthority(text);
      return !parsed.ok || (parsed.value.port >= 1 && parsed.value.port <= 65_535);
    }),
  );
  fc.assert(
    fc.property(fc.ipV4(), fc.integer({ min: 1, max: 65_535 }), (ip, port) => {
      const parsed = parseAuthority(`${ip}:${port}`);
      return (
        parsed.ok &&
        parsed.value.kind === 'address' &&
        formatSocketAddress(parsed.value) === `${ip}:${port}`
      );
    }),
  );
  t.end();
});
