import fc from 'fast-check';
import t from 'tap';

import { MeshError } from '../../../src/base/errors.ts';
import type { HeaderField, HeaderList } from '../../../src/http/h2/contract.ts';
import { createHpackDecoder, type HpackDecoder } from '../../../src/http/h2/hpack-decoder.ts';
import { HeaderEncoder } from '../../../src/http/h2/hpack-encoder.ts';
import { decodeHuffman, huffmanDecodedMax } from '../../../src/http/h2/hpack-huffman.ts';
import { STATIC_TABLE } from '../../../src/http/h2/hpack-static.ts';

const LIST_MAX = 64 * 1024;

function decoder(tableMaxBytes?: number): HpackDecoder {
  return createHpackDecoder(
    tableMaxBytes === undefined
      ? { listMaxBytes: LIST_MAX }
      : { listMaxBytes: LIST_MAX, tableMaxBytes },
  );
}

function hex(text: string): Buffer {
  return Buffer.from(text.replaceAll(' ', ''), 'hex');
}

function encode(headers: HeaderList): Buffer {
  return Buffer.from(new HeaderEncoder().encode(headers), 'latin1');
}

function codeOf(act: () => unknown): string {
  try {
    act();
    return 'nothing thrown';
  } catch (error) {
    return error instanceof MeshError ? error.code : String(error);
  }
}

const REQUESTS: readonly HeaderList[] = [
  [
    [':method', 'GET'],
    [':scheme', 'http'],
    [':path', '/'],
    [':authority', 'www.example.com'],
  ],
  [
    [':method', 'GET'],
    [':scheme', 'http'],
    [':path', '/'],
    [':authority', 'www.example.com'],
    ['cache-control', 'no-cache'],
  ],
  [
    [':method', 'GET'],
    [':scheme', 'https'],
    [':path', '/index.html'],
    [':authority', 'www.example.com'],
    ['custom-key', 'custom-value'],
  ],
];
const COOKIE = 'foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1';
const RESPONSES: readonly HeaderList[] = [
  [
    [':status', '302'],
    ['cache-control', 'private'],
    ['date', 'Mon, 21 Oct 2013 20:13:21 GMT'],
    ['location', 'https://www.example.com'],
  ],
  [
    [':status', '307'],
    ['cache-control', 'private'],
    ['date', 'Mon, 21 Oct 2013 20:13:21 GMT'],
    ['location', 'https://www.example.com'],
  ],
  [
    [':status', '200'],
    ['cache-control', 'private'],
    ['date', 'Mon, 21 Oct 2013 20:13:22 GMT'],
    ['location', 'https://www.example.com'],
    ['content-encoding', 'gzip'],
    ['set-cookie', COOKIE],
  ],
];

interface Vector {
  readonly section: string;
  readonly tableMaxBytes?: number;
  readonly blocks: readonly string[];
  readonly lists: readonly HeaderList[];
  readonly tableBytes: readonly number[];
}

const VECTORS: readonly Vector[] = [
  {
    section: 'C.2.1 literal with indexing',
    blocks: ['400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572'],
    lists: [[['custom-key', 'custom-header']]],
    tableBytes: [55],
  },
  {
    section: 'C.2.2 literal without indexing',
    blocks: ['040c 2f73 616d 706c 652f 7061 7468'],
    lists: [[[':path', '/sample/path']]],
    tableBytes: [0],
  },
  {
    section: 'C.2.3 literal never indexed',
    blocks: ['1008 7061 7373 776f 7264 0673 6563 7265 74'],
    lists: [[['password', 'secret']]],
    tableBytes: [0],
  },
  { section: 'C.2.4 indexed', blocks: ['82'], lists: [[[':method', 'GET']]], tableBytes: [0] },
  {
    section: 'C.3 requests without Huffman',
    blocks: [
      '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '8286 84be 5808 6e6f 2d63 6163 6865',
      '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
    ],
    lists: REQUESTS,
    tableBytes: [57, 110, 164],
  },
  {
    section: 'C.4 requests with Huffman',
    blocks: [
      '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
      '8286 84be 5886 a8eb 1064 9cbf',
      '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    ],
    lists: REQUESTS,
    tableBytes: [57, 110, 164],
  },
  {
    section: 'C.5 responses without Huffman, with eviction',
    tableMaxBytes: 256,
    blocks: [
      '4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '4803 3330 37c1 c0bf',
      '88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31',
    ],
    lists: RESPONSES,
    tableBytes: [222, 222, 215],
  },
  {
    section: 'C.6 responses with Huffman, with eviction',
    tableMaxBytes: 256,
    blocks: [
      '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3',
      '4883 640e ffc1 c0bf',
      '88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07',
    ],
    lists: RESPONSES,
    tableBytes: [222, 222, 215],
  },
];

void t.test('HPACK decoder reads the vectors of RFC 7541 appendix C', (t) => {
  for (const vector of VECTORS) {
    const hpack = decoder(vector.tableMaxBytes);
    for (const [index, block] of vector.blocks.entries()) {
      t.same(hpack.decode(hex(block)).headers, vector.lists[index], vector.section);
      t.equal(hpack.tableBytes, vector.tableBytes[index], `${vector.section}: table`);
    }
  }
  t.end();
});

void t.test('HPACK decoder refuses what RFC 7541 calls errors', (t) => {
  const bad: readonly (readonly [string, string])[] = [
    ['index 0', '80'],
    ['index beyond the tables', 'be'],
    ['name index beyond the tables', '7e 01 61'],
    ['integer without an end', '7f ff ff ff ff ff ff ff ff'],
    ['integer of too many bytes', 'ff 80 80 80 80 80 00'],
    ['integer cut short', 'ff 80'],
    ['string longer than the block', '40 0a 61'],
    ['string missing', '40'],
    ['value missing', '40 01 61'],
    ['Huffman padding of zeros', '40 81 18 01 61'],
    ['Huffman padding of a whole byte', '40 82 1f ff 01 61'],
    ['Huffman EOS', '40 84 ff ff ff ff 01 61'],
    ['table size over the setting', '3f e2 1f'],
    ['table size update after a field', '82 20'],
    ['three table size updates', '20 20 20 82'],
  ];
  for (const [title, block] of bad) {
    t.equal(
      codeOf(() => decoder().decode(hex(block))),
      'MESH_HPACK_INVALID',
      title,
    );
  }
  t.end();
});

void t.test('HPACK decoder keeps the dynamic table within its bound', (t) => {
  const hpack = decoder();
  for (let i = 0; i < 1000; i++) {
    const value = `v${i}`.padEnd(100, '.');
    const head = Buffer.from([0x40, 1, 0x61, value.length]);
    hpack.decode(Buffer.concat([head, Buffer.from(value)]));
    if (hpack.tableBytes > 4096) t.fail('the table is over its bound');
  }
  t.ok(hpack.tableBytes > 3900, 'and uses it');
  hpack.decode(hex('20'));
  t.equal(hpack.tableBytes, 0, 'a size update to 0 empties it');
  t.equal(
    codeOf(() => hpack.decode(hex('be'))),
    'MESH_HPACK_INVALID',
    'and its entries are gone',
  );
  t.end();
});

void t.test('T63: the decoded size is bounded, also by table references and cookie crumbs', (t) => {
  const hpack = decoder();
  const value = Buffer.alloc(3000, 0x61);
  const cookie = Buffer.concat([hex('60 7f b9 16'), value]);
  t.equal(hpack.decode(cookie).headers.length, 1);
  // 1,000 bytes that stand for 3 MB of cookies.
  const bomb = hpack.decode(Buffer.alloc(1000, 0xbe));
  t.equal(bomb.tooLarge, true);
  t.same(bomb.headers, []);
  t.ok(bomb.listBytes > 3_000_000);
  const crumbs = hpack.decode(Buffer.concat(Array.from({ length: 3000 }, () => hex('0f11 00'))));
  t.equal(crumbs.tooLarge, true, '3,000 empty crumbs count 32 bytes and a name each');
  t.same(hpack.decode(hex('82')).headers, [[':method', 'GET']], 'the table is still right');
  t.end();
});

void t.test('HPACK Huffman code: symbols of each length, as RFC 7541 appendix B has them', (t) => {
  const codes: readonly (readonly [symbol: number, code: number, bits: number])[] = [
    [48, 0x0, 5],
    [32, 0x14, 6],
    [58, 0x5c, 7],
    [88, 0xfc, 8],
    [33, 0x3f8, 10],
    [124, 0x7fc, 11],
    [35, 0xffa, 12],
    [0, 0x1ff8, 13],
    [94, 0x3ffc, 14],
    [123, 0x7ffe, 15],
    [92, 0x7fff0, 19],
    [128, 0xfffe6, 20],
    [153, 0x1fffdc, 21],
    [129, 0x3fffd2, 22],
    [1, 0x7fffd8, 23],
    [9, 0xffffea, 24],
    [199, 0x1ffffec, 25],
    [192, 0x3ffffe0, 26],
    [203, 0x7ffffde, 27],
    [2, 0xfffffe2, 28],
    [249, 0xffffffe, 28],
    [22, 0x3ffffffe, 30],
  ];
  let bits = '';
  for (const [, code, length] of codes) bits += code.toString(2).padStart(length, '0');
  bits = bits.padEnd(Math.ceil(bits.length / 8) * 8, '1');
  const bytes = Buffer.from((bits.match(/.{8}/g) ?? []).map((byte) => Number.parseInt(byte, 2)));
  const target = Buffer.alloc(huffmanDecodedMax(bytes.length));
  const written = decodeHuffman(bytes, 0, bytes.length, target);
  t.same(
    [...target.subarray(0, written)],
    codes.map(([symbol]) => symbol),
  );
  t.end();
});

const nameArbitrary = fc.oneof(
  fc.constantFrom(...STATIC_TABLE.map(([name]) => name)),
  fc.stringMatching(/^[a-z0-9-]{1,40}$/),
);
const valueArbitrary = fc.oneof(
  fc.constantFrom(...STATIC_TABLE.map(([, value]) => value)),
  fc.stringMatching(/^[\x20-\x7e\x80-\xff]{0,300}$/),
);
const fieldArbitrary: fc.Arbitrary<HeaderField> = fc.tuple(nameArbitrary, valueArbitrary);

void t.test('HPACK: decoding what was encoded gives it back', (t) => {
  fc.assert(
    fc.property(fc.array(fieldArbitrary, { maxLength: 30 }), (headers) => {
      const decoded = decoder().decode(encode(headers)).headers;
      return JSON.stringify(decoded) === JSON.stringify(headers);
    }),
  );
  t.end();
});

void t.test(
  'HPACK decoder answers any bytes with headers or MESH_HPACK_INVALID, in bounds',
  (t) => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }), (blocks) => {
        const hpack = decoder(512);
        try {
          for (const block of blocks) hpack.decode(Buffer.from(block));
        } catch (error) {
          return error instanceof MeshError && error.code === 'MESH_HPACK_INVALID';
        }
        return hpack.tableBytes <= 512;
      }),
      { numRuns: 2000 },
    );
    t.end();
  },
);

void t.test('HPACK encoder refuses fields that could end a line elsewhere', (t) => {
  const bad: readonly HeaderField[] = [
    ['a', 'x\r\ny: z'],
    ['a', 'x\0'],
    // U+010A would go out as a line feed.
    ['a', 'x\u010ay'],
    ['A', 'x'],
    ['a b', 'x'],
    ['', 'x'],
    ['a:', 'x'],
  ];
  for (const field of bad) {
    t.equal(
      codeOf(() => new HeaderEncoder().encode([field])),
      'MESH_MESSAGE_INVALID',
      JSON.stringify(field),
    );
  }
  t.end();
});

void t.test('HPACK encoder marks secrets as never indexed and uses whole static entries', (t) => {
  t.equal(encode([['authorization', 'x']])[0], 0x1f);
  t.same([...encode([[':method', 'GET']])], [0x82]);
  t.same([...encode([[':status', '404']])], [0x8d]);
  t.same([...encode([['accept-encoding', 'gzip, deflate']])], [0x90]);
  t.end();
});
