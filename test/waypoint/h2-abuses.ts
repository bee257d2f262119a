/** What an abusive HTTP/2 client sends, frame by frame (T60 to T65). */

export const frame = (type: number, flags: number, stream: number, payload: Buffer): Buffer => {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
};
export const HEADERS = 1;
/** :method GET, :scheme http, :path /, :authority a. */
export const HEAD_BLOCK = Buffer.from([0x82, 0x86, 0x84, 0x41, 0x01, 0x61]);
export const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
export const NOTHING = Buffer.alloc(0);
/** An entry of 4,000 bytes for the HPACK table of a connection. */
export const LARGE_ENTRY = Buffer.concat([
  Buffer.from([0x40, 1, 0x78, 0x7f, 0xa1, 0x1e]),
  Buffer.alloc(4_000, 0x61),
]);
/** As `HEAD_BLOCK`, but nothing of it goes into the table, or it would push the entry out. */
export const PLAIN_BLOCK = Buffer.from([0x82, 0x86, 0x84, 0x01, 0x01, 0x61]);
/** A head with 16,000 references to the entry: 64 MB. */
export const BOMB_BLOCK = Buffer.concat([PLAIN_BLOCK, Buffer.alloc(16_000, 0xbe)]);
/** SETTINGS that open no window. */
export const NO_WINDOW = frame(4, 0, 0, Buffer.from([0, 4, 0, 0, 0, 0]));
/** With what comes after the preface and SETTINGS, again and again. */
export const ABUSES: readonly (readonly [string, (index: number) => Buffer])[] = [
  [
    'T60 rapid reset',
    (i) =>
      Buffer.concat([
        frame(HEADERS, 5, i * 2 + 1, HEAD_BLOCK),
        frame(3, 0, i * 2 + 1, Buffer.from([0, 0, 0, 8])),
      ]),
  ],
  [
    'T61 resets that we are made to send',
    (i) =>
      Buffer.concat([
        frame(HEADERS, 4, i * 2 + 1, HEAD_BLOCK),
        frame(8, 0, i * 2 + 1, Buffer.alloc(4)),
      ]),
  ],
  [
    'T62 endless CONTINUATION',
    (i) => (i === 0 ? frame(HEADERS, 0, 1, HEAD_BLOCK) : frame(9, 0, 1, Buffer.from([0x82]))),
  ],
  [
    'T63 small blocks that unfold to megabytes',
    (i) =>
      frame(
        HEADERS,
        5,
        i * 2 + 1,
        i === 0 ? Buffer.concat([PLAIN_BLOCK, LARGE_ENTRY]) : BOMB_BLOCK,
      ),
  ],
  [
    'T65 requests whose answers have no window',
    (i) => Buffer.concat([i === 0 ? NO_WINDOW : NOTHING, frame(HEADERS, 5, i * 2 + 1, HEAD_BLOCK)]),
  ],
  ['T64 PING flood', () => frame(6, 0, 0, Buffer.alloc(8))],
  ['T64 SETTINGS flood', () => frame(4, 0, 0, NOTHING)],
  ['T64 WINDOW_UPDATE flood', () => frame(8, 0, 0, Buffer.from([0, 0, 0, 1]))],
  ['T64 frames of unknown types', () => frame(0xfe, 0, 0, NOTHING)],
  ['T64 empty DATA', (i) => (i === 0 ? frame(HEADERS, 4, 1, HEAD_BLOCK) : frame(0, 0, 1, NOTHING))],
];
