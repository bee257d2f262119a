/** Keys across a restart: on memory-backed volumes only, private, and read back with suspicion (T124). */

import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { openKeyStore } from '../../src/identity/key-store.ts';
import { createTestCa, issueTestCertificate, spiffeId } from './fixtures.ts';

const ca = await createTestCa();
const certificates = [
  issueTestCertificate(ca, spiffeId('web')),
  issueTestCertificate(ca, spiffeId('db')),
];
const roots = ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [];
const rootsPem = new Map([['cluster.local', roots]]);

function directoryFor(test: Pick<typeof t, 'teardown'>): string {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-keys-'));
  test.teardown(() => rmSync(directory, { recursive: true }));
  return directory;
}

t.test('the key store gives back what was saved', async (t) => {
  const directory = join(directoryFor(t), 'keys');
  const store = await openKeyStore(directory, () => true);
  t.equal(await store.load(), undefined);
  await store.save({ certificates, rootsPem });
  t.same(await store.load(), { certificates, rootsPem });
  t.equal(statSync(directory).mode & 0o777, 0o700);
  const [name = ''] = readdirSync(directory);
  t.equal(statSync(join(directory, name)).mode & 0o777, 0o600);
  await store.save({ certificates: [], rootsPem: new Map() });
  t.same(await store.load(), { certificates: [], rootsPem: new Map() });
  t.equal(readdirSync(directory).length, 1);
  await store.clear();
  t.equal(await store.load(), undefined);
});

t.test('the key store refuses a volume that is not memory-backed, also later (T124)', async (t) => {
  const directory = directoryFor(t);
  await t.rejects(
    openKeyStore(directory, () => false),
    {
      code: 'MESH_CONFIG_INVALID',
      message: /not memory-backed/,
    },
  );
  let isMemory = true;
  const asked: string[] = [];
  const store = await openKeyStore(directory, (path) => {
    asked.push(path);
    return isMemory;
  });
  isMemory = false;
  await t.rejects(store.save({ certificates, rootsPem }), { code: 'MESH_CONFIG_INVALID' });
  t.same(readdirSync(directory), [], 'nothing was written');
  t.same(asked, [directory, directory]);
});

t.test('the key store reads no file that others could have made', async (t) => {
  const directory = directoryFor(t);
  const store = await openKeyStore(directory, () => true);
  await store.save({ certificates, rootsPem });
  const [name = ''] = readdirSync(directory);
  const path = join(directory, name);
  const text = readFileSync(path, 'utf8');
  chmodSync(path, 0o644);
  t.equal(await store.load(), undefined, 'readable by others');
  rmSync(path);
  writeFileSync(join(directory, 'elsewhere'), text, { mode: 0o600 });
  symlinkSync(join(directory, 'elsewhere'), path);
  t.equal(await store.load(), undefined, 'a link');
});

t.test('the key store leaves out what does not hold up', async (t) => {
  const directory = directoryFor(t);
  const store = await openKeyStore(directory, () => true);
  await store.save({ certificates, rootsPem });
  const [name = ''] = readdirSync(directory);
  const path = join(directory, name);
  const good = JSON.parse(readFileSync(path, 'utf8')) as {
    certificates: object[];
    rootsPem: unknown;
  };
  const [web = {}, db = {}] = good.certificates;
  const write = (value: unknown): void =>
    writeFileSync(path, JSON.stringify(value), { mode: 0o600 });
  const swapped = { ...web, privateKeyPem: (db as { privateKeyPem?: string }).privateKeyPem };
  write({
    ...good,
    certificates: [
      swapped,
      null,
      7,
      {},
      { ...web, identity: spiffeId('admin') },
      { ...web, chainPem: [7] },
      db,
    ],
  });
  t.same((await store.load())?.certificates, [certificates[1]]);
  write({ ...good, certificates: [{ ...web, notAfterMs: 9e15, serial: 'x' }] });
  t.same(
    (await store.load())?.certificates,
    [certificates[0]],
    'dates are read from the certificate',
  );
  for (const value of [
    null,
    7,
    [],
    {},
    { certificates: 1, rootsPem: [] },
    { certificates: [], rootsPem: 7 },
    { certificates: [], rootsPem: [7] },
    { certificates: [], rootsPem: [['a', 7]] },
    { certificates: [], rootsPem: [[7, []]] },
  ]) {
    write(value);
    t.equal(await store.load(), undefined, JSON.stringify(value));
  }
  writeFileSync(path, '{', { mode: 0o600 });
  t.equal(await store.load(), undefined, 'not JSON');
});
