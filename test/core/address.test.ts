import { BlockList, isIPv4, isIPv6 } from 'node:net';
import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import {
  addressBytes,
  addressFromBytes,
  cidrContains,
  formatSocketAddress,
  isLoopback,
  parseAddress,
  parseCidr,
  parsePort,
  parseSocketAddress,
} from '../../src/core/address.ts';

const canonical = (text: string): string | undefined => {
  const parsed = parseAddress(text);
  return parsed.ok ? parsed.value : undefined;
};

void t.test('parseAddress gives one text for one address (T25)', async (t) => {
  const cases: [string, string][] = [
    ['10.0.0.1', '10.0.0.1'],
    ['::ffff:10.0.0.1', '10.0.0.1'],
    ['::FFFF:0a00:0001', '10.0.0.1'],
    ['0:0:0:0:0:ffff:10.0.0.1', '10.0.0.1'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['FD00::00AB', 'fd00::ab'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['64:ff9b::10.0.0.1', '64:ff9b::a00:1'],
    ['::10.0.0.1', '::a00:1'],
  ];
  for (const [text, expected] of cases) t.equal(canonical(text), expected, text);
});

void t.test('parseAddress refuses shorthand, zones and everything else (T25)', async (t) => {
  const bad = [
    '',
    ' ',
    '10.0.0',
    '10.1',
    '010.0.0.1',
    '0x0a.0.0.1',
    '167772161',
    '10.0.0.256',
    '10.0.0.1 ',
  ];
  const worse = [
    '10.0.0.1/8',
    '10.0.0.1:80',
    'fe80::1%eth0',
    '::ffff:10.0.0.1%1',
    '1::2::3',
    ':::',
    '[::1]',
  ];
  const worst = [
    'localhost',
    '::g',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '::ffff:010.0.0.1',
    '١٠.0.0.1',
    '::1\n',
  ];
  for (const text of [...bad, ...worse, ...worst, '1'.repeat(1_000_000)]) {
    const parsed = parseAddress(text);
    t.match(parsed, { ok: false, error: { code: 'MESH_ADDRESS_INVALID' } }, text.slice(0, 40));
    if (!parsed.ok && parsed.error.message.length > 200) t.fail('message is not bounded');
  }
});

const bytes4 = fc.uint8Array({ minLength: 4, maxLength: 4 });
const bytes16 = fc.uint8Array({ minLength: 16, maxLength: 16 });
/** Zeros in runs, where the compressed form is decided. */
const sparse = fc
  .array(fc.constantFrom(0, 0, 0, 1, 0xffff), { minLength: 8, maxLength: 8 })
  .map((words) => Uint8Array.from(words.flatMap((word) => [word >> 8, word & 255])));
const bytes = fc.oneof(bytes4, bytes16, sparse);
/** As URLs write IPv6, RFC 5952: an implementation that is not ours. */
const asUrl = (text: string): string => new URL(`http://[${text}]/`).hostname.slice(1, -1);

void t.test(
  'addresses return as the bytes they came from, in the text that RFC 5952 wants',
  async () => {
    fc.assert(
      fc.property(bytes, (given) => {
        const address = unwrap(addressFromBytes(given));
        const back = addressBytes(address);
        const mapped = given.length === 16 && isIPv4(address);
        if (!Buffer.from(mapped ? given.subarray(12) : given).equals(back)) return false;
        if (canonical(address) !== address) return false;
        return isIPv4(address) || asUrl(address) === address;
      }),
      { numRuns: 1000 },
    );
  },
);

void t.test('parseAddress never throws, and what it accepts is canonical', async () => {
  const text = fc.oneof(
    fc.string({ maxLength: 60 }),
    fc.string({ unit: fc.constantFrom(...Array.from('0123456789abcdefF:.%/')), maxLength: 46 }),
    fc.ipV4(),
    fc.ipV6(),
  );
  fc.assert(
    fc.property(text, (given) => {
      const parsed = parseAddress(given);
      if (!parsed.ok) return (!isIPv4(given) && !isIPv6(given)) || given.includes('%');
      return canonical(parsed.value) === parsed.value;
    }),
    { numRuns: 2000 },
  );
});

void t.test('addressFromBytes refuses other lengths', async (t) => {
  for (const length of [0, 1, 3, 5, 15, 17, 1000]) {
    t.match(addressFromBytes(Buffer.alloc(length)), {
      ok: false,
      error: { code: 'MESH_ADDRESS_INVALID' },
    });
  }
});

void t.test('parseCidr reads blocks strictly', async (t) => {
  const good: [string, string, number][] = [
    ['10.0.0.0/8', '10.0.0.0', 8],
    ['0.0.0.0/0', '0.0.0.0', 0],
    ['10.0.0.1', '10.0.0.1', 32],
    ['FD00::/8', 'fd00::', 8],
    ['::/0', '::', 0],
    ['fd00::1', 'fd00::1', 128],
    ['10.128.0.0/9', '10.128.0.0', 9],
  ];
  for (const [text, ip, prefixLength] of good) {
    t.same(parseCidr(text), { ok: true, value: { ip, prefixLength } }, text);
  }
  const bad = [
    '10.0.0.1/8',
    '10.0.0.0/33',
    'fd00::/129',
    '10.0.0.0/',
    '10.0.0.0/08',
    '10.0.0.0/-1',
  ];
  for (const text of [
    ...bad,
    '10.0.0.0/8/8',
    '/8',
    '10.0.0.0/1e1',
    '::ffff:10.0.0.0/104',
    'fd00::1/64',
  ]) {
    t.match(parseCidr(text), { ok: false, error: { code: 'MESH_ADDRESS_INVALID' } }, text);
  }
});

void t.test('cidrContains agrees with the block list of Node', async () => {
  const family = (address: string): 'ipv4' | 'ipv6' => (isIPv4(address) ? 'ipv4' : 'ipv6');
  fc.assert(
    fc.property(bytes, bytes, fc.nat(128), fc.nat(128), (one, other, length, kept) => {
      const block = unwrap(addressFromBytes(one));
      const bits = isIPv4(block) ? 32 : 128;
      const prefixLength = length % (bits + 1);
      const start = addressBytes(block);
      for (let bit = prefixLength; bit < bits; bit++) start[bit >> 3]! &= ~(0x80 >> (bit & 7));
      // Half of the tested addresses share their first bits with the block.
      const near = addressBytes(block);
      for (let bit = kept; bit < bits; bit++) near[bit >> 3]! ^= 0x80 >> (bit & 7);
      const cidr = { ip: unwrap(addressFromBytes(start)), prefixLength };
      // A block of mapped addresses is outside what the parser accepts.
      if (isIPv4(cidr.ip) !== isIPv4(block)) return true;
      return [other, near].every((given) => {
        const address = unwrap(addressFromBytes(given));
        if (family(address) !== family(cidr.ip)) return !cidrContains(cidr, address);
        const list = new BlockList();
        list.addSubnet(cidr.ip, prefixLength, family(cidr.ip));
        return cidrContains(cidr, address) === list.check(address, family(address));
      });
    }),
    { numRuns: 1000 },
  );
});

void t.test('parsePort reads 1 to 65535 and nothing else', async (t) => {
  for (const text of ['1', '80', '65535'])
    t.same(parsePort(text), { ok: true, value: Number(text) });
  for (const text of [
    '',
    '0',
    '00',
    '080',
    '65536',
    '99999',
    '-1',
    '+1',
    '1 ',
    '1e3',
    '0x50',
    '８０',
  ]) {
    t.match(parsePort(text), { ok: false, error: { code: 'MESH_ADDRESS_INVALID' } }, text);
  }
});

void t.test('socket addresses return as they were written', async (t) => {
  fc.assert(
    fc.property(bytes, fc.integer({ min: 1, max: 65_535 }), (given, port) => {
      const address = { ip: unwrap(addressFromBytes(given)), port };
      const back = unwrap(parseSocketAddress(formatSocketAddress(address)));
      return back.ip === address.ip && back.port === port;
    }),
  );
  t.equal(formatSocketAddress(unwrap(parseSocketAddress('[FD00::1]:80'))), '[fd00::1]:80');
  t.equal(formatSocketAddress(unwrap(parseSocketAddress('[::ffff:1.2.3.4]:80'))), '1.2.3.4:80');
  const bad = [
    '',
    '10.0.0.1',
    '10.0.0.1:',
    ':80',
    'fd00::1:80',
    '[fd00::1]',
    '[10.0.0.1]:80',
    '[]:80',
  ];
  for (const text of [
    ...bad,
    '[fd00::1:80',
    'fd00::1]:80',
    'host:80',
    '10.0.0.1:0',
    '[fe80::1%eth0]:80',
  ]) {
    t.match(parseSocketAddress(text), { ok: false, error: { code: 'MESH_ADDRESS_INVALID' } }, text);
  }
});

void t.test('isLoopback knows both families', async (t) => {
  for (const text of ['127.0.0.1', '127.255.0.3', '::1', '::ffff:127.0.0.1']) {
    t.equal(isLoopback(unwrap(parseAddress(text))), true, text);
  }
  for (const text of ['10.0.0.1', '128.0.0.1', '::', '::2', 'fd00::127']) {
    t.equal(isLoopback(unwrap(parseAddress(text))), false, text);
  }
});
