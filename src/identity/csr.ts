/**
 * Certificate signing requests. We write the smallest one (a key and a critical URI SAN, as ztunnel does) and
 * believe the least of what we read: the public key, after its owner has proved to hold the private one.
 * Subject, SANs, CA flags and every other wish in a request are never looked at (T03).
 */

import type { KeyObject } from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import { fail, type Result } from '../base/result.ts';
import type { SpiffeId } from '../core/identity.ts';
import { DER, oidText, readDer, wholeBitString } from './der.ts';
import {
  bitString,
  boolean,
  encodeDer,
  encoded,
  explicit,
  implicit,
  integer,
  octetString,
  oid,
  sequence,
  set,
} from './der-writer.ts';
import {
  type KeyPair,
  parseWorkloadPublicKey,
  publicKeyDer,
  signatureAlgorithm,
  signWith,
  verifySignature,
} from './keys.ts';
import { OID } from './oids.ts';
import { formatPem, parseOnePem } from './pem.ts';

/** A PEM request for `identity`, signed with `keys`: empty subject, one critical URI SAN. */
export function createCsr(identity: SpiffeId, keys: KeyPair): string {
  const names = sequence(implicit(6, Buffer.from(identity, 'latin1')));
  const san = sequence(oid(OID.subjectAltName), boolean(true), octetString(encodeDer(names)));
  const wishes = sequence(oid(OID.extensionRequest), set(sequence(san)));
  const info = encodeDer(
    sequence(
      integer(Buffer.from([0])),
      sequence(),
      encoded(publicKeyDer(keys.publicKey)),
      explicit(0, wishes),
    ),
  );
  const signature = bitString(signWith(keys.privateKey, info));
  const request = sequence(encoded(info), signatureAlgorithm(keys.privateKey), signature);
  return formatPem('CERTIFICATE REQUEST', encodeDer(request));
}

/**
 * The public key of a PEM request whose self-signature holds: P-256, P-384 or Ed25519. Errors are
 * `MESH_DER_INVALID` (not readable) or `MESH_CSR_INVALID` (readable, refused).
 */
export function parseCsr(pem: string): Result<KeyObject> {
  const der = parseOnePem('CERTIFICATE REQUEST', pem);
  if (!der.ok) return der;
  const request = readDer(der.value);
  if (!request.ok) return request;
  const [info, algorithm, signatureBits] = request.value.children;
  const signature = wholeBitString(signatureBits);
  const algorithmId = algorithm?.children[0];
  const spki = info?.children[2];
  if (
    request.value.tag !== DER.SEQUENCE ||
    request.value.children.length !== 3 ||
    info?.tag !== DER.SEQUENCE ||
    spki?.tag !== DER.SEQUENCE ||
    algorithm?.tag !== DER.SEQUENCE ||
    algorithmId?.tag !== DER.OID ||
    signature === undefined
  ) {
    return refuse('it is not a certification request');
  }
  const key = parseWorkloadPublicKey(spki.raw);
  if (!key.ok) return key;
  if (!verifySignature(oidText(algorithmId), key.value, info.raw, signature)) {
    return refuse('its signature does not prove possession of the key');
  }
  return key;
}

function refuse(reason: string): Result<never> {
  return fail(new MeshError('MESH_CSR_INVALID', `Cannot accept CSR: ${reason}`));
}
