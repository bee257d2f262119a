/** Ways to write the path `/admin/secret` and the host `secret.test`, legal and not: the corpus of G15. */

const TARGET = '/admin/secret';

const hex = (character: string, upper: boolean): string => {
  const digits = character.charCodeAt(0).toString(16).padStart(2, '0');
  return `%${upper ? digits.toUpperCase() : digits}`;
};
/** Two bytes for what needs one; no UTF-8 decoder may take it. */
const overlong = (character: string): string => {
  const code = character.charCodeAt(0);
  const bytes = [0xc0 | (code >> 6), 0x80 | (code & 0x3f)];
  return bytes.map((byte) => `%${byte.toString(16)}`).join('');
};

const INSERTED = [
  '\0',
  '\t',
  ' ',
  '\r',
  '%00',
  '%09',
  '%0a',
  '%0d%0a',
  '%20',
  '%7f',
  ';',
  ';x',
  ';x=1',
  '%3b',
  '.',
  '%2e',
  '/',
  '//',
  '/.',
  '/./',
  '/%2e/',
  '/x/../',
  '/x/%2e%2e/',
  '\\',
  '%5c',
  '%2f',
  '%252f',
  '%255c',
  '%c0%af',
  '%e0%80%af',
  '%ef%bc%8f',
  '%u002f',
  '#',
  '%23',
  '?',
  '%3f',
  '*',
  '~',
  '+',
  '%',
  '%%',
  '\u00e9',
  '%c3%a9',
];

const BEFORE = [
  '/.',
  '//',
  '///',
  '/./.',
  '/x/..',
  '/public/..',
  '/public/../.',
  '/public//..',
  '/public/%2e%2e',
  '/public/%2E.',
  '/public/.%2e',
  '/public/..;',
  '/public/..;x',
  '/public/..%3b',
  '/public/..%2f',
  '/public/..%5c',
  '/public\\..',
  '/public/%252e%252e',
  '/public/%c0%ae%c0%ae',
  '/public/....',
  '/..',
  '/../..',
  '/%2e%2e',
  '/;',
  '/;x',
  '/%2f',
  '/%5c',
  '\\',
  '/public/info.txt/../..',
  '/public;/..',
  '/public/;/../..',
  'http://app',
  'HTTP://APP',
  'http://app:80',
  'https://app',
  'http://user@app',
  '//app',
  'app',
  '*',
  '',
];

const AFTER = [
  '',
  '/',
  '/.',
  '//',
  '/..',
  '/../secret',
  '/x/..',
  '.',
  '..',
  '%20',
  '%00',
  '%00.txt',
  ';',
  ';.css',
  ';/x',
  '?',
  '?x=/public/info.txt',
  '#',
  '#/public/info.txt',
  '%23',
  '%3f',
  '%2f',
  '%5c',
  '/%2e',
  '\\',
];

const WRITINGS = [
  TARGET,
  '/admin//secret',
  '/admin/./secret',
  '/%61dmin/secret',
  '/admin/%73ecret',
  '/admin%2fsecret',
  '/ADMIN/secret',
  '/admin;/secret',
];

/** Request targets, each once. */
export function pathCorpus(): string[] {
  const cases: string[] = [];
  for (const [index, character] of TARGET.split('').entries()) {
    const [start, end] = [TARGET.slice(0, index), TARGET.slice(index + 1)];
    for (const text of [
      hex(character, false),
      hex(character, true),
      `%25${hex(character, false).slice(1)}`,
      overlong(character),
      character.toUpperCase(),
    ]) {
      cases.push(`${start}${text}${end}`);
    }
    for (const text of INSERTED) cases.push(`${start}${text}${TARGET.slice(index)}`);
  }
  for (const before of BEFORE) {
    for (const after of AFTER) cases.push(`${before}${TARGET}${after}`);
    for (const writing of WRITINGS) cases.push(`${before}${writing}`);
  }
  return [...new Set(cases)];
}

const HOST = 'secret.test';

export function hostCorpus(): string[] {
  const cases = [
    HOST,
    'SECRET.TEST',
    'Secret.Test',
    `${HOST}.`,
    `${HOST}..`,
    `.${HOST}`,
    `x.${HOST}`,
    `${HOST}.x`,
    'xn--secret.test',
    'secret%2etest',
    'secret\u3002test',
    'ｓecret.test',
    'secret_test',
    '[secret.test]',
  ];
  for (const port of ['80', '0', '080', '443', '8080', '65536', '-1', '80x', ' 80', '', '80:80'])
    cases.push(`${HOST}:${port}`, `${HOST}.:${port}`, `SECRET.test:${port}`);
  for (const text of [
    'user@',
    'user:pw@',
    '@',
    'app@',
    ' ',
    '\t',
    '/',
    '//',
    'http://',
    '\\',
    '\0',
  ])
    cases.push(`${text}${HOST}`);
  for (const text of [
    ' ',
    '\t',
    '/',
    '/x',
    '#',
    '?',
    ',app',
    ', app',
    ' app',
    '\0',
    '%00',
    ';x',
    '\\',
    '@app',
    ':',
  ])
    cases.push(`${HOST}${text}`);
  for (const [index, character] of HOST.split('').entries()) {
    const [start, end] = [HOST.slice(0, index), HOST.slice(index + 1)];
    cases.push(
      `${start}${hex(character, false)}${end}`,
      `${start}${character.toUpperCase()}${end}`,
    );
    cases.push(`${start}\u00ad${HOST.slice(index)}`, `${start}\0${HOST.slice(index)}`);
  }
  return [...new Set(cases)];
}
