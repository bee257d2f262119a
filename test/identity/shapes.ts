/** Certificates the CA would never issue: one wrong part at a time, under a root of its own. */

import type { KeyObject } from 'node:crypto';

import { createSystemClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { buildRoot, keyIdOf } from '../../src/identity/certificate.ts';
import { readCertificate } from '../../src/identity/certificate-reader.ts';
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
  time,
} from '../../src/identity/der-writer.ts';
import {
  createKeyPair,
  type KeyPair,
  publicKeyDer,
  signatureAlgorithm,
  signWith,
} from '../../src/identity/keys.ts';
import { formatPem } from '../../src/identity/pem.ts';
import { DAY_MS, spiffeId } from './fixtures.ts';

/** What differs from a good leaf. */
export interface CertificateShape {
  readonly uris?: readonly Buffer[];
  /** Further GeneralNames as context tag and bytes. */
  readonly names?: readonly (readonly [tag: number, bytes: Buffer])[];
  readonly otherName?: Buffer;
  readonly areNamesCritical?: boolean;
  readonly isCa?: boolean;
  /** Content of the BIT STRING: unused bits, then bytes. */
  readonly keyUsage?: Buffer | 'absent';
  readonly isKeyUsageCritical?: boolean;
  readonly isKeyUsageTwice?: boolean;
  readonly purposes?: readonly string[] | 'absent';
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  readonly extraCritical?: boolean;
  readonly version?: number;
  /** Who signs it. Default: a new root. */
  readonly issuer?: { readonly keys: KeyPair; readonly certificate: Buffer };
}

export interface ShapedCertificate {
  readonly rootPem: string;
  readonly rootDer: Buffer;
  readonly leaf: Buffer;
}

export function buildCertificate(publicKey: KeyObject, shape: CertificateShape): ShapedCertificate {
  const nowMs = createSystemClock().wallMs();
  const random = createSystemRandom();
  const rootKeys = shape.issuer?.keys ?? createKeyPair();
  const life = { notBeforeMs: nowMs - DAY_MS, notAfterMs: nowMs + 2 * DAY_MS };
  const rootDer =
    shape.issuer?.certificate ?? buildRoot(rootKeys, 'cluster.local', 'shapes', life, random);
  const issuer = unwrap(readCertificate(rootDer));
  const algorithm = signatureAlgorithm(rootKeys.privateKey);
  const keyUsage = shape.keyUsage ?? Buffer.from([7, 0x80]);
  const usage = (content: Buffer): DerNode =>
    extension(
      '2.5.29.15',
      shape.isKeyUsageCritical ?? true,
      bitString(content.subarray(1), content[0]),
    );
  const purposes = shape.purposes ?? ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2'];
  const uris = shape.uris ?? [Buffer.from(spiffeId('web'))];
  const names = [
    ...uris.map((uri) => implicit(6, uri)),
    ...(shape.names ?? []).map(([tag, bytes]) => implicit(tag, bytes)),
    ...(shape.otherName === undefined
      ? []
      : [explicit(0, oid('1.3.6.1.4.1.311.20.2.3'), explicit(0, octetString(shape.otherName)))]),
  ];
  const extensions = [
    extension('2.5.29.19', true, sequence(...(shape.isCa === true ? [boolean(true)] : []))),
    ...(keyUsage === 'absent' ? [] : [usage(keyUsage)]),
    ...(keyUsage !== 'absent' && shape.isKeyUsageTwice === true ? [usage(keyUsage)] : []),
    ...(purposes === 'absent'
      ? []
      : [extension('2.5.29.37', false, sequence(...purposes.map((id) => oid(id))))]),
    ...(names.length === 0
      ? []
      : [extension('2.5.29.17', shape.areNamesCritical ?? true, sequence(...names))]),
    extension('2.5.29.14', false, octetString(keyIdOf(publicKeyDer(publicKey)))),
    ...(shape.extraCritical === true ? [extension('1.2.3.4.5', true, boolean(true))] : []),
  ];
  const body = encodeDer(
    sequence(
      explicit(0, integer(Buffer.of(shape.version ?? 2))),
      integer(random.bytes(16)),
      algorithm,
      encoded(issuer.subjectDer),
      sequence(time(shape.notBeforeMs ?? nowMs - 60_000), time(shape.notAfterMs ?? nowMs + DAY_MS)),
      sequence(),
      encoded(publicKeyDer(publicKey)),
      explicit(3, sequence(...extensions)),
    ),
  );
  const signature = bitString(signWith(rootKeys.privateKey, body));
  const leaf = encodeDer(sequence(encoded(body), algorithm, signature));
  return { rootPem: formatPem('CERTIFICATE', rootDer), rootDer, leaf };
}

function extension(id: string, isCritical: boolean, value: DerNode): DerNode {
  const flag = isCritical ? [boolean(true)] : [];
  return sequence(oid(id), ...flag, octetString(encodeDer(value)));
}
