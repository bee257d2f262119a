import fc from 'fast-check';
import t from 'tap';

import {
  normaliseTarget,
  STRICT_TARGETS,
  type RawTarget,
  type TargetRules,
} from '../../src/http/request-target.ts';

const BASE: RawTarget = {
  method: 'GET',
  scheme: 'http',
  target: '/',
  authority: undefined,
  hosts: ['shop'],
};

function read(change: Partial<RawTarget>, rules?: TargetRules): string {
  const result = normaliseTarget({ ...BASE, ...change }, rules);
  if (!result.ok) return result.error.message;
  const { scheme, authority, path, query } = result.value;
  return `${scheme}://${authority}${path}${query}`;
}

void t.test('T87 one form for one host', (t) => {
  const cases: readonly (readonly [host: string, authority: string])[] = [
    ['shop', 'shop'],
    ['SHOP.Example.COM', 'shop.example.com'],
    ['shop.', 'shop'],
    ['shop:80', 'shop'],
    ['shop.:80', 'shop'],
    ['shop:8080', 'shop:8080'],
    ['shop:443', 'shop:443'],
    ['10.0.0.1', '10.0.0.1'],
    ['10.0.0.1:81', '10.0.0.1:81'],
    ['[2001:DB8::1]', '[2001:db8::1]'],
    ['[2001:db8:0:0::1]:81', '[2001:db8::1]:81'],
    ['my_db.shop', 'my_db.shop'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
  ];
  for (const [host, authority] of cases) {
    t.equal(read({ hosts: [host] }), `http://${authority}/`, host);
    t.equal(read({ hosts: [], authority: host }), `http://${authority}/`, `:authority ${host}`);
  }
  t.equal(read({ scheme: 'https', hosts: ['shop:443'] }), 'https://shop/');
  t.end();
});

void t.test('T87 refuses a host that can be read in two ways', (t) => {
  const bad = [
    '',
    '.',
    'a..b',
    '-a',
    'a-',
    'user@shop',
    'user:pw@shop',
    'shop:',
    'shop:0',
    'shop:080',
    'shop:65536',
    'shop:8a',
    'shop:80:80',
    'shop%2eexample',
    'b\u00fccher',
    'sh op',
    'shop/x',
    'shop,evil',
    'shop#x',
    '0177.0.0.1',
    '127.1',
    '2130706433',
    '0x7f000001',
    '1.2.3.4.5',
    '::1',
    '[::1',
    '[::1]x',
    '[fe80::1%25eth0]',
    '[1.2.3.4]',
    'a'.repeat(64),
    `${'a.'.repeat(127)}a`,
  ];
  for (const host of bad) {
    t.match(read({ hosts: [host] }), /^Cannot serve/, `Host ${JSON.stringify(host)}`);
    t.match(read({ hosts: [], authority: host }), /^Cannot serve/, `:authority ${host}`);
  }
  t.end();
});

void t.test('T87 everybody who names a host names the same', (t) => {
  t.match(read({ hosts: [] }), /no host/);
  t.match(read({ hosts: ['shop', 'shop'] }), /more than one Host/);
  t.match(read({ hosts: ['shop'], authority: 'bank' }), /two hosts/);
  t.match(read({ hosts: ['bank:8080'], authority: 'bank' }), /two hosts/);
  t.match(read({ hosts: ['user@shop'], authority: 'shop' }), /user information/);
  t.equal(read({ hosts: ['SHOP:80'], authority: 'shop.' }), 'http://shop/');
  t.end();
});

void t.test('T50 whole URLs and CONNECT are for forward proxies', (t) => {
  t.match(read({ target: 'http://shop/a' }), /whole URL/);
  t.match(read({ method: 'CONNECT', target: 'shop:80' }), /CONNECT/);
  t.match(read({ scheme: 'ftp' }), /scheme/);
  const lenient: TargetRules = { ...STRICT_TARGETS, absoluteForm: 'accept' };
  t.equal(read({ target: 'http://SHOP/a/../b?c' }, lenient), 'http://shop/b?c');
  t.equal(read({ target: 'HTTP://shop?c' }, lenient), 'http://shop/?c');
  t.match(read({ target: 'http://bank/a' }, lenient), /two hosts/);
  t.match(read({ target: 'http://x@shop/a' }, lenient), /user information/);
  t.match(read({ target: 'gopher://shop/a' }, lenient), /slash/);
  t.end();
});

void t.test('T86 the rest of the target', (t) => {
  t.equal(read({ target: '*', method: 'OPTIONS' }), 'http://shop*');
  t.match(read({ target: '*' }), /OPTIONS/);
  t.equal(read({ target: '/a?' }), 'http://shop/a');
  t.equal(read({ target: '/a?b=%2f&c=d?e' }), 'http://shop/a?b=%2f&c=d?e', 'the query stays');
  t.match(read({ target: '/a?b#c' }), /fragment/);
  t.match(read({ target: '/a?b c' }), /query/);
  t.match(read({ target: `/${'a'.repeat(16_384)}` }), /too long/);
  t.end();
});

void t.test('T87 property: a second pass changes nothing', (t) => {
  const host = fc.oneof(
    fc.domain(),
    fc.ipV4(),
    fc.ipV6().map((ip) => `[${ip}]`),
    fc.string({ maxLength: 20 }),
    fc
      .array(fc.constantFrom('a', 'A', '.', ':', '8', '0', '[', ']', '-', '_', '@', '%'), {
        maxLength: 12,
      })
      .map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(host, fc.constantFrom('http', 'https'), (text, scheme) => {
      const first = normaliseTarget({ ...BASE, scheme, hosts: [text] });
      if (!first.ok) return;
      const { authority } = first.value;
      const second = normaliseTarget({ ...BASE, scheme, hosts: [authority] });
      if (!second.ok || second.value.authority !== authority) throw new Error(authority);
      if (!/^(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?$/.test(authority))
        throw new Error(authority);
    }),
    { numRuns: 10_000 },
  );
  t.pass('held for 10,000 hosts');
  t.end();
});
