/** The two authorities: what they issue and refuse, what survives a restart, and that no root is ever invented twice. */

import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { IpAddress } from '../../src/core/address.ts';
import { createPluggedCa, type PluggedCaFiles } from '../../src/identity/ca.ts';
import { LEAF_TTL_MAX_MS, LEAF_TTL_MIN_MS } from '../../src/identity/ca-issuer.ts';
import { CA_STATE_FILE, createFileCaStorage } from '../../src/identity/ca-storage.ts';
import { readCertificate } from '../../src/identity/certificate-reader.ts';
import { createKeyPair, privateKeyPem } from '../../src/identity/keys.ts';
import { verifyPeer } from '../../src/identity/peer.ts';
import { parsePem } from '../../src/identity/pem.ts';
import {
  INTERMEDIATE_LIFE_MS,
  ROOT_LIFE_MS,
  type SelfSignedCa,
} from '../../src/identity/self-signed-ca.ts';
import {
  createMemoryCaStorage,
  createTestCa,
  DAY_MS,
  issueTestCertificate,
  plug,
  spiffeId,
} from './fixtures.ts';

const web = spiffeId('web');
const random = createSystemRandom();
const rootsOf = (ca: Pick<SelfSignedCa, 'bundle'>): string[] =>
  ca.bundle.domains.get('cluster.local')?.map(({ fingerprint }) => fingerprint) ?? [];
const derChain = (pems: readonly string[]): Buffer[] =>
  unwrap(parsePem('CERTIFICATE', pems.join('')));

t.test('a CA issues for its own trust domain, within its own life', async (t) => {
  const clock = createFakeClock();
  const ca = await createTestCa({ clock });
  const { publicKey } = createKeyPair();
  const issued = unwrap(ca.issue(publicKey, web, DAY_MS));
  t.equal(issued.notAfterMs, clock.wallMs() + DAY_MS);
  t.equal(issued.chainPem.length, 2);
  t.ok(verifyPeer(derChain(issued.chainPem), ca.bundle, clock.wallMs()).ok);
  t.ok(
    verifyPeer(derChain(issued.chainPem), ca.bundle, clock.wallMs() - 4 * 60_000).ok,
    'a clock 4 min behind (T128)',
  );
  const long = unwrap(ca.issue(publicKey, web, 10 * LEAF_TTL_MAX_MS));
  t.equal(long.notAfterMs, clock.wallMs() + LEAF_TTL_MAX_MS, 'cut to the longest');
  const foreign = ca.issue(publicKey, spiffeId('web', 'shop', 'other.example'), DAY_MS);
  t.match(foreign, { ok: false, error: { code: 'MESH_CA_REFUSED' } });
  t.match(ca.issue(publicKey, 'spiffe://x' as never, DAY_MS), {
    ok: false,
    error: { code: 'MESH_IDENTITY_INVALID' },
  });
  for (const ttlMs of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, LEAF_TTL_MIN_MS - 1]) {
    t.match(
      ca.issue(publicKey, web, ttlMs),
      { ok: false, error: { code: 'MESH_CA_REFUSED' } },
      `${ttlMs}`,
    );
  }
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  t.match(ca.issue(rsa.publicKey, web, DAY_MS), { ok: false, error: { code: 'MESH_CSR_INVALID' } });
  clock.jumpWall(INTERMEDIATE_LIFE_MS - 1000 * 60 * 60);
  const short = unwrap(ca.issue(publicKey, web, DAY_MS));
  t.equal(
    short.notAfterMs,
    clock.wallMs() + 1000 * 60 * 60,
    'cut to the life of the signing certificate',
  );
  clock.jumpWall(1000 * 60 * 60);
  t.match(
    ca.issue(publicKey, web, DAY_MS),
    { ok: false, error: { code: 'MESH_CA_REFUSED' } },
    'expired',
  );
});

t.test('a controller’s certificate has its host names and is an X509-SVID still', async (t) => {
  const ca = await createTestCa();
  const { publicKey } = createKeyPair();
  const ips = ['10.0.0.1', 'fd00::1'] as IpAddress[];
  const issued = unwrap(ca.issueServer(publicKey, web, { dnsNames: ['a.b.svc'], ips }, DAY_MS));
  const fields = unwrap(readCertificate(derChain(issued.chainPem)[0] ?? Buffer.of()));
  t.same(
    fields.names.map(({ tag, bytes }) => [tag, bytes.length]),
    [
      [0x86, web.length],
      [0x82, 7],
      [0x87, 4],
      [0x87, 16],
    ],
  );
  t.equal(issued.serial, fields.serial);
  for (const name of [
    '',
    '*',
    '*.svc',
    'A.svc',
    'a\0b',
    'a b',
    'ü.svc',
    '-a',
    `${'a'.repeat(64)}.svc`,
    'a..b',
  ]) {
    const result = ca.issueServer(publicKey, web, { dnsNames: [name], ips: [] }, DAY_MS);
    t.match(result, { ok: false, error: { code: 'MESH_CA_REFUSED' } }, JSON.stringify(name));
  }
  const many = Array.from({ length: 33 }, (_, index) => `n${index}`);
  t.notOk(ca.issueServer(publicKey, web, { dnsNames: many, ips: [] }, DAY_MS).ok);
});

t.test('a restart finds the same CA', async (t) => {
  const storage = createMemoryCaStorage();
  const first = await createTestCa({ storage });
  const second = await createTestCa({ storage, mustExist: true });
  t.same(rootsOf(second), rootsOf(first));
  t.equal(second.issuerId, first.issuerId);
  t.equal(second.bundle.generation, first.bundle.generation);
  const { chainPem } = issueTestCertificate(second, web);
  t.notOk(verifyPeer(derChain(chainPem), first.bundle, Date.UTC(2000, 0)).ok);
  t.equal(chainPem[1], issueTestCertificate(first, web).chainPem[1], 'under the same intermediate');
});

t.test('a root is rotated in three steps, each of which survives a restart (T129)', async (t) => {
  const storage = createMemoryCaStorage();
  let ca = await createTestCa({ storage });
  const restart = async (): Promise<void> => {
    ca = await createTestCa({ storage, mustExist: true });
  };
  const [old = ''] = rootsOf(ca);
  const before = issueTestCertificate(ca, web);
  const nowMs = before.notBeforeMs + 10 * 60_000;
  const accepts = (chainPem: readonly string[]): boolean =>
    verifyPeer(derChain(chainPem), ca.bundle, nowMs).ok;
  t.equal(ca.phase, 'steady');
  await t.rejects(ca.switchIssuer(), { code: 'MESH_CA_REFUSED' });
  await t.rejects(ca.retireOldRoot(), { code: 'MESH_CA_REFUSED' });

  await ca.beginRotation();
  await restart();
  t.equal(ca.phase, 'trust');
  t.equal(ca.bundle.generation, 2);
  const [still, fresh = ''] = rootsOf(ca);
  t.equal(still, old);
  t.equal(ca.issuerId, old, 'the old one still issues');
  t.ok(accepts(issueTestCertificate(ca, web).chainPem));
  await t.rejects(ca.beginRotation(), { code: 'MESH_CA_REFUSED' });
  await t.rejects(ca.retireOldRoot(), { code: 'MESH_CA_REFUSED' });

  await ca.switchIssuer();
  await restart();
  t.equal(ca.phase, 'issue');
  t.equal(ca.issuerId, fresh);
  t.same(rootsOf(ca), [old, fresh], 'both are trusted');
  t.ok(accepts(before.chainPem));
  const after = issueTestCertificate(ca, web);
  t.ok(accepts(after.chainPem));

  await ca.retireOldRoot();
  await restart();
  t.equal(ca.phase, 'steady');
  t.same(rootsOf(ca), [fresh]);
  t.equal(ca.issuerId, fresh);
  t.equal(ca.bundle.generation, 3);
  t.notOk(accepts(before.chainPem));
  t.ok(accepts(after.chainPem));
  t.equal(
    [...storage.files.keys()].filter((name) => name.startsWith('root-')).length,
    1,
    'its key is gone',
  );
  await ca.beginRotation();
  t.equal(ca.phase, 'trust', 'and again');
});

t.test('steps asked for at the same time happen once', async (t) => {
  const ca = await createTestCa();
  const results = await Promise.allSettled([ca.beginRotation(), ca.beginRotation()]);
  t.same(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected'],
  );
  t.equal(rootsOf(ca).length, 2);
});

t.test('a step that cannot be stored has not happened', async (t) => {
  const storage = createMemoryCaStorage();
  const ca = await createTestCa({ storage });
  storage.write = () => Promise.reject(new Error('disk full'));
  await t.rejects(ca.beginRotation(), { message: 'disk full' });
  t.equal(ca.phase, 'steady');
  t.equal(rootsOf(ca).length, 1);
  storage.write = (files) => {
    storage.files = new Map(files);
    return Promise.resolve();
  };
  await ca.beginRotation();
  t.equal(ca.phase, 'trust');
});

t.test('the intermediate is replaced at half of its life (T126)', async (t) => {
  const clock = createFakeClock();
  const storage = createMemoryCaStorage();
  const ca = await createTestCa({ clock, storage });
  const intermediate = (): string => issueTestCertificate(ca, web).chainPem[1] ?? '';
  const first = intermediate();
  await ca.maintain();
  t.equal(intermediate(), first);
  clock.jumpWall(INTERMEDIATE_LIFE_MS / 2);
  await ca.maintain();
  t.not(intermediate(), first);
  t.equal(ca.rootNotAfterMs, Date.UTC(2026, 0, 1) + ROOT_LIFE_MS);
  t.equal([...storage.files.keys()].length, 3, 'one state, one root key, one issuer key');
  t.ok(verifyPeer(derChain(issueTestCertificate(ca, web).chainPem), ca.bundle, clock.wallMs()).ok);
});

t.test('no root is invented where there has been one (T132)', async (t) => {
  await t.rejects(createTestCa({ mustExist: true }), { code: 'MESH_CA_KEY_MISSING' });
  const storage = createMemoryCaStorage();
  await createTestCa({ storage });
  const { files } = storage;
  for (const name of files.keys()) {
    storage.files = new Map(files);
    storage.files.delete(name);
    await t.rejects(createTestCa({ storage }), { code: 'MESH_CA_KEY_MISSING' }, `without ${name}`);
    t.equal(storage.files.size, files.size - 1, 'and nothing is written');
  }
  for (const name of [...files.keys()].filter((one) => one !== CA_STATE_FILE)) {
    for (const text of ['', 'rubbish', privateKeyPem(createKeyPair().privateKey)]) {
      storage.files = new Map(files).set(name, text);
      await t.rejects(createTestCa({ storage }), { code: 'MESH_CA_KEY_MISSING' });
    }
  }
});

t.test('a damaged or foreign state is refused, not repaired', async (t) => {
  const storage = createMemoryCaStorage();
  await createTestCa({ storage });
  const { files } = storage;
  const good = JSON.parse(files.get(CA_STATE_FILE) ?? '') as Record<string, unknown>;
  const texts: readonly string[] = [
    '',
    '{',
    'null',
    '[]',
    ...[
      { format: 2 },
      { trustDomain: 7 },
      { trustDomain: 'other.example' },
      { generation: '1' },
      { generation: 1.5 },
      { phase: 'later' },
      { phase: 'issue' },
      { roots: [] },
      { roots: ['rubbish'] },
      { roots: [7] },
      { roots: 'x' },
      { intermediate: 'rubbish' },
      { intermediate: undefined },
    ].map((change) => JSON.stringify({ ...good, ...change })),
  ];
  for (const text of texts) {
    storage.files = new Map(files).set(CA_STATE_FILE, text);
    await t.rejects(createTestCa({ storage }), { code: 'MESH_CONFIG_INVALID' }, text.slice(0, 60));
  }
});

t.test('file storage: private, whole, and clean of what is no longer named', async (t) => {
  const parent = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  t.teardown(() => rmSync(parent, { recursive: true }));
  const directory = join(parent, 'ca');
  const storage = createFileCaStorage(directory);
  t.same(await storage.read(), new Map());
  const ca = await createTestCa({ storage });
  t.equal(statSync(directory).mode & 0o777, 0o700);
  for (const name of readdirSync(directory)) {
    t.equal(statSync(join(directory, name)).mode & 0o777, 0o600, name);
  }
  t.equal(readdirSync(directory).length, 3);
  t.notMatch(readFileSync(join(directory, CA_STATE_FILE), 'utf8'), /PRIVATE/);
  writeFileSync(join(directory, `.root-x.key.${randomBytes(6).toString('hex')}.tmp`), 'half a key');
  writeFileSync(join(directory, 'README'), 'not ours');
  // A crash after the new keys and before the new state leaves this: the old state counts.
  writeFileSync(join(directory, 'root-0123456789abcdef.key'), 'of a step that never was');
  t.same(rootsOf(await createTestCa({ storage, mustExist: true })), rootsOf(ca));
  await ca.beginRotation();
  await ca.switchIssuer();
  await ca.retireOldRoot();
  t.equal(readdirSync(directory).length, 4);
  t.ok(existsSync(join(directory, 'README')));
  const again = await createTestCa({ storage: createFileCaStorage(directory), mustExist: true });
  t.same(rootsOf(again), rootsOf(ca));
  writeFileSync(join(directory, CA_STATE_FILE), 'x'.repeat(1024 * 1024 + 1));
  await t.rejects(storage.read(), { code: 'MESH_LIMIT_EXCEEDED' });
  for (let index = 0; index < 70; index++) {
    const name = `root-${createHash('sha256').update(String(index)).digest('hex').slice(0, 16)}.key`;
    writeFileSync(join(directory, name), '');
  }
  await t.rejects(storage.read(), { code: 'MESH_LIMIT_EXCEEDED' });
  const file = join(parent, 'file');
  writeFileSync(file, '');
  await t.rejects(createFileCaStorage(file).read(), { code: 'ENOTDIR' });
  const blocked = join(parent, 'blocked');
  mkdirSync(join(blocked, CA_STATE_FILE), { recursive: true });
  await t.rejects(createFileCaStorage(blocked).write(new Map([[CA_STATE_FILE, '{}']])));
  t.same(readdirSync(blocked), [CA_STATE_FILE], 'no temporary file is left');
  chmodSync(directory, 0o700);
});

t.test('a plugged-in CA issues under the operator’s key, EC or RSA, root or below one', (t) => {
  const clock = createFakeClock();
  for (const keys of [createKeyPair(), generateKeyPairSync('rsa', { modulusLength: 2048 })]) {
    for (const kind of ['root', 'intermediate'] as const) {
      const { files } = plug(keys, kind);
      const ca = unwrap(createPluggedCa('cluster.local', files, 7, { clock, random }));
      t.equal(ca.bundle.generation, 7);
      const { chainPem } = unwrap(ca.issue(createKeyPair().publicKey, web, DAY_MS));
      t.equal(chainPem.length, kind === 'root' ? 1 : 2, 'no root in the chain');
      t.ok(verifyPeer(derChain(chainPem), ca.bundle, clock.wallMs()).ok);
    }
  }
  const legacy = plug(createKeyPair(), 'root');
  const sec1 = legacy.keys.privateKey.export({ type: 'sec1', format: 'pem' });
  t.ok(
    createPluggedCa('cluster.local', { ...legacy.files, caKey: sec1 }, 1, { clock, random }).ok,
    'SEC 1 PEM',
  );
  t.end();
});

t.test('a plugged-in CA that does not fit together is refused', (t) => {
  const clock = createFakeClock();
  const { files } = plug(createKeyPair(), 'intermediate');
  const other = plug(createKeyPair(), 'intermediate').files;
  const [leaf = ''] = issueOne(files);
  const cases: readonly (readonly [string, Partial<PluggedCaFiles>, string])[] = [
    ['no key', { caKey: '' }, 'MESH_CA_KEY_MISSING'],
    ['a huge key', { caKey: 'x'.repeat(70_000) }, 'MESH_CA_KEY_MISSING'],
    ['the key of another', { caKey: other.caKey }, 'MESH_CA_KEY_MISSING'],
    ['the root of another', { rootCert: other.rootCert }, 'MESH_CERTIFICATE_INVALID'],
    ['no certificate', { caCert: '' }, 'MESH_DER_INVALID'],
    ['two certificates', { caCert: files.certChain }, 'MESH_DER_INVALID'],
    ['rubbish in the chain', { certChain: 'rubbish' }, 'MESH_DER_INVALID'],
    ['a leaf in the chain', { certChain: leaf }, 'MESH_CERTIFICATE_INVALID'],
    ['a leaf as CA', { caCert: leaf }, 'MESH_CERTIFICATE_INVALID'],
    ['no roots', { rootCert: '' }, 'MESH_CERTIFICATE_INVALID'],
  ];
  for (const [name, change, code] of cases) {
    const result = createPluggedCa('cluster.local', { ...files, ...change }, 1, { clock, random });
    t.match(result, { ok: false, error: { code } }, name);
  }
  const both = { ...files, rootCert: files.rootCert + other.rootCert, certChain: '' };
  const ca = unwrap(createPluggedCa('cluster.local', both, 2, { clock, random }));
  t.equal(ca.bundle.domains.get('cluster.local')?.length, 2, 'several roots are published');
  t.end();

  function issueOne(from: PluggedCaFiles): readonly string[] {
    const issuing = unwrap(createPluggedCa('cluster.local', from, 1, { clock, random }));
    return unwrap(issuing.issue(createKeyPair().publicKey, web, DAY_MS)).chainPem;
  }
});
