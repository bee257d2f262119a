/** What an abusive HTTP/2 client sends, frame by frame (T60 to T64). */

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
  ['T64 PING flood', () => frame(6, 0, 0, Buffer.alloc(8))],
  ['T64 SETTINGS flood', () => frame(4, 0, 0, NOTHING)],
  ['T64 WINDOW_UPDATE flood', () => frame(8, 0, 0, Buffer.from([0, 0, 0, 1]))],
  ['T64 frames of unknown types', () => frame(0xfe, 0, 0, NOTHING)],
  ['T64 empty DATA', (i) => (i === 0 ? frame(HEADERS, 4, 1, HEAD_BLOCK) : frame(0, 0, 1, NOTHING))],
];
