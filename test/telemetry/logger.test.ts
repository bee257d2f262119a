/** Log lines: whatever is logged comes back as the same fields from one JSON line, and steers no terminal. */

import { Buffer } from 'node:buffer';

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createLogger, isLogLevel, type LogLevel } from '../../src/telemetry/logger.ts';

type Line = Record<string, unknown>;

function createCapture(level: LogLevel = 'debug') {
  const raw: string[] = [];
  const clock = createFakeClock(Date.UTC(2026, 10, 20));
  const logger = createLogger({ clock, level, writer: { write: (line) => raw.push(line) } });
  return { raw, clock, logger, lines: () => raw.map((line) => JSON.parse(line) as Line) };
}

t.test('logger writes level, time, fields and message as one JSON line', async (t) => {
  const { logger, raw } = createCapture();
  logger.child({ process: 'worker' }).warn('Slow', { source: 'a', count: 2, nothing: null });
  t.strictSame(raw, [
    '{"level":"warn","time":"2026-11-20T00:00:00.000Z","process":"worker","source":"a","count":2,"nothing":null,"msg":"Slow"}\n',
  ]);
});

t.test('logger level changes at run time, for children made before too', async (t) => {
  const { logger, lines } = createCapture('info');
  const child = logger.child({ a: 1 });
  child.debug('1');
  logger.setLevel('debug');
  child.debug('2');
  logger.setLevel('error');
  child.warn('3');
  child.error('4');
  t.equal(logger.level, 'error');
  t.strictSame(
    lines().map((line) => line['msg']),
    ['2', '4'],
  );
  t.ok(isLogLevel('warn'));
  t.notOk(isLogLevel('trace'));
});

t.test('logger shows errors with code, message and causes, without stacks', async (t) => {
  const { logger, lines } = createCapture();
  const cause = Object.assign(new Error('inner'), { code: 'ECONNRESET' });
  const error = new MeshError('MESH_CONNECTION_RESET', 'Cannot read', { cause });
  logger.error('Failed', { error, err: new Error('plain') });
  t.match(lines()[0], {
    error: {
      code: 'MESH_CONNECTION_RESET',
      message: 'Cannot read',
      cause: { code: 'ECONNRESET', message: 'inner' },
    },
    err: { message: 'plain' },
  });
  t.notMatch(JSON.stringify(lines()[0]), /logger\.test/);
});

t.test('logger survives values that JSON cannot hold', async (t) => {
  const { logger, lines } = createCapture();
  const loop: Line = {};
  loop['self'] = loop;
  const wide = Array.from({ length: 1000 }, (_, n) => n);
  const fields = { loop, big: 10n, call: () => 1, wide, bytes: Buffer.from('hi'), nan: Number.NaN };
  logger.info('odd', fields);
  t.match(lines()[0], { big: '10', call: 'a function', bytes: '6869', msg: 'odd' });
  t.match(lines()[0], { wide: { length: 33 } });
});

t.test('logger lets no field replace level, time or message', async (t) => {
  const { logger, raw, lines } = createCapture();
  logger.info('real', { msg: 'fake', level: 'error', time: 'never' });
  t.match(lines()[0], { msg: 'real', level: 'info', field_msg: 'fake' });
  t.equal(raw[0]?.split('"msg"').length, 2);
});

const HOSTILE = [
  'a\r\nlevel=error forged',
  '\u001b[2J\u001b]0;title\u0007',
  '\u009b31mred',
  '{"level":"error"}',
  '"},{"a":"',
  '\\',
  '\u2028\u2029\u202e\u2066',
  '%s %d %j %o',
  '\ud800 alone',
  '\u0000'.repeat(5000),
  'é'.repeat(5000),
  '__proto__',
];

t.test(
  'T109: hostile texts come back from one line each and hold no control character',
  async (t) => {
    for (const text of HOSTILE) {
      const { logger, raw, lines } = createCapture();
      logger.info(text, { sni: text, nested: { [text]: [text] } });
      t.equal(raw.length, 1);
      t.equal(raw[0]?.indexOf('\n'), (raw[0]?.length ?? 0) - 1);
      t.notMatch(raw[0]?.slice(0, -1) ?? '', /\p{Cc}|[\u2028-\u202e\u2066-\u2069]/u);
      t.ok(Buffer.byteLength(raw[0] ?? '') <= 4096);
      const value = lines()[0]?.['sni'];
      const shown = typeof value === 'string' ? value.replace(/…$/, '') : '';
      t.ok(text.toWellFormed().startsWith(shown.toWellFormed()));
    }
  },
);

t.test('T109: property: any fields make one line that reads back, at most 4 KiB', async () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary', maxLength: 3000 }),
      fc.dictionary(fc.string(), fc.anything({ withBigInt: true }), { maxKeys: 40 }),
      (message, fields) => {
        const { logger, raw } = createCapture();
        logger.info(message, fields);
        const [line = ''] = raw;
        const parsed = JSON.parse(line) as Line;
        return (
          raw.length === 1 &&
          line.split('\n').length === 2 &&
          Buffer.byteLength(line) <= 4096 &&
          parsed['level'] === 'info'
        );
      },
    ),
    { numRuns: 300 },
  );
});

t.test('T109: a text is cut at 1 KiB between characters', async (t) => {
  const { logger, lines } = createCapture();
  logger.info('m', { a: '😀'.repeat(400), b: 'x'.repeat(1024), c: 'x'.repeat(1025) });
  const { a, b, c } = lines()[0] as { a: string; b: string; c: string };
  t.ok(a.isWellFormed() && a.endsWith('😀…') && Buffer.byteLength(a) <= 1024);
  t.equal(b, 'x'.repeat(1024));
  t.ok(c.endsWith('…') && Buffer.byteLength(c) <= 1024);
});
