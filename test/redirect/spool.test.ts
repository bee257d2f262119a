/** The CNI folder: requests parsed strictly, answered once, and nothing accepted from strangers (T122). */

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import {
  CNI_REQUEST_MAX_BYTES,
  parseCniRequest,
  type CniRequest,
} from '../../src/redirect/cni-request.ts';
import {
  openSpool,
  SPOOL_PARALLEL_MAX,
  SPOOL_POLL_MS,
  SPOOL_STALE_MS,
} from '../../src/redirect/spool.ts';

const FIELDS: Readonly<Record<string, string>> = {
  CNI_CONTAINERID: '0123abcd',
  CNI_NETNS: '/var/run/netns/cni-0a1b',
  K8S_POD_UID: '0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f',
  K8S_POD_NAME: 'web-7d4b.x',
  K8S_POD_NAMESPACE: 'shop',
  ADDRESSES: '10.0.0.7/24,fd00::7',
};

const format = (fields: Readonly<Record<string, string>>): string =>
  Object.entries(fields)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');
const parse = (text: string, command: 'add' | 'del' = 'add') =>
  parseCniRequest(command, Buffer.from(text));

void t.test('parseCniRequest reads what the script writes', (t) => {
  t.same(parse(format(FIELDS)), {
    ok: true,
    value: {
      command: 'add',
      containerId: '0123abcd',
      netnsPath: '/var/run/netns/cni-0a1b',
      podUid: FIELDS['K8S_POD_UID'],
      podName: 'web-7d4b.x',
      podNamespace: 'shop',
      addresses: ['10.0.0.7', 'fd00::7'],
    },
  });
  t.match(parse(format({ ...FIELDS, ADDRESSES: '', NEWER_KEY: 'anything = at all' })), {
    ok: true,
    value: { addresses: [] },
  });
  t.match(parse(format({ ...FIELDS, CNI_NETNS: '' }), 'del'), { ok: true });
  t.end();
});

void t.test('parseCniRequest refuses everything else (T122)', (t) => {
  const wrong: Record<string, string> = {
    empty: '',
    'cut short': format(FIELDS).slice(0, -1),
    'no key': `${format(FIELDS)}=x\n`,
    'small key': `${format(FIELDS)}key=x\n`,
    'empty line': `${format(FIELDS)}\n`,
    twice: `${format(FIELDS)}CNI_NETNS=/run/netns/b\n`,
    'carriage return': format(FIELDS).replaceAll('\n', '\r\n'),
    'no namespace': format({ ...FIELDS, CNI_NETNS: '' }),
    'relative path': format({ ...FIELDS, CNI_NETNS: 'run/netns/a' }),
    'path upwards': format({ ...FIELDS, CNI_NETNS: '/run/netns/../../etc' }),
    'path with NUL': format({ ...FIELDS, CNI_NETNS: '/run/netns/a\0' }),
    'long path': format({ ...FIELDS, CNI_NETNS: `/${'a'.repeat(1_024)}` }),
    'no uid': format({ ...FIELDS, K8S_POD_UID: '' }),
    'uid as path': format({ ...FIELDS, K8S_POD_UID: '../x' }),
    'bad name': format({ ...FIELDS, K8S_POD_NAME: 'Web' }),
    'bad namespace': format({ ...FIELDS, K8S_POD_NAMESPACE: 'a.b' }),
    'bad id': format({ ...FIELDS, CNI_CONTAINERID: '-x' }),
    'bad address': format({ ...FIELDS, ADDRESSES: '10.0.0.300' }),
    'scoped address': format({ ...FIELDS, ADDRESSES: 'fe80::1%eth0' }),
    'empty address': format({ ...FIELDS, ADDRESSES: '10.0.0.1,' }),
    'many addresses': format({ ...FIELDS, ADDRESSES: Array(17).fill('10.0.0.1').join(',') }),
    'many lines': `${format(FIELDS)}${Array.from({ length: 60 }, (_, i) => `K${i}=x\n`).join('')}`,
    'too large': `${format(FIELDS)}K=${'x'.repeat(CNI_REQUEST_MAX_BYTES)}\n`,
  };
  for (const [name, text] of Object.entries(wrong)) {
    const result = parse(text);
    t.equal(!result.ok && result.error.code, 'MESH_CNI_REQUEST_INVALID', name);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      return !parseCniRequest('add', Buffer.from(bytes)).ok;
    }),
  );
  const mutated = fc.record({
    at: fc.nat(format(FIELDS).length - 1),
    byte: fc.integer({ min: 0, max: 255 }),
  });
  fc.assert(
    fc.property(mutated, ({ at, byte }) => {
      const bytes = Buffer.from(format(FIELDS));
      bytes[at] = byte;
      const result = parseCniRequest('add', bytes);
      return !result.ok || /^[\x21-\x7e]*$/.test(Object.values(result.value).flat().join(''));
    }),
    { numRuns: 3_000 },
  );
  t.end();
});

function setUp(t: Test) {
  const dir = join(mkdtempSync(join(tmpdir(), 'nodemesh-spool-')), 'cni');
  const clock = createFakeClock(Date.now());
  const handled: CniRequest[] = [];
  const state = { handle: async (_request: CniRequest): Promise<void> => {} };
  const start = () =>
    openSpool({
      dir,
      clock,
      logger: createNullLogger(),
      handle: async (request) => {
        handled.push(request);
        await state.handle(request);
      },
    });
  const write = (name: string, text: string): void => {
    writeFileSync(join(dir, '.temporary'), text, { mode: 0o600 });
    renameSync(join(dir, '.temporary'), join(dir, name));
  };
  const appears = async (name: string): Promise<string> => {
    for (let tries = 0; tries < 500 && !existsSync(join(dir, name)); tries++) {
      await clock.advance(SPOOL_POLL_MS);
    }
    return readFileSync(join(dir, name), 'utf8');
  };
  t.teardown(() => rmSync(join(dir, '..'), { recursive: true, force: true }));
  return { dir, clock, handled, state, start, write, appears };
}

void t.test('the spool answers each request and removes it', async (t) => {
  const { dir, handled, state, start, write, appears, clock } = setUp(t);
  mkdirSync(dir, { mode: 0o700 });
  write('early.add', format(FIELDS));
  const spool = start();
  t.equal(await appears('early.ok'), '', 'asked while nobody lived');
  t.equal(existsSync(join(dir, 'early.add')), false);
  write('gone.del', format({ ...FIELDS, CNI_NETNS: '' }));
  t.equal(await appears('gone.ok'), '');
  t.match(handled, [{ command: 'add' }, { command: 'del', netnsPath: '' }]);
  state.handle = () => Promise.reject(new MeshError('MESH_RULES_FAILED', 'No “rules”\nhere'));
  write('early.add', format(FIELDS));
  t.equal(await appears('early.error'), 'MESH_RULES_FAILED: No  rules  here\n');
  t.equal(existsSync(join(dir, 'early.ok')), false, 'the older answer is gone');
  write('bad.add', 'nonsense');
  t.match(await appears('bad.error'), /^MESH_CNI_REQUEST_INVALID: /);
  t.equal(handled.length, 3);
  spool.close();
  t.equal(clock.pendingCount(), 0);
});

void t.test('the spool notices a request without waiting for its period', async (t) => {
  const { dir, start, write } = setUp(t);
  const spool = start();
  write('a.add', format(FIELDS));
  // The clock stands still: only the kernel's notice can tell.
  for (let tries = 0; tries < 500 && !existsSync(join(dir, 'a.ok')); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  t.equal(existsSync(join(dir, 'a.ok')), true);
  spool.close();
});

void t.test('the spool bounds what runs at once and never runs one id twice', async (t) => {
  const { start, write, appears, state, handled, clock } = setUp(t);
  const spool = start();
  let finish = (): void => {};
  const gate = new Promise<void>((resolve) => (finish = resolve));
  state.handle = () => gate;
  for (let i = 0; i < SPOOL_PARALLEL_MAX + 5; i++) write(`r${i}.add`, format(FIELDS));
  await clock.advance(SPOOL_POLL_MS * 4);
  t.equal(handled.length, SPOOL_PARALLEL_MAX);
  finish();
  for (let i = 0; i < SPOOL_PARALLEL_MAX + 5; i++) await appears(`r${i}.ok`);
  t.equal(handled.length, SPOOL_PARALLEL_MAX + 5);
  spool.close();
});

void t.test('the spool reads only plain files and cleans up what is left', async (t) => {
  const { dir, start, write, appears, handled, clock } = setUp(t);
  const spool = start();
  const secret = join(dir, '..', 'secret');
  writeFileSync(secret, format(FIELDS));
  symlinkSync(secret, join(dir, 'link.add'));
  t.match(await appears('link.error'), /ELOOP/);
  t.equal(readFileSync(secret, 'utf8'), format(FIELDS), 'what a link leads to is untouched');
  mkdirSync(join(dir, 'dir.add'));
  t.match(await appears('dir.error'), /not a regular file/);
  execFileSync('mkfifo', [join(dir, 'fifo.add')]);
  t.match(await appears('fifo.error'), /not a regular file/);
  write('big.add', 'x'.repeat(CNI_REQUEST_MAX_BYTES + 10));
  t.match(await appears('big.error'), /65537 bytes/);
  t.equal(handled.length, 0);
  for (const name of ['link.error', 'keep.txt', '.half']) {
    writeFileSync(join(dir, name), 'x');
    const oldS = (clock.wallMs() - SPOOL_STALE_MS - 1_000) / 1_000;
    utimesSync(join(dir, name), oldS, oldS);
  }
  await clock.advance(SPOOL_POLL_MS);
  const left = readdirSync(dir);
  t.notOk(left.includes('link.error') || left.includes('.half'), 'stale ones are gone');
  t.ok(left.includes('keep.txt') && left.includes('dir.error'), 'others and new ones stay');
  spool.close();
});

void t.test('a folder or a request of somebody else is refused (T122)', async (t) => {
  const { dir, start, write, appears, handled } = setUp(t);
  const refusal = (): string => {
    try {
      start().close();
      return 'opened';
    } catch (error) {
      return error instanceof MeshError ? `${error.code} ${error.message}` : String(error);
    }
  };
  mkdirSync(dir, { mode: 0o700 });
  chmodSync(dir, 0o755);
  t.match(refusal(), /MESH_CONFIG_INVALID.*mode 755/);
  rmSync(dir, { recursive: true });
  const elsewhere = mkdtempSync(join(tmpdir(), 'nodemesh-spool-'));
  t.teardown(() => rmSync(elsewhere, { recursive: true, force: true }));
  symlinkSync(elsewhere, dir);
  t.match(refusal(), /MESH_CONFIG_INVALID.*not a directory/);
  rmSync(dir);
  if (process.getuid?.() !== 0) {
    t.comment('owners can be changed by root only');
    return;
  }
  mkdirSync(dir, { mode: 0o700 });
  chownSync(dir, 65534, 65534);
  t.match(refusal(), /MESH_CONFIG_INVALID.*user 65534/);
  chownSync(dir, 0, 0);
  const spool = start();
  writeFileSync(join(dir, 'x'), format(FIELDS));
  chownSync(join(dir, 'x'), 65534, 65534);
  renameSync(join(dir, 'x'), join(dir, 'foreign.add'));
  t.match(await appears('foreign.error'), /belongs to user 65534/);
  write('own.add', format(FIELDS));
  await appears('own.ok');
  t.equal(handled.length, 1);
  spool.close();
});
