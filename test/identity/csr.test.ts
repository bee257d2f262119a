/** CSRs: proof of possession, the allow-list of keys, and that nothing else in a request has any effect (T03). */

import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { readCertificate, URI_NAME_TAG } from '../../src/identity/certificate-reader.ts';
import { createCsr, parseCsr } from '../../src/identity/csr.ts';
import {
  bitString,
  boolean,
  type DerNode,
  encodeDer,
  encoded,
  explicit,
  implicit,
  integer,
  octetString,
  oid,
  sequence,
  set,
  utf8String,
} from '../../src/identity/der-writer.ts';
import {
  createKeyPair,
  type KeyPair,
  parseWorkloadPublicKey,
  publicKeyDer,
  signatureAlgorithm,
  signWith,
} from '../../src/identity/keys.ts';
import { formatPem, parseOnePem } from '../../src/identity/pem.ts';
import { createTestCa, DAY_MS, invariantParts, spiffeId } from './fixtures.ts';

const web = spiffeId('web');
const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
const needsOpenssl = hasOpenssl ? {} : { skip: 'needs the openssl command' };

interface RequestShape {
  readonly subject?: DerNode;
  readonly attributes?: readonly DerNode[];
  readonly signer?: KeyObject;
  readonly algorithm?: DerNode;
  readonly spki?: Buffer;
}

function request(keys: KeyPair, shape: RequestShape = {}): string {
  const info = encodeDer(
    sequence(
      integer(Buffer.of(0)),
      shape.subject ?? sequence(),
      encoded(shape.spki ?? publicKeyDer(keys.publicKey)),
      explicit(0, ...(shape.attributes ?? [])),
    ),
  );
  const signer = shape.signer ?? keys.privateKey;
  const algorithm = shape.algorithm ?? signatureAlgorithm(signer);
  const signature = bitString(signWith(signer, info));
  return formatPem('CERTIFICATE REQUEST', encodeDer(sequence(encoded(info), algorithm, signature)));
}

function wishes(...extensions: readonly DerNode[]): DerNode {
  return sequence(oid('1.2.840.113549.1.9.14'), set(sequence(...extensions)));
}

function wish(id: string, value: DerNode): DerNode {
  return sequence(oid(id), boolean(true), octetString(encodeDer(value)));
}

t.test('parseCsr gives the key of a request of ours', (t) => {
  const keys = createKeyPair();
  const key = unwrap(parseCsr(createCsr(web, keys)));
  t.same(publicKeyDer(key), publicKeyDer(keys.publicKey));
  t.end();
});

t.test('parseCsr takes P-256, P-384 and Ed25519, and no other key (T03)', (t) => {
  const good: readonly KeyPair[] = [
    createKeyPair(),
    generateKeyPairSync('ec', { namedCurve: 'P-384' }),
    generateKeyPairSync('ed25519'),
  ];
  for (const keys of good)
    t.ok(parseCsr(request(keys)).ok, String(keys.publicKey.asymmetricKeyType));
  const rsa = generateKeyPairSync('rsa', { modulusLength: 1024 });
  t.match(parseCsr(request(rsa)), { ok: false, error: { code: 'MESH_CSR_INVALID' } }, 'RSA');
  const ec = createKeyPair();
  for (const namedCurve of ['P-521', 'secp256k1', 'brainpoolP256r1', 'P-224']) {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve });
    const result = parseCsr(request(ec, { spki: publicKeyDer(publicKey) }));
    t.match(result, { ok: false, error: { code: 'MESH_CSR_INVALID' } }, namedCurve);
  }
  const { publicKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    paramEncoding: 'explicit',
  });
  t.notOk(parseWorkloadPublicKey(publicKeyDer(publicKey)).ok, 'explicit curve parameters');
  t.notOk(parseWorkloadPublicKey(publicKeyDer(generateKeyPairSync('ed448').publicKey)).ok, 'ed448');
  t.notOk(
    parseWorkloadPublicKey(publicKeyDer(generateKeyPairSync('x25519').publicKey)).ok,
    'x25519',
  );
  const off = Buffer.from(publicKeyDer(ec.publicKey));
  off[90] = (off[90] ?? 0) ^ 1;
  t.notOk(parseWorkloadPublicKey(off).ok, 'a point off the curve');
  t.notOk(parseWorkloadPublicKey(Buffer.concat([publicKeyDer(ec.publicKey), Buffer.of(0)])).ok);
  t.notOk(parseWorkloadPublicKey(Buffer.alloc(0)).ok);
  t.end();
});

t.test('parseCsr demands proof of possession (T03)', (t) => {
  const keys = createKeyPair();
  const other = createKeyPair();
  const refused = { ok: false, error: { code: 'MESH_CSR_INVALID' } };
  t.match(parseCsr(request(keys, { signer: other.privateKey })), refused, 'foreign signature');
  const ed = generateKeyPairSync('ed25519');
  t.match(parseCsr(request(keys, { signer: ed.privateKey })), refused, 'another kind of key');
  const sha1 = sequence(oid('1.2.840.10045.4.1'));
  t.match(parseCsr(request(keys, { algorithm: sha1 })), refused, 'SHA-1');
  const sha384 = sequence(oid('1.2.840.10045.4.3.3'));
  t.match(parseCsr(request(keys, { algorithm: sha384 })), refused, 'another digest than signed');
  const der = unwrap(parseOnePem('CERTIFICATE REQUEST', createCsr(web, keys)));
  const last = der.length - 1;
  der[last] = (der[last] ?? 0) ^ 1;
  const pem = formatPem('CERTIFICATE REQUEST', der);
  t.notOk(parseCsr(pem).ok, 'a flipped bit in the signature');
  t.end();
});

t.test('a request’s wishes have no effect on the certificate (T03)', async (t) => {
  const ca = await createTestCa();
  const evil = sequence(
    implicit(6, Buffer.from(spiffeId('admin', 'kube-system'))),
    implicit(2, Buffer.from('kubernetes.default')),
  );
  const shapes: readonly (readonly [string, RequestShape])[] = [
    ['none', {}],
    ['extra names', { attributes: [wishes(wish('2.5.29.17', evil))] }],
    ['CA:TRUE', { attributes: [wishes(wish('2.5.29.19', sequence(boolean(true))))] }],
    ['keyCertSign', { attributes: [wishes(wish('2.5.29.15', bitString(Buffer.of(0x06), 1)))] }],
    [
      'code signing',
      { attributes: [wishes(wish('2.5.29.37', sequence(oid('1.3.6.1.5.5.7.3.3'))))] },
    ],
    [
      'a common name',
      { subject: sequence(set(sequence(oid('2.5.4.3'), utf8String('spiffe://evil/ns/a/sa/b')))) },
    ],
    ['an unknown attribute', { attributes: [sequence(oid('1.2.3.4'), set(utf8String('x')))] }],
  ];
  const keys = createKeyPair();
  const bodies = new Set<string>();
  for (const [name, shape] of shapes) {
    const key = unwrap(parseCsr(request(keys, shape)));
    const issued = unwrap(ca.issue(key, web, DAY_MS));
    const leaf = unwrap(
      readCertificate(unwrap(parseOnePem('CERTIFICATE', issued.chainPem[0] ?? ''))),
    );
    t.same(
      leaf.names.map(({ tag, bytes }) => [tag, bytes.toString()]),
      [[URI_NAME_TAG, web]],
      name,
    );
    bodies.add(invariantParts(leaf.der).join());
  }
  t.equal(bodies.size, 1, 'byte for byte alike but for serial and validity');
});

t.test('parseCsr survives any bytes', (t) => {
  const der = unwrap(parseOnePem('CERTIFICATE REQUEST', createCsr(web, createKeyPair())));
  const codes = new Set(['MESH_DER_INVALID', 'MESH_CSR_INVALID']);
  const changes = fc.array(fc.tuple(fc.nat(der.length - 1), fc.nat(255)), {
    minLength: 1,
    maxLength: 3,
  });
  fc.assert(
    fc.property(changes, fc.nat(der.length), (list, cut) => {
      const copy = Buffer.from(der);
      for (const [at, byte] of list) copy[at] = byte;
      if (copy.equals(der)) return true;
      for (const bytes of [copy, der.subarray(0, cut)]) {
        const result = parseCsr(formatPem('CERTIFICATE REQUEST', bytes));
        if (result.ok ? !bytes.equals(der) : !codes.has(result.error.code)) return false;
      }
      return true;
    }),
    { numRuns: 300 },
  );
  t.match(parseCsr(''), { ok: false, error: { code: 'MESH_DER_INVALID' } });
  t.match(parseCsr(formatPem('CERTIFICATE REQUEST', Buffer.of(0x30, 0))), {
    ok: false,
    error: { code: 'MESH_CSR_INVALID' },
  });
  t.end();
});

t.test('parseCsr takes what openssl makes, and openssl what we make', needsOpenssl, (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-csr-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const path = (name: string): string => join(directory, name);
  const openssl = (...parameters: readonly string[]): string => {
    const run = spawnSync('openssl', parameters, { encoding: 'utf8' });
    if (run.status !== 0) throw new Error(run.stderr);
    return run.stdout + run.stderr;
  };
  for (const [name, ...key] of [
    ['P-256', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'],
    ['P-384', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'],
    ['Ed25519', 'ED25519'],
  ] as const) {
    openssl('genpkey', '-algorithm', ...key, '-out', path('key'));
    // As ztunnel asks: no subject, one critical URI name.
    openssl(
      'req',
      '-new',
      '-key',
      path('key'),
      '-subj',
      '/',
      '-out',
      path('csr'),
      '-addext',
      `subjectAltName=critical,URI:${web}`,
    );
    const result = parseCsr(readFileSync(path('csr'), 'utf8'));
    t.ok(result.ok, name);
    const der = spawnSync('openssl', ['pkey', '-in', path('key'), '-pubout', '-outform', 'DER']);
    if (result.ok) t.same(publicKeyDer(result.value), der.stdout, name);
  }
  openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', path('key'));
  openssl('req', '-new', '-key', path('key'), '-subj', '/CN=x', '-out', path('csr'));
  t.match(parseCsr(readFileSync(path('csr'), 'utf8')), {
    ok: false,
    error: { code: 'MESH_CSR_INVALID' },
  });
  writeFileSync(path('csr'), createCsr(web, createKeyPair()));
  const text = openssl('req', '-in', path('csr'), '-verify', '-noout', '-text');
  t.match(text, /verify OK/);
  t.match(text, new RegExp(`Subject: *\\n`));
  t.match(text, new RegExp(`critical\\s+URI:${web}`));
  t.end();
});
