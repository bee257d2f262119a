/**
 * Keys and signatures, every one of them by `node:crypto`: P-256 pairs for workloads, the allow-list of
 * public keys the CA certifies, and the signature algorithms we write and accept in DER.
 */

import {
  createPublicKey,
  generateKeyPairSync,
  sign as cryptoSign,
  verify as cryptoVerify,
  type KeyObject,
} from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { type DerNode, nullValue, oid, sequence } from './der-writer.ts';
import { OID } from './oids.ts';

export interface KeyPair {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

/** A fresh P-256 pair. Synchronous on purpose: 0.03 ms, less than a trip to the thread pool. */
export function createKeyPair(): KeyPair {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' });
}

/** PKCS #8 PEM. */
export function privateKeyPem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' });
}

/** SubjectPublicKeyInfo DER. */
export function publicKeyDer(key: KeyObject): Buffer {
  return key.export({ type: 'spki', format: 'der' });
}

/**
 * The first bytes and whole length of the SubjectPublicKeyInfo of each key the CA certifies (T03). Comparing
 * bytes leaves no room for explicit curve parameters, compressed points or a second reading of the DER.
 */
const ALLOWED_KEYS: readonly (readonly [prefix: Buffer, length: number])[] = [
  [Buffer.from('3059301306072a8648ce3d020106082a8648ce3d03010703420004', 'hex'), 91],
  [Buffer.from('3076301006072a8648ce3d020106052b8104002203620004', 'hex'), 120],
  [Buffer.from('302a300506032b6570032100', 'hex'), 44],
];

/**
 * A public key from outside: P-256, P-384 (named curve, uncompressed point) or Ed25519, nothing else. Errors
 * are `MESH_CSR_INVALID`.
 */
export function parseWorkloadPublicKey(spki: Buffer): Result<KeyObject> {
  const refuse = (reason: string): Result<never> =>
    fail(new MeshError('MESH_CSR_INVALID', `Cannot take public key: ${reason}`));
  const isAllowed = ALLOWED_KEYS.some(
    ([prefix, length]) => spki.length === length && spki.subarray(0, prefix.length).equals(prefix),
  );
  if (!isAllowed) return refuse('it is none of P-256, P-384 and Ed25519');
  try {
    // OpenSSL checks that the point is on the curve.
    return ok(createPublicKey({ key: spki, format: 'der', type: 'spki' }));
  } catch {
    return refuse('its point is not on the curve');
  }
}

interface SignatureAlgorithm {
  readonly oid: string;
  /** Digest for `node:crypto`; undefined where the algorithm has its own. */
  readonly digest: string | undefined;
  readonly keyType: string;
  readonly hasNullParameter: boolean;
}

const ALGORITHMS: readonly SignatureAlgorithm[] = [
  { oid: OID.ecdsaWithSha256, digest: 'sha256', keyType: 'ec', hasNullParameter: false },
  { oid: OID.ecdsaWithSha384, digest: 'sha384', keyType: 'ec', hasNullParameter: false },
  { oid: OID.ecdsaWithSha512, digest: 'sha512', keyType: 'ec', hasNullParameter: false },
  { oid: OID.ed25519, digest: undefined, keyType: 'ed25519', hasNullParameter: false },
  { oid: OID.rsaWithSha256, digest: 'sha256', keyType: 'rsa', hasNullParameter: true },
];

/** What `signWith` will use for this key. Throws `MESH_CERTIFICATE_INVALID` for a key we cannot sign with. */
function algorithmFor(key: KeyObject): SignatureAlgorithm {
  const curve = key.asymmetricKeyDetails?.namedCurve;
  const byCurve = curve === 'secp384r1' ? OID.ecdsaWithSha384 : OID.ecdsaWithSha256;
  const algorithm = ALGORITHMS.find(
    ({ keyType, oid: id }) =>
      keyType === key.asymmetricKeyType && (keyType !== 'ec' || id === byCurve),
  );
  if (algorithm === undefined || (keyIsEc(key) && !SIGNING_CURVES.has(curve ?? ''))) {
    const message = `Cannot sign with a key of type "${key.asymmetricKeyType} ${curve ?? ''}"`;
    throw new MeshError('MESH_CERTIFICATE_INVALID', message);
  }
  return algorithm;
}

const SIGNING_CURVES: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1']);

function keyIsEc(key: KeyObject): boolean {
  return key.asymmetricKeyType === 'ec';
}

/** The AlgorithmIdentifier that belongs to `signWith(key, …)`. */
export function signatureAlgorithm(key: KeyObject): DerNode {
  const { oid: id, hasNullParameter } = algorithmFor(key);
  return hasNullParameter ? sequence(oid(id), nullValue()) : sequence(oid(id));
}

/** Signs with the one algorithm that goes with the key: ECDSA P-256, P-384, Ed25519, or RSA with SHA-256. */
export function signWith(key: KeyObject, data: Buffer): Buffer {
  return cryptoSign(algorithmFor(key).digest, data, key);
}

/** Whether `signature` by `key` over `data` holds under the algorithm with this OID; false if unknown. */
export function verifySignature(
  algorithmOid: string,
  key: KeyObject,
  data: Buffer,
  signature: Buffer,
): boolean {
  const algorithm = ALGORITHMS.find(({ oid: id }) => id === algorithmOid);
  if (algorithm === undefined || algorithm.keyType !== key.asymmetricKeyType) return false;
  try {
    return cryptoVerify(algorithm.digest, data, key, signature);
  } catch {
    return false;
  }
}
