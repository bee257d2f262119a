/**
 * What the issuer writes and what the verifier reads: each X509-SVID rule (threats 1.6), the whole path, and the
 * openssl command as a second opinion on both.
 */

import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import {
  buildIntermediate,
  buildLeaf,
  buildRoot,
  keyIdOf,
  NOT_BEFORE_BACKDATE_MS,
} from '../../src/identity/certificate.ts';
import { isSignedBy, readCertificate } from '../../src/identity/certificate-reader.ts';
import { createKeyPair, publicKeyDer } from '../../src/identity/keys.ts';
import { verifyPeer } from '../../src/identity/peer.ts';
import { formatPem, parsePem } from '../../src/identity/pem.ts';
import { readSvid } from '../../src/identity/svid.ts';
import {
  createTrustBundle,
  type TrustBundle,
  trustBundlesEqual,
} from '../../src/identity/trust-bundle.ts';
import { createWorkloadCertificate } from '../../src/identity/workload-certificate.ts';
import { badSpiffeIds } from '../support/bad-spiffe-ids.ts';
import {
  createTestCa,
  DAY_MS,
  invariantParts,
  issueTestCertificate,
  spiffeId,
} from './fixtures.ts';
import { buildCertificate, type CertificateShape } from './shapes.ts';

const random = createSystemRandom();
const clock = createSystemClock();
const web = spiffeId('web');
const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
const needsOpenssl = hasOpenssl ? {} : { skip: 'needs the openssl command' };

const ca = await createTestCa();
const issued = issueTestCertificate(ca, web);
const chain = unwrap(parsePem('CERTIFICATE', issued.chainPem.join('')));
const [leafDer = Buffer.of(), intermediateDer = Buffer.of()] = chain;

function bundleOf(...roots: readonly Buffer[]): TrustBundle {
  const pems = roots.map((der) => formatPem('CERTIFICATE', der));
  return unwrap(createTrustBundle(1, new Map([['cluster.local', pems]])));
}

function refused(shape: CertificateShape): string | undefined {
  const { leaf, rootDer } = buildCertificate(createKeyPair().publicKey, shape);
  const result = verifyPeer([leaf], bundleOf(rootDer), clock.wallMs());
  return result.ok ? undefined : result.error.code;
}

t.test('the issuer keeps every X509-SVID rule (1.6)', (t) => {
  const leaf = unwrap(readCertificate(leafDer));
  t.equal(unwrap(readSvid(leaf)).id, web);
  t.equal(leaf.names.length, 1);
  t.equal(leaf.isSubjectEmpty, true);
  t.equal(leaf.areNamesCritical, true);
  t.equal(leaf.isCa, false);
  t.equal(leaf.keyUsage, 1);
  t.equal(leaf.isKeyUsageCritical, true);
  t.same(leaf.extendedKeyUsage, ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
  t.ok(leaf.notBeforeMs <= clock.wallMs() - NOT_BEFORE_BACKDATE_MS + 2000, 'back-dated (T128)');
  t.ok(leaf.notAfterMs - clock.wallMs() <= DAY_MS);
  t.ok(leaf.serial.length > 24);
  const intermediate = unwrap(readCertificate(intermediateDer));
  t.equal(intermediate.isCa, true);
  t.equal(intermediate.pathLength, 0);
  t.equal(intermediate.keyUsage, 0x60);
  t.same(intermediate.names, [], 'a CA has no SPIFFE ID here');
  t.notOk(readSvid(intermediate).ok, 'and never authenticates');
  t.end();
});

t.test(
  'two certificates for one key and identity differ in serial, validity and signature only',
  (t) => {
    const again = unwrap(ca.issue(new X509Certificate(leafDer).publicKey, web, DAY_MS));
    const [otherDer = Buffer.of()] = unwrap(parsePem('CERTIFICATE', again.chainPem[0] ?? ''));
    t.not(unwrap(readCertificate(otherDer)).serial, issued.serial);
    t.same(invariantParts(otherDer), invariantParts(leafDer));
    t.equal(invariantParts(leafDer).length, 6);
    t.end();
  },
);

t.test('the verifier rejects each breach of a rule (1.6)', (t) => {
  t.equal(refused({}), undefined, 'the unchanged shape is accepted');
  t.equal(refused({ purposes: 'absent' }), undefined, 'no extended key usage is allowed');
  t.equal(refused({ names: [[2, Buffer.from('web.shop')]] }), undefined, 'a DNS name beside is');
  const cases: readonly (readonly [string, CertificateShape, string])[] = [
    ['no name', { uris: [] }, 'MESH_CERTIFICATE_INVALID'],
    ['two names', { uris: [Buffer.from(web), Buffer.from(web)] }, 'MESH_CERTIFICATE_INVALID'],
    ['a CA', { isCa: true }, 'MESH_CERTIFICATE_INVALID'],
    ['no key usage', { keyUsage: 'absent' }, 'MESH_CERTIFICATE_INVALID'],
    ['key usage not critical', { isKeyUsageCritical: false }, 'MESH_CERTIFICATE_INVALID'],
    ['no digitalSignature', { keyUsage: Buffer.of(5, 0x20) }, 'MESH_CERTIFICATE_INVALID'],
    ['keyCertSign', { keyUsage: Buffer.of(2, 0x84) }, 'MESH_CERTIFICATE_INVALID'],
    ['cRLSign', { keyUsage: Buffer.of(1, 0x82) }, 'MESH_CERTIFICATE_INVALID'],
    ['serverAuth only', { purposes: ['1.3.6.1.5.5.7.3.1'] }, 'MESH_CERTIFICATE_INVALID'],
    ['clientAuth only', { purposes: ['1.3.6.1.5.5.7.3.2'] }, 'MESH_CERTIFICATE_INVALID'],
    ['anyExtendedKeyUsage', { purposes: ['2.5.29.37.0'] }, 'MESH_CERTIFICATE_INVALID'],
    ['names not critical', { areNamesCritical: false }, 'MESH_CERTIFICATE_INVALID'],
    ['extension twice', { isKeyUsageTwice: true }, 'MESH_CERTIFICATE_INVALID'],
    ['unknown critical extension', { extraCritical: true }, 'MESH_CERTIFICATE_INVALID'],
    ['version 1', { version: 0 }, 'MESH_CERTIFICATE_INVALID'],
    [
      'otherName with the identity',
      { uris: [], otherName: Buffer.from(web) },
      'MESH_CERTIFICATE_INVALID',
    ],
    ['root path', { uris: [Buffer.from('spiffe://cluster.local')] }, 'MESH_IDENTITY_INVALID'],
    [
      'foreign domain',
      { uris: [Buffer.from(spiffeId('web', 'shop', 'a.b'))] },
      'MESH_CERTIFICATE_INVALID',
    ],
    ['expired', { notAfterMs: clock.wallMs() - 2000 }, 'MESH_CERTIFICATE_EXPIRED'],
    ['not valid yet', { notBeforeMs: clock.wallMs() + 60_000 }, 'MESH_CERTIFICATE_INVALID'],
  ];
  for (const [name, shape, code] of cases) t.equal(refused(shape), code, name);
  t.end();
});

t.test('no malformed identity gets past the verifier or the issuer (T04, C62)', (t) => {
  const keys = createKeyPair();
  for (const text of badSpiffeIds()) {
    const byIssuer = ca.issue(keys.publicKey, text as never, DAY_MS);
    if (byIssuer.ok) t.fail(`issued ${JSON.stringify(text.slice(0, 90))}`);
    for (const encoding of ['utf8', 'latin1'] as const) {
      const bytes = Buffer.from(text, encoding);
      // Latin-1 makes other texts of some entries, good ones among them.
      if (bytes.toString('latin1') !== text && encoding === 'latin1') continue;
      if (refused({ uris: [bytes] }) === undefined)
        t.fail(`read ${JSON.stringify(text.slice(0, 90))}`);
    }
  }
  t.end();
});

t.test('verifyPeer verifies the whole path', (t) => {
  const nowMs = clock.wallMs();
  const peer = unwrap(verifyPeer(chain, ca.bundle, nowMs));
  t.equal(peer.id, web);
  t.equal(peer.serial, issued.serial);
  const refuse = (
    name: string,
    ders: readonly Buffer[],
    bundle: TrustBundle,
    atMs: number = nowMs,
  ): void =>
    void t.match(verifyPeer(ders, bundle, atMs), { ok: false, error: { flag: /./ } }, name);
  refuse('nothing', [], ca.bundle);
  refuse('no intermediate', [leafDer], ca.bundle);
  refuse('only CAs', [intermediateDer], ca.bundle);
  refuse(
    'too long',
    Array.from({ length: 9 }, () => leafDer),
    ca.bundle,
  );
  refuse('after all is expired', chain, ca.bundle, nowMs + 2 * DAY_MS);
  refuse('before it began', chain, ca.bundle, nowMs - DAY_MS);
  refuse('no trusted domain', chain, { generation: 1, domains: new Map() });
  refuse('rubbish', [leafDer, Buffer.of(1, 2, 3)], ca.bundle);
  refuse(
    'an intermediate as root of another domain',
    chain,
    bundleOf(buildCertificate(createKeyPair().publicKey, {}).rootDer),
  );
  const flipped = Buffer.from(leafDer);
  const last = flipped.length - 1;
  flipped[last] = (flipped[last] ?? 0) ^ 1;
  refuse('a flipped bit in the signature', [flipped, intermediateDer], ca.bundle);
  t.ok(
    verifyPeer([leafDer, intermediateDer, leafDer], ca.bundle, nowMs).ok,
    'extra ones are unused',
  );
  t.end();
});

t.test('verifyPeer lets only CAs issue, and only as deep as they may (C43)', (t) => {
  const nowMs = clock.wallMs();
  const life = { notBeforeMs: nowMs - 60_000, notAfterMs: nowMs + DAY_MS };
  const rootKeys = createKeyPair();
  const rootDer = buildRoot(rootKeys, 'cluster.local', 'root', life, random);
  const issuer = (der: Buffer, privateKey: KeyObject) => ({
    privateKey,
    subjectDer: unwrap(readCertificate(der)).subjectDer,
    keyId: keyIdOf(unwrap(readCertificate(der)).publicKeyDer),
  });
  const root = issuer(rootDer, rootKeys.privateKey);
  const middleKeys = createKeyPair();
  const middle = buildIntermediate(
    root,
    middleKeys.publicKey,
    'cluster.local',
    'middle',
    life,
    random,
  );
  const underKeys = createKeyPair();
  const under = buildIntermediate(
    issuer(middle, middleKeys.privateKey),
    underKeys.publicKey,
    'cluster.local',
    'under',
    life,
    random,
  );
  const keys = createKeyPair();
  const bundle = bundleOf(rootDer);
  const byMiddle = buildLeaf(
    issuer(middle, middleKeys.privateKey),
    keys.publicKey,
    web,
    life,
    random,
  );
  t.ok(verifyPeer([byMiddle, middle], bundle, nowMs).ok);
  const byUnder = buildLeaf(issuer(under, underKeys.privateKey), keys.publicKey, web, life, random);
  t.notOk(verifyPeer([byUnder, under, middle], bundle, nowMs).ok, 'below a path length of 0');
  // A leaf that acts as a CA: right key, right signature, but no CA.
  const attacker = createKeyPair();
  const first = buildLeaf(root, attacker.publicKey, web, life, random);
  const fake = { ...issuer(first, attacker.privateKey) };
  const second = buildLeaf(fake, keys.publicKey, spiffeId('admin'), life, random);
  t.notOk(verifyPeer([second, first], bundle, nowMs).ok, 'a leaf as issuer');
  t.notOk(
    createTrustBundle(1, new Map([['cluster.local', [formatPem('CERTIFICATE', first)]]])).ok,
    'or as root',
  );
  const stale = { ...life, notAfterMs: nowMs - 1000 };
  const staleMiddle = buildIntermediate(
    root,
    middleKeys.publicKey,
    'cluster.local',
    'middle',
    stale,
    random,
  );
  t.match(verifyPeer([byMiddle, staleMiddle], bundle, nowMs), {
    ok: false,
    error: { code: 'MESH_CERTIFICATE_EXPIRED' },
  });
  t.end();
});

t.test('leaf keys and CA keys of every accepted kind make chains that verify', (t) => {
  const nowMs = clock.wallMs();
  const life = { notBeforeMs: nowMs - 60_000, notAfterMs: nowMs + DAY_MS };
  const caKeys = [
    createKeyPair(),
    generateKeyPairSync('ec', { namedCurve: 'P-384' }),
    generateKeyPairSync('ed25519'),
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ];
  for (const keys of caKeys) {
    const der = buildRoot(keys, 'cluster.local', 'root', life, random);
    const fields = unwrap(readCertificate(der));
    const issuer = {
      privateKey: keys.privateKey,
      subjectDer: fields.subjectDer,
      keyId: Buffer.of(1),
    };
    const leaf = buildLeaf(issuer, generateKeyPairSync('ed25519').publicKey, web, life, random);
    t.ok(verifyPeer([leaf], bundleOf(der), nowMs).ok, String(keys.publicKey.asymmetricKeyType));
    t.ok(isSignedBy(unwrap(readCertificate(leaf)), publicKeyDer(keys.publicKey)));
    t.notOk(isSignedBy(unwrap(readCertificate(leaf)), Buffer.of(1)));
  }
  const odd = generateKeyPairSync('ec', { namedCurve: 'P-521' });
  t.throws(() => buildRoot(odd, 'cluster.local', 'root', life, random), {
    code: 'MESH_CERTIFICATE_INVALID',
  });
  t.end();
});

t.test('readCertificate and readSvid survive any change of bytes, and no forgery verifies', (t) => {
  const codes = new Set([
    'MESH_DER_INVALID',
    'MESH_CERTIFICATE_INVALID',
    'MESH_IDENTITY_INVALID',
    'MESH_CERTIFICATE_EXPIRED',
  ]);
  const nowMs = clock.wallMs();
  const changes = fc.array(fc.tuple(fc.nat(leafDer.length - 1), fc.nat(255)), {
    minLength: 1,
    maxLength: 3,
  });
  fc.assert(
    fc.property(changes, (list) => {
      const copy = Buffer.from(leafDer);
      for (const [at, byte] of list) copy[at] = byte;
      if (copy.equals(leafDer)) return true;
      const result = verifyPeer([copy, intermediateDer], ca.bundle, nowMs);
      return !result.ok && codes.has(result.error.code);
    }),
    { numRuns: 500 },
  );
  t.end();
});

t.test('a name of any bytes is an identity only if it is exactly one (C62)', (t) => {
  const { publicKey } = createKeyPair();
  const name = fc.oneof(
    fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
    fc
      .tuple(fc.nat(web.length), fc.uint8Array({ minLength: 1, maxLength: 2 }))
      .map(([at, bytes]) =>
        Buffer.concat([
          Buffer.from(web.slice(0, at)),
          Buffer.from(bytes),
          Buffer.from(web.slice(at)),
        ]),
      ),
  );
  fc.assert(
    fc.property(name, (bytes) => {
      const { leaf } = buildCertificate(publicKey, { uris: [bytes] });
      const fields = readCertificate(leaf);
      const svid = fields.ok ? readSvid(fields.value) : fields;
      return !svid.ok || Buffer.from(svid.value.id).equals(bytes);
    }),
    { numRuns: 200 },
  );
  t.end();
});

t.test('createTrustBundle bounds and checks its roots', (t) => {
  const pem = ca.bundle.domains.get('cluster.local')?.[0]?.pem ?? '';
  const make = (domain: string, ...pems: readonly string[]) =>
    createTrustBundle(1, new Map([[domain, pems]]));
  t.equal(
    unwrap(make('cluster.local', pem, pem)).domains.get('cluster.local')?.length,
    1,
    'twice is once',
  );
  t.match(make('UPPER', pem), { ok: false, error: { code: 'MESH_IDENTITY_INVALID' } });
  t.match(make('a.b', 'rubbish'), { ok: false, error: { code: 'MESH_DER_INVALID' } });
  t.match(make('a.b'), { ok: false, error: { code: 'MESH_CERTIFICATE_INVALID' } });
  t.match(make('a.b', issued.chainPem[0] ?? ''), {
    ok: false,
    error: { code: 'MESH_CERTIFICATE_INVALID' },
  });
  const roots = Array.from({ length: 9 }, () =>
    formatPem('CERTIFICATE', buildCertificate(createKeyPair().publicKey, {}).rootDer),
  );
  t.match(make('a.b', ...roots), { ok: false, error: { code: 'MESH_LIMIT_EXCEEDED' } });
  const domains = new Map(Array.from({ length: 33 }, (_, index) => [`d${index}`, [pem]]));
  t.match(createTrustBundle(1, domains), { ok: false, error: { code: 'MESH_LIMIT_EXCEEDED' } });
  const [one = '', two = ''] = roots;
  t.ok(trustBundlesEqual(unwrap(make('a.b', one, two)), unwrap(make('a.b', two, one))));
  t.notOk(trustBundlesEqual(unwrap(make('a.b', one)), unwrap(make('a.b', two))));
  t.notOk(trustBundlesEqual(unwrap(make('a.b', one)), unwrap(make('a.c', one))));
  t.notOk(trustBundlesEqual(unwrap(make('a.b', one)), unwrap(make('a.b', one, two))));
  t.notOk(trustBundlesEqual(unwrap(make('a.b', one)), unwrap(createTrustBundle(1, new Map()))));
  t.end();
});

t.test('createWorkloadCertificate believes neither chain nor key', (t) => {
  const { privateKeyPem, chainPem } = issued;
  t.ok(createWorkloadCertificate(web, privateKeyPem, chainPem).ok);
  t.same(
    unwrap(createWorkloadCertificate(web, privateKeyPem, [chainPem.join('')])).chainPem,
    chainPem,
  );
  const refuse = (
    name: string,
    ...parameters: Parameters<typeof createWorkloadCertificate>
  ): void => void t.notOk(createWorkloadCertificate(...parameters).ok, name);
  refuse('another identity', spiffeId('db'), privateKeyPem, chainPem);
  refuse('another key', web, issueTestCertificate(ca, web).privateKeyPem, chainPem);
  refuse('no key', web, 'rubbish', chainPem);
  refuse('a huge key', web, 'x'.repeat(10_000), chainPem);
  refuse('no chain', web, privateKeyPem, []);
  refuse('the intermediate first', web, privateKeyPem, chainPem.toReversed());
  refuse(
    'a long chain',
    web,
    privateKeyPem,
    Array.from({ length: 9 }, () => chainPem[0] ?? ''),
  );
  t.end();
});

t.test('openssl verifies what we issue and sees the same in it', needsOpenssl, (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-certificate-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const path = (name: string, text: string): string => {
    writeFileSync(join(directory, name), text);
    return join(directory, name);
  };
  const run = (...parameters: readonly string[]) => {
    const { status, stdout, stderr } = spawnSync('openssl', parameters, { encoding: 'utf8' });
    return { status, text: stdout + stderr };
  };
  const root = path('root', ca.bundle.domains.get('cluster.local')?.[0]?.pem ?? '');
  const [leafPem = '', intermediatePem = ''] = issued.chainPem;
  const leaf = path('leaf', leafPem);
  const intermediate = path('intermediate', intermediatePem);
  for (const purpose of ['sslclient', 'sslserver']) {
    const result = run(
      'verify',
      '-x509_strict',
      '-purpose',
      purpose,
      '-CAfile',
      root,
      '-untrusted',
      intermediate,
      leaf,
    );
    t.equal(result.status, 0, result.text);
  }
  const { text } = run('x509', '-in', leaf, '-noout', '-text');
  t.match(text, new RegExp(`X509v3 Subject Alternative Name: critical\\s+URI:${web}\\n`));
  t.match(text, /X509v3 Basic Constraints: critical\s+CA:FALSE/);
  t.match(text, /X509v3 Key Usage: critical\s+Digital Signature\n/);
  t.match(text, /TLS Web Server Authentication, TLS Web Client Authentication\n/);
  t.match(text, /Subject: *\n/);
  t.equal(new X509Certificate(leafPem).serialNumber.toLowerCase(), issued.serial);
  // The same reading of names, whatever the bytes, as openssl prints them escaped.
  const names = [
    web,
    spiffeId('db', 'other'),
    `${web}/x`,
    `${web}\0`,
    `${web}\n`,
    'DNS:x',
    `a,URI:${web}`,
  ];
  for (const name of names) {
    const shaped = buildCertificate(createKeyPair().publicKey, { uris: [Buffer.from(name)] });
    const file = path('shaped', formatPem('CERTIFICATE', shaped.leaf));
    const shown = run('x509', '-in', file, '-noout', '-ext', 'subjectAltName').text;
    const fields = unwrap(readCertificate(shaped.leaf));
    t.same(
      fields.names.map(({ bytes }) => bytes.toString()),
      [name],
    );
    const svid = readSvid(fields);
    if (svid.ok) t.match(shown, new RegExp(`URI:${svid.value.id}\\n`));
    else t.not(parsesAlone(shown), true, 'what we refuse is no lone identity to openssl either');
  }
  t.end();
});

/** Whether openssl's text is exactly one URI that is an identity. */
function parsesAlone(shown: string): boolean {
  const match = /critical\s*\n\s+URI:(spiffe:\/\/[a-z0-9./-]+)\n$/.exec(shown);
  const parts = match?.[1]?.split('/') ?? [];
  return parts.length === 7;
}
